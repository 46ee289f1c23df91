"""Stores the embeddings of images, so that `tools.retrieve` finds their neighbours and classes by them.

  python -m imgcls_jax.tools.index --workdir runs/birds FOLDER...

An image's class is the folder that holds it: the first below FOLDER, or FOLDER itself. No training is needed
for a class that the network never saw: index a folder of its images with `--add`, which keeps what is there
and replaces images indexed before. The index is `<workdir>/index.npz`. Exit status: 0 all stored, 1 some
could not be read, 2 none or a mistake in the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from imgcls_jax.runtime.command import (
    add_batch_size,
    add_workdir,
    command,
    exit_with,
    importing,
    parser_of,
    tell,
    user_path,
)
from imgcls_jax.runtime.names import printable

with importing(__name__):
    import numpy as np

    from imgcls_jax.inference import index as indices
    from imgcls_jax.inference.trained import load


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("index", __doc__)
    parser.add_argument("folders", nargs="+", type=user_path, metavar="FOLDER", help="of images")
    add_workdir(parser)
    parser.add_argument("--add", action="store_true", help="to the index that is there")
    add_batch_size(parser)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    for folder in arguments.folders:
        if not folder.exists():
            raise ValueError(f"{folder} does not exist")
    trained = load(arguments.workdir, arguments.checkpoint)
    old = indices.read(arguments.workdir, trained.step) if arguments.add else None
    index, errors = indices.build(trained, arguments.folders, batch_size=arguments.batch_size)
    for file, error in errors.items():
        tell(f"{file}: {error}")
    if old is not None:
        index = indices.joined(old, index)
    file = indices.write(arguments.workdir, index)
    print(printable(f"{file}: {len(index.path)} images of {len(np.unique(index.label))} classes"))
    return 1 if errors else 0


if __name__ == "__main__":
    exit_with(main)
