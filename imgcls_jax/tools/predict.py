"""Predicts the classes of image files with a trained workdir.

  python -m imgcls_jax.tools.predict --workdir runs/digits IMAGE... | FOLDER [--top_k 3] [--format
  table|json|csv]

With `--exported FOLDER` instead, by a network that `tools.export` wrote, without what training needs.

With `--unknown_below` an image of which the network is not that sure is said to be unknown; the evaluator
`open_set` tells what threshold lets which part of known images through. An image goes through the run's own
evaluation line of transforms. What cannot be read is reported on standard error, and in JSON and CSV in its
place; the rest is predicted all the same. Exit status: 0 all predicted, 1 some could not be read, 2 none or a
mistake in the command.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from imgcls_jax.data.image_files import FileOutput, find_images, outputs_of_files
from imgcls_jax.runtime.command import (
    add_batch_size,
    add_checkpoint,
    at_least_one,
    command,
    exit_with,
    parser_of,
    tell,
    user_path,
)
from imgcls_jax.runtime.names import csv_cell, printable
from imgcls_jax.runtime.progress import tracked


def named(
    found: Iterable[FileOutput], class_names: Sequence[str], top_k: int, unknown_below: float = 0.0
) -> Iterator[dict[str, Any]]:
    """Yields, in order, {"path", "predictions": [{"class", "probability"}, ...]} or {"path", "error"}.

    Args:
      found: a file's probabilities float [K] each.
      class_names: K names.
      top_k: how many predictions, at most K.
      unknown_below: where even the largest probability is below this, no class is named: predictions is [].
    """
    for file, row, error in found:
        if error:
            yield {"path": str(file), "error": error}
            continue
        best = np.argsort(-row, kind="stable")[:top_k] if row.max() >= unknown_below else ()
        predictions = [{"class": class_names[k], "probability": float(row[k])} for k in best]
        yield {"path": str(file), "predictions": predictions}


def outputs_of(arguments: argparse.Namespace, paths: Sequence[Path]) -> tuple[Iterator[FileOutput], Any]:
    """Returns what the network named on the command line says of files, and its class names.

    Raises:
      ValueError: no such workdir, checkpoint or folder.
    """
    if arguments.exported:
        from imgcls_jax.inference import export

        network = export.read(arguments.exported)
        found = outputs_of_files(
            paths,
            network.eval_transforms,
            network.image_shape,
            lambda images: network.function(images)["probabilities"],
            batch_size=arguments.batch_size,
        )
        return found, network.class_names
    # Here, so that an exported network is used without what training needs.
    from imgcls_jax.inference.trained import load, probabilities

    trained = load(arguments.workdir, arguments.checkpoint)
    found = trained.outputs_of_files(paths, probabilities, batch_size=arguments.batch_size)
    return found, trained.class_names


def write_table(results: Sequence[dict[str, Any]], out: TextIO) -> None:
    """Writes a line a path: its classes with their probabilities; unreadable files are left out."""
    good = [result for result in results if "predictions" in result]
    names = [printable(result["path"]) for result in good]
    width = max(map(len, names), default=0)
    for name, result in zip(names, good, strict=True):
        shown = "  ".join(f"{p['class']} {p['probability']:.4f}" for p in result["predictions"]) or "unknown"
        out.write(f"{name:<{width}}  {printable(shown)}\n")


def write_csv(results: Sequence[dict[str, Any]], out: TextIO) -> None:
    """Writes path, rank, class, probability, error: a line a prediction, or one with the error; for an
    unknown image one with neither. Names are made safe for terminals and spreadsheets; JSON has them as they
    are."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability", "error"])
    for result in results:
        name = csv_cell(result["path"])
        for rank, p in enumerate(result.get("predictions", ()), start=1):
            writer.writerow([name, rank, csv_cell(p["class"]), f"{p['probability']:.6f}", ""])
        if not result.get("predictions"):
            writer.writerow([name, "", "", "", csv_cell(result.get("error", ""))])


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("predict", __doc__)
    parser.add_argument("images", nargs="+", type=user_path, metavar="IMAGE|FOLDER")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--workdir", type=user_path, help="of a training run")
    network.add_argument("--exported", type=user_path, help="folder that tools.export wrote")
    add_checkpoint(parser)
    parser.add_argument(
        "--top_k", type=at_least_one, default=1, help="classes to print for each image (default 1)"
    )
    parser.add_argument(
        "--unknown_below", type=float, default=0.0, help="name no class where the largest probability is less"
    )
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table")
    add_batch_size(parser)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    paths = find_images(list(map(str, arguments.images)))
    if not paths:
        raise ValueError(f"no image files in {', '.join(map(str, arguments.images))}")
    found, class_names = outputs_of(arguments, paths)
    found = tracked(found, "predicting", len(paths))
    results = list(named(found, class_names, arguments.top_k, arguments.unknown_below))
    for result in results:
        if "error" in result:
            tell(f"{result['path']}: {result['error']}")
    if arguments.format == "json":
        print(json.dumps(results, indent=2))
    else:
        (write_csv if arguments.format == "csv" else write_table)(results, sys.stdout)
    failed = sum("error" in result for result in results)
    return 2 if failed == len(results) else 1 if failed else 0


if __name__ == "__main__":
    exit_with(main)
