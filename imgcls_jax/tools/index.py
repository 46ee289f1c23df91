"""Stores the embeddings of images, so that `tools.retrieve` finds their neighbours and classes by them.

  python -m imgcls_jax.tools.index --workdir runs/birds FOLDER...

An image's class is the folder that holds it: the first below FOLDER, or FOLDER itself. No training is needed
for a class that the network never saw: index a folder of its images with `--add`, which keeps what is there
and replaces images indexed before. The index is `<workdir>/index.npz`. Exit status: 0 all stored, 1 some
could not be read, 2 none or a mistake in the command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imgcls_jax.inference import index as indices
from imgcls_jax.inference.trained import load
from imgcls_jax.runtime.command import exit_with


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m imgcls_jax.tools.index", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--workdir", required=True, help="of a training run")
    parser.add_argument("--checkpoint", default="latest", help="'latest' (default), 'best' or a step")
    parser.add_argument("--add", action="store_true", help="to the index that is there")
    parser.add_argument("--batch_size", type=int, default=32)
    arguments = parser.parse_args(argv)
    if arguments.batch_size < 1:
        parser.error("--batch_size is at least 1")
    missing = [folder for folder in arguments.folders if not folder.exists()]
    try:
        if missing:
            raise ValueError(f"{missing[0]} does not exist")
        trained = load(arguments.workdir, arguments.checkpoint)
        old = indices.read(arguments.workdir, trained.step) if arguments.add else None
        index, errors = indices.build(trained, arguments.folders, batch_size=arguments.batch_size)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path, error in errors.items():
        print(f"{path}: {error}", file=sys.stderr)
    if old is not None:
        index = indices.joined(old, index)
    file = indices.write(arguments.workdir, index)
    print(f"{file}: {len(index.path)} images of {len(np.unique(index.label))} classes")
    return 1 if errors else 0


if __name__ == "__main__":
    exit_with(main)
