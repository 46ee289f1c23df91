"""Fits and uses a Part R-CNN: finds a bird, its head and its body, and classifies the three together.

  python -m imgcls_jax.tools.part_rcnn fit CUB_200_2011 runs/parts --config configs/cub_transfer.py \\
    --config.model.pretrained=mobilenet_v2_1.0_224_folded.npz
  python -m imgcls_jax.tools.part_rcnn fit CUB_200_2011 runs/parts --workdir runs/root [--head_workdir
  runs/head] [--body_workdir runs/body]
  python -m imgcls_jax.tools.part_rcnn predict runs/parts IMAGE... | FOLDER [--picture regions.png]

`fit` reads CUB-200-2011 in its official layout. The network is that of a configuration, with its pretrained
weights, or of a training run; head and body may have networks of their own, fine-tuned with
`--config.data.region=head`. It writes `part_rcnn.npz`, which holds all that `predict` needs, and
`result.json`, and prints a table: the true boxes, the box constraint and the two priors of the parts' places.
`predict` looks for the bird itself. Exit status: 0 all done, 1 some images could not be read, 2 none or a
mistake in the command.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from imgcls_jax.config import compare
from imgcls_jax.config.files import read_config, split_overrides
from imgcls_jax.config.resolve import resolve
from imgcls_jax.data import proposals
from imgcls_jax.data.image_files import find_images
from imgcls_jax.data.sources.cub200 import Cub200
from imgcls_jax.figures import part_boxes
from imgcls_jax.figures.network_input import check_count
from imgcls_jax.inference.array_file import digest
from imgcls_jax.inference.part_rcnn import stored
from imgcls_jax.inference.part_rcnn.fit import Metrics, fit, measure
from imgcls_jax.inference.part_rcnn.model import CHOICES, Options
from imgcls_jax.inference.part_rcnn.predict import predict
from imgcls_jax.inference.part_rcnn.trunk import Trunk, of_configuration, of_workdir
from imgcls_jax.runtime.command import (
    add_checkpoint,
    at_least_one,
    command,
    exit_with,
    parser_of,
    tell,
    user_path,
    workdir_path,
)
from imgcls_jax.runtime.environment import environment
from imgcls_jax.runtime.files import naming, write_json
from imgcls_jax.runtime.names import printable
from imgcls_jax.runtime.progress import tracked

ROWS = {
    "root": "the bird's true box alone",
    "oracle": "true bird, head and body",
    "given_box": "true bird; parts by the box constraint",
    "given_mg": "true bird; parts by the prior MG",
    "given_np": "true bird; parts by the prior NP",
    "found_root": "the bird found, alone",
    "found_box": "all found; the box constraint",
    "found_mg": "all found; the prior MG",
    "found_np": "all found; the prior NP",
}


def trunks_of(arguments: argparse.Namespace) -> list[Trunk]:
    """Returns the networks of root, head and body that the command line names."""
    if arguments.config is not None:
        if arguments.head_workdir or arguments.body_workdir:
            raise ValueError("--head_workdir and --body_workdir stand beside --workdir, not --config")
        trunk = of_configuration(resolve(read_config([f"--config={arguments.config}", *arguments.overrides])))
        return [trunk, trunk, trunk]
    if arguments.overrides:
        raise ValueError(f"{arguments.overrides[0]}: overrides stand beside --config, not --workdir")
    root = of_workdir(arguments.workdir, arguments.checkpoint)
    others = (arguments.head_workdir, arguments.body_workdir)
    return [root, *(root if other is None else of_workdir(other, arguments.checkpoint) for other in others)]


def run_fit(arguments: argparse.Namespace) -> int:
    """Fits, measures and writes; returns the exit status."""
    started, output = time.monotonic(), arguments.output
    if (output / "config.json").exists():
        raise ValueError(f"{output} is the workdir of a training run: choose another output")
    method = arguments.proposals
    if method == "auto":
        method = "selective_search" if proposals.has_selective_search() else "grid"
    names = ("padding", "slack", "alpha", "neighbours")
    options = Options(method, **{name: getattr(arguments, name) for name in names})
    proposals.proposer(method)  # what it needs is missing now, not in ten minutes
    train, test = (Cub200(split, root=arguments.folder) for split in ("train", "test"))
    model, root_alone = fit(train, trunks_of(arguments), options, seed=arguments.seed, tell=tell)
    metrics = measure(model, root_alone, test)
    output.mkdir(parents=True, exist_ok=True)
    arrays = stored.to_arrays(model)
    file = stored.write(output, arrays)
    config = {
        "train": {"seed": arguments.seed},
        "data": {"source": "cub200", "root": str(arguments.folder)},
        "part_rcnn": dataclasses.asdict(options) | {"networks": stored.networks(model)},
    }
    result = {
        "metrics": metrics,
        "steps": 0,
        "bad_examples": 0,
        "config": config,
        "config_digest": compare.digest(config),
        "state_digest": digest(arrays),
        **environment(),
        "wall_seconds": time.monotonic() - started,
    }
    write_json(output / "result.json", result, way_out="")
    print(printable(f"{file}: fitted to {len(train)} images, measured on {len(test)}, {method} proposals"))
    print(table(metrics))
    return 0


def table(metrics: Metrics) -> str:
    """Returns the rows of the measurement as text."""
    width = max(map(len, ROWS.values()))
    lines = [f"{'':<10}  {'':<{width}}  accuracy  found: root   head   body"]
    for name, words in ROWS.items():
        row = metrics[name]
        shares = [row.get(f"{region}_found") for region in ("root", "head", "body")]
        shown = "  ".join(f"{'-':>5}" if share is None else f"{share:5.3f}" for share in shares)
        lines.append(f"{name:<10}  {words:<{width}}  {row['accuracy']:8.4f}        {shown}")
    return "\n".join(lines)


def run_predict(arguments: argparse.Namespace) -> int:
    """Predicts image files; returns the exit status."""
    paths = find_images(list(map(str, arguments.images)))
    if not paths:
        raise ValueError(f"no image files in {', '.join(map(str, arguments.images))}")
    if arguments.picture:
        check_count(paths)
    model = stored.read(arguments.folder)
    found = predict(model, paths, how=arguments.choice, top_k=arguments.top_k)
    answers = list(tracked(found, "predicting", len(paths)))
    good = [answer for answer in answers if "error" not in answer]
    for answer in answers:
        if "error" in answer:
            tell(f"{answer['path']}: {answer['error']}")
        elif arguments.format == "table":
            write_answer(answer)
    if arguments.format == "json":
        print(json.dumps(answers, indent=2))
    if arguments.picture and good:
        with naming(arguments.picture, way_out=""):
            part_boxes.draw(good).save(arguments.picture)
        tell(f"{arguments.picture}: {len(good)} images")
    return 0 if len(good) == len(answers) else 1 if good else 2


def write_answer(answer: dict[str, Any]) -> None:
    """Prints an image with its classes, and a line for each region."""
    classes = "  ".join(f"{one['class']} {one['margin']:+.3f}" for one in answer["predictions"])
    print(printable(f"{answer['path']}  {classes}"))
    for name, box in answer["regions"].items():
        print(f"  {name}  {'  '.join(f'{value:.0f}' for value in box)}")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    others, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    parser = parser_of("part_rcnn", __doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    fits = commands.add_parser("fit", help="fit to CUB-200-2011, and measure")
    fits.set_defaults(run=run_fit)
    fits.add_argument("folder", type=user_path, help="CUB_200_2011")
    fits.add_argument("output", type=user_path, help="folder to write")
    network = fits.add_mutually_exclusive_group(required=True)
    network.add_argument("--config", help="FILE.py with a pretrained network")
    network.add_argument("--workdir", type=workdir_path, help="of a training run: the network of all regions")
    fits.add_argument("--head_workdir", type=workdir_path, help="of the head's own network")
    fits.add_argument("--body_workdir", type=workdir_path, help="of the body's own network")
    add_checkpoint(fits)
    fits.add_argument(
        "--proposals", choices=("auto", *proposals.METHODS), default="auto",
        help="default auto: selective search where OpenCV's contributed modules are installed, else the grid",
    )  # fmt: skip
    for name, kind, words in (
        ("padding", int, "pixels of surroundings in a crop of 227; 16 is R-CNN's"),
        ("slack", float, "pixels by which a part may lie outside the bird, at a width of 500"),
        ("alpha", float, "exponent of the places' density"),
        ("neighbours", at_least_one, "training images of the prior NP"),
    ):
        default = getattr(Options, name)
        fits.add_argument(f"--{name}", type=kind, default=default, help=f"{words} (default {default})")
    fits.add_argument("--seed", type=int, default=0, help="of the boxes that train the detectors (default 0)")
    uses = commands.add_parser("predict", help="predict image files")
    uses.set_defaults(run=run_predict)
    uses.add_argument("folder", type=user_path, help="that fit wrote")
    uses.add_argument("images", nargs="+", type=user_path, metavar="IMAGE|FOLDER")
    uses.add_argument("--choice", choices=CHOICES, default="mg", help="of the regions (default mg)")
    uses.add_argument("--top_k", type=at_least_one, default=1, help="classes to print (default 1)")
    uses.add_argument("--format", choices=("table", "json"), default="table")
    uses.add_argument("--picture", type=user_path, help="PNG file to draw the regions in")
    arguments = parser.parse_args(others)
    if arguments.what == "fit" and arguments.seed < 0:
        parser.error(f"--seed is at least 0; got {arguments.seed}")
    arguments.overrides = [f"--config.{name}={value}" for name, value in overrides.items()]
    return arguments


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    return arguments.run(arguments)


if __name__ == "__main__":
    exit_with(main)
