"""Finds the images most like an image among those of an index, and its class by their vote.

  python -m imgcls_jax.tools.retrieve --workdir runs/birds IMAGE... | FOLDER [--k 10] [--format table|json]

`tools.index` makes the index. Likeness is the cosine of two embeddings, the search exact; the k neighbours
vote for their classes with the weights exp(cosine / temperature). With `--unknown_below` an image whose
nearest neighbour is less alike has no class: it is unknown. Exit status: 0 all answered, 1 some could
not be read, 2 none or a mistake in the command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from imgcls_jax.runtime.command import (
    add_batch_size,
    add_workdir,
    at_least_one,
    command,
    exit_with,
    importing,
    parser_of,
    tell,
    user_path,
)
from imgcls_jax.runtime.names import printable

with importing(__name__):
    from imgcls_jax.data.image_files import find_images
    from imgcls_jax.inference.index import read, retrieve
    from imgcls_jax.inference.trained import load


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("retrieve", __doc__)
    parser.add_argument("images", nargs="+", type=user_path, metavar="IMAGE|FOLDER")
    add_workdir(parser, "of a training run that has an index")
    parser.add_argument("--k", type=at_least_one, default=10, help="neighbours (default 10)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the vote (default 0.07)")
    parser.add_argument(
        "--unknown_below", type=float, default=-1.0, help="name no class where the largest cosine is less"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    add_batch_size(parser)
    arguments = parser.parse_args(argv)
    if not arguments.temperature > 0:
        parser.error("--temperature is positive")
    return arguments


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    paths = find_images(list(map(str, arguments.images)))
    if not paths:
        raise ValueError(f"no image files in {', '.join(map(str, arguments.images))}")
    trained = load(arguments.workdir, arguments.checkpoint)
    index = read(arguments.workdir, trained.step)
    names = ("k", "temperature", "unknown_below", "batch_size")
    options = {name: getattr(arguments, name) for name in names}
    answers = list(retrieve(trained, index, paths, **options))
    if arguments.format == "json":
        print(json.dumps(answers, indent=2))
    for answer in answers:
        if "error" in answer:
            tell(f"{answer['path']}: {answer['error']}")
        elif arguments.format == "table":
            write_answer(answer)
    failed = sum("error" in answer for answer in answers)
    return 2 if failed == len(answers) else 1 if failed else 0


def write_answer(answer: dict[str, Any]) -> None:
    """Prints an image with its class, and a line for each of its neighbours."""
    print(printable(f"{answer['path']}  {answer['class'] or 'unknown'}"))
    for neighbour in answer["neighbours"]:
        print(printable(f"  {neighbour['similarity']:.4f}  {neighbour['class']}  {neighbour['path']}"))


if __name__ == "__main__":
    exit_with(main)
