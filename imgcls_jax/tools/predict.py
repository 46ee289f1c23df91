"""Predicts the classes of image files with a trained workdir.

  python -m imgcls_jax.tools.predict --workdir runs/digits IMAGE... | FOLDER [--top_k 3] [--format
  table|json|csv]

With `--exported FOLDER` instead, by a network that `tools.export` wrote, without what training needs. Given
several times, either flag makes an ensemble: the mean of the networks' probabilities.

Where an image has any number of labels, all those of a probability of `--threshold` or more are printed, and
"none" where there is no such label; `--top_k` says how many at most, and alone prints so many whatever their
probability.

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

from imgcls_jax.runtime.command import (
    add_batch_size,
    add_checkpoint,
    at_least_one,
    command,
    exit_with,
    importing,
    parser_of,
    share,
    tell,
    user_path,
    workdir_path,
)
from imgcls_jax.runtime.names import csv_cell, printable
from imgcls_jax.runtime.progress import tracked

with importing(__name__):
    from imgcls_jax.data.image_files import FileOutput, find_images, outputs_of_files
    from imgcls_jax.inference.mean import mean_of_files, require_same_classes
    from imgcls_jax.inference.named_classes import THRESHOLD, chosen_by, named_classes


def named(
    found: Iterable[FileOutput],
    class_names: Sequence[str],
    top_k: int | None,
    *,
    threshold: float = 0.0,
    unknown_below: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """Yields, in order, {"path", "predictions": [{"class", "probability"}, ...]} or {"path", "error"}.

    Args:
      found: a file's probabilities float [K] each.
      class_names, top_k, threshold, unknown_below: as of named_classes.
    """
    for file, row, error in found:
        if error:
            yield {"path": str(file), "error": error}
            continue
        predictions = named_classes(row, class_names, top_k, threshold=threshold, unknown_below=unknown_below)
        yield {"path": str(file), "predictions": predictions}


def outputs_of(
    arguments: argparse.Namespace, paths: Sequence[Path]
) -> tuple[Iterable[FileOutput], Sequence[str], bool]:
    """Returns what the networks named on the command line say of files, their class names, and whether an
    image has any number of labels.

    Raises:
      ValueError: no such workdir, checkpoint or folder, or networks of other classes.
    """
    names = arguments.exported or arguments.workdir
    of_one = _of_exported if arguments.exported else _of_workdir
    found = [of_one(name, arguments, paths) for name in names]
    if len(found) == 1:
        return found[0]
    outputs, class_names, multi_label = zip(*found, strict=True)
    require_same_classes(list(map(str, names)), class_names)
    if len(set(multi_label)) > 1:
        raise ValueError("an ensemble is of networks that all give one label, or all any number of them")
    return mean_of_files(outputs), class_names[0], multi_label[0]


def _of_exported(
    folder: Path, arguments: argparse.Namespace, paths: Sequence[Path]
) -> tuple[Iterable[FileOutput], Sequence[str], bool]:
    from imgcls_jax.inference import export

    network = export.read(folder)
    found = outputs_of_files(
        paths,
        network.eval_transforms,
        network.image_shape,
        lambda images: network.function(images)["probabilities"],
        batch_size=arguments.batch_size,
    )
    return found, network.class_names, network.multi_label


def _of_workdir(
    workdir: Path, arguments: argparse.Namespace, paths: Sequence[Path]
) -> tuple[Iterable[FileOutput], Sequence[str], bool]:
    # Here, so that an exported network is used without what training needs.
    from imgcls_jax.inference.trained import load, probabilities

    trained = load(workdir, arguments.checkpoint)
    found = trained.outputs_of_files(paths, probabilities, batch_size=arguments.batch_size)
    return found, trained.class_names, trained.objective.multi_label


def write_table(results: Sequence[dict[str, Any]], out: TextIO, nothing: str = "unknown") -> None:
    """Writes a line a path: its classes with their probabilities, or `nothing`; unreadable files are left
    out."""
    good = [result for result in results if "predictions" in result]
    names = [printable(result["path"]) for result in good]
    width = max(map(len, names), default=0)
    for name, result in zip(names, good, strict=True):
        shown = "  ".join(f"{p['class']} {p['probability']:.4f}" for p in result["predictions"]) or nothing
        out.write(f"{name:<{width}}  {printable(shown)}\n")


def write_csv(results: Sequence[dict[str, Any]], out: TextIO) -> None:
    """Writes path, rank, class, probability, error: a line a prediction, or one with the error; for an
    image of no class one with neither. Names are made safe for terminals and spreadsheets; JSON has them as
    they are."""
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
    network.add_argument(
        "--workdir", type=workdir_path, action="append", help="of a training run; several make an ensemble"
    )
    network.add_argument(
        "--exported",
        type=workdir_path,
        action="append",
        help="folder that tools.export wrote; several make an ensemble",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--top_k",
        type=at_least_one,
        help="classes to print for each image (default 1; of several labels all)",
    )
    parser.add_argument(
        "--threshold",
        type=share,
        help=f"print classes from this probability on (default: {THRESHOLD} of several labels)",
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
    found, class_names, multi_label = outputs_of(arguments, paths)
    found = tracked(found, "predicting", len(paths))
    top_k, threshold = chosen_by(arguments.top_k, arguments.threshold, multi_label=multi_label)
    results = list(
        named(found, class_names, top_k, threshold=threshold, unknown_below=arguments.unknown_below)
    )
    for result in results:
        if "error" in result:
            tell(f"{result['path']}: {result['error']}")
    if arguments.format == "json":
        print(json.dumps(results, indent=2))
    elif arguments.format == "csv":
        write_csv(results, sys.stdout)
    else:
        write_table(results, sys.stdout, "none" if multi_label else "unknown")
    failed = sum("error" in result for result in results)
    return 2 if failed == len(results) else 1 if failed else 0


if __name__ == "__main__":
    exit_with(main)
