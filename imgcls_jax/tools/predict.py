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

from imgcls_jax.data import transforms
from imgcls_jax.train.trained import Trained, load

IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".jp2",
    ".avif",
)


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Returns the files named, and those below the folders named that have an image's suffix, sorted."""
    paths: list[Path] = []
    for argument in map(Path, arguments):
        if argument.is_dir():
            paths += sorted(
                path
                for path in argument.rglob("*")
                if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
            )
        else:
            paths.append(argument)
    return paths


def host_operations(trained: Trained) -> tuple[Any, ...]:
    """Returns the host side of the evaluation line, made fit for files where the run read arrays.

    Such a run (digits, MNIST, CIFAR) has no line for decoding: its images are brought to the arrays' size and
    colours.
    """
    ops = trained.data.eval_host
    if ops:
        return ops
    height, width, channels = trained.source_shape
    colours = "grey()" if channels == 1 else "rgb()"
    return transforms.parse(f"decode | {colours} | resize({height}, {width})")[0]


def predict_files(
    trained: Trained, paths: Sequence[Path], *, top_k: int, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yields, in order, {"path", "predictions": [{"class", "probability"}, ...]} or {"path", "error"}."""
    ops = host_operations(trained)
    top_k = min(top_k, trained.task.num_classes)

    @jax.jit
    def probabilities(params: Any, carry: Any, images: jax.Array) -> jax.Array:
        outputs = trained.predict(params, carry, {"image": images})
        if "probabilities" in outputs:
            return outputs["probabilities"]
        return jax.nn.softmax(outputs["logits"])

    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        images, errors = _read(batch, ops, trained.source_shape)
        padded = np.zeros((batch_size, *trained.source_shape), np.uint8)
        padded[: len(images)] = images
        rows = iter(np.asarray(probabilities(trained.params, trained.carry, padded))[: len(images)])
        for path in batch:
            if path in errors:
                yield {"path": str(path), "error": errors[path]}
                continue
            row = next(rows)
            best = np.argsort(-row, kind="stable")[:top_k]
            yield {
                "path": str(path),
                "predictions": [
                    {"class": trained.class_names[k], "probability": float(row[k])} for k in best
                ],
            }


def _read(
    paths: Sequence[Path], ops: Sequence[Any], shape: tuple[int, ...]
) -> tuple[np.ndarray, dict[Path, str]]:
    """Returns the readable images, uint8 [n, H, W, C], and why the others are not."""
    images, errors = [], {}
    for path in paths:
        try:
            image = transforms.apply(ops, path.read_bytes(), np.random.default_rng(0))
            if image.shape != shape:
                raise ValueError(f"became {image.shape} by data.eval_transforms, the network expects {shape}")
            images.append(image)
        except (OSError, ValueError) as error:
            errors[path] = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return np.array(images, np.uint8).reshape(-1, *shape), errors


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
