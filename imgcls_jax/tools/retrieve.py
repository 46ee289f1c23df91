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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.data.image_files import find_images
from imgcls_jax.evaluators.knn import nearest, vote
from imgcls_jax.tools import exit_with
from imgcls_jax.tools.index import Index, read
from imgcls_jax.train.trained import Trained, embedding, load


def retrieve(
    trained: Trained, index: Index, paths: Sequence[Path], *,
    k: int, temperature: float, unknown_below: float = -1.0, batch_size: int,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yields an answer a file, in order.

    Args:
      trained, index: the network and the embeddings it made.
      paths: of images.
      k: neighbours, at most all of the index.
      temperature: of the vote, positive.
      unknown_below: where the nearest neighbour's cosine is less than this, the class is None.
      batch_size: files at a time.

    Yields:
      {"path", "class", "neighbours": [{"path", "class", "similarity"}, ...]}, the most alike first, or
      {"path", "error"}.
    """
    found = list(trained.outputs_of_files(paths, embedding, batch_size=batch_size))
    queries = [output for _, output, error in found if not error]
    if queries and len(queries[0]) != index.embedding.shape[1]:
        raise ValueError(
            "the index holds embeddings of another network: make it anew by imgcls_jax.tools.index"
        )
    if queries:
        similarity, position = nearest(np.stack(queries), index.embedding, k=min(k, len(index.path)))
        names, classes = np.unique(index.label, return_inverse=True)
        scores = vote(similarity, classes[position], num_classes=len(names), temperature=temperature)
    row = 0
    for path, _, error in found:
        if error:
            yield {"path": str(path), "error": error}
            continue
        neighbours = [
            {"path": str(index.path[i]), "class": str(index.label[i]), "similarity": float(cosine)}
            for cosine, i in zip(similarity[row], position[row], strict=True)
        ]
        known = similarity[row, 0] >= unknown_below
        label = str(names[scores[row].argmax()]) if known else None
        yield {"path": str(path), "class": label, "neighbours": neighbours}
        row += 1


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
