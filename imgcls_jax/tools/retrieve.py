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
import sys
from collections.abc import Sequence

from imgcls_jax.data.image_files import find_images
from imgcls_jax.inference.index import read, retrieve
from imgcls_jax.inference.trained import load
from imgcls_jax.runtime.command import exit_with


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m imgcls_jax.tools.retrieve", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER")
    parser.add_argument("--workdir", required=True, help="of a training run that has an index")
    parser.add_argument("--checkpoint", default="latest", help="'latest' (default), 'best' or a step")
    parser.add_argument("--k", type=int, default=10, help="neighbours (default 10)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the vote (default 0.07)")
    parser.add_argument(
        "--unknown_below", type=float, default=-1.0, help="name no class where the largest cosine is less"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--batch_size", type=int, default=32)
    arguments = parser.parse_args(argv)
    if min(arguments.k, arguments.batch_size) < 1 or not arguments.temperature > 0:
        parser.error("--k and --batch_size are at least 1, --temperature is positive")
    paths = find_images(arguments.images)
    try:
        if not paths:
            raise ValueError(f"no image files in {', '.join(arguments.images)}")
        trained = load(arguments.workdir, arguments.checkpoint)
        index = read(arguments.workdir, trained.step)
        names = ("k", "temperature", "unknown_below", "batch_size")
        options = {name: getattr(arguments, name) for name in names}
        answers = list(retrieve(trained, index, paths, **options))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.format == "json":
        print(json.dumps(answers, indent=2))
    for answer in answers:
        if "error" in answer:
            print(f"{answer['path']}: {answer['error']}", file=sys.stderr)
        elif arguments.format == "table":
            print(f"{answer['path']}  {answer['class'] or 'unknown'}")
            for neighbour in answer["neighbours"]:
                print(f"  {neighbour['similarity']:.4f}  {neighbour['class']}  {neighbour['path']}")
    failed = sum("error" in answer for answer in answers)
    return 2 if failed == len(answers) else 1 if failed else 0


if __name__ == "__main__":
    exit_with(main)
