"""Predicts the classes of image files with a trained workdir.

  python -m imgcls_jax.tools.predict --workdir runs/digits IMAGE... | FOLDER [--top_k 3] [--format
  table|json|csv]

An image goes through the run's own evaluation line of transforms. What cannot be read is reported on standard
error, and in JSON and CSV in its place; the rest is predicted all the same. Exit status: 0 all predicted, 1
some could not be read, 2 none or a mistake in the command.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from imgcls_jax.train.image_files import find_images, outputs_of_files
from imgcls_jax.train.trained import Trained, load


def predict_files(
    trained: Trained, paths: Sequence[Path], *, top_k: int, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yields, in order, {"path", "predictions": [{"class", "probability"}, ...]} or {"path", "error"}."""
    top_k = min(top_k, trained.task.num_classes)

    def probabilities(outputs: dict[str, jax.Array]) -> jax.Array:
        return outputs["probabilities"] if "probabilities" in outputs else jax.nn.softmax(outputs["logits"])

    for path, row, error in outputs_of_files(trained, paths, probabilities, batch_size=batch_size):
        if error:
            yield {"path": str(path), "error": error}
            continue
        best = np.argsort(-row, kind="stable")[:top_k]
        predictions = [{"class": trained.class_names[k], "probability": float(row[k])} for k in best]
        yield {"path": str(path), "predictions": predictions}


def write_table(results: Sequence[dict[str, Any]], out: TextIO) -> None:
    """Writes a line a path: its classes with their probabilities; unreadable files are left out."""
    good = [result for result in results if "predictions" in result]
    width = max((len(result["path"]) for result in good), default=0)
    for result in good:
        shown = "  ".join(f"{p['class']} {p['probability']:.4f}" for p in result["predictions"])
        out.write(f"{result['path']:<{width}}  {shown}\n")


def write_csv(results: Sequence[dict[str, Any]], out: TextIO) -> None:
    """Writes path, rank, class, probability, error: a line a prediction, or one with the error."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability", "error"])
    for result in results:
        for rank, p in enumerate(result.get("predictions", ()), start=1):
            writer.writerow([result["path"], rank, p["class"], f"{p['probability']:.6f}", ""])
        if "error" in result:
            writer.writerow([result["path"], "", "", "", result["error"]])


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m imgcls_jax.tools.predict", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER")
    parser.add_argument("--workdir", required=True, help="of a training run")
    parser.add_argument("--checkpoint", default="latest", help="'latest' (default), 'best' or a step")
    parser.add_argument("--top_k", type=int, default=1, help="classes to print for each image (default 1)")
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
        trained = load(arguments.workdir, arguments.checkpoint)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = list(predict_files(trained, paths, top_k=arguments.top_k, batch_size=arguments.batch_size))
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
    sys.exit(main())
