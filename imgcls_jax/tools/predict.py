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
from imgcls_jax.runtime.command import exit_with


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
    for path, row, error in found:
        if error:
            yield {"path": str(path), "error": error}
            continue
        best = np.argsort(-row, kind="stable")[:top_k] if row.max() >= unknown_below else ()
        predictions = [{"class": class_names[k], "probability": float(row[k])} for k in best]
        yield {"path": str(path), "predictions": predictions}


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
    width = max((len(result["path"]) for result in good), default=0)
    for result in good:
        shown = "  ".join(f"{p['class']} {p['probability']:.4f}" for p in result["predictions"]) or "unknown"
        out.write(f"{result['path']:<{width}}  {shown}\n")


def write_csv(results: Sequence[dict[str, Any]], out: TextIO) -> None:
    """Writes path, rank, class, probability, error: a line a prediction, or one with the error; for an
    unknown image one with neither."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability", "error"])
    for result in results:
        for rank, p in enumerate(result.get("predictions", ()), start=1):
            writer.writerow([result["path"], rank, p["class"], f"{p['probability']:.6f}", ""])
        if not result.get("predictions"):
            writer.writerow([result["path"], "", "", "", result.get("error", "")])


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m imgcls_jax.tools.predict", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--workdir", help="of a training run")
    network.add_argument("--exported", help="folder that tools.export wrote")
    parser.add_argument("--checkpoint", default="latest", help="'latest' (default), 'best' or a step")
    parser.add_argument("--top_k", type=int, default=1, help="classes to print for each image (default 1)")
    parser.add_argument(
        "--unknown_below", type=float, default=0.0, help="name no class where the largest probability is less"
    )
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table")
    parser.add_argument("--batch_size", type=int, default=32)
    arguments = parser.parse_args(argv)
    if arguments.top_k < 1 or arguments.batch_size < 1:
        parser.error("--top_k and --batch_size are at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    paths = find_images(arguments.images)
    if not paths:
        print(f"error: no image files in {', '.join(arguments.images)}", file=sys.stderr)
        return 2
    try:
        found, class_names = outputs_of(arguments, paths)
        results = list(named(found, class_names, arguments.top_k, arguments.unknown_below))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for result in results:
        if "error" in result:
            print(f"{result['path']}: {result['error']}", file=sys.stderr)
    if arguments.format == "json":
        print(json.dumps(results, indent=2))
    else:
        (write_csv if arguments.format == "csv" else write_table)(results, sys.stdout)
    failed = sum("error" in result for result in results)
    return 2 if failed == len(results) else 1 if failed else 0


if __name__ == "__main__":
    exit_with(main)
