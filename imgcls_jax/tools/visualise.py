"""Draws what a trained network does, as PNG files with captions.

  python -m imgcls_jax.tools.visualise filters --workdir runs/birds
  python -m imgcls_jax.tools.visualise features --workdir runs/birds IMAGE [--layer NAME]
  python -m imgcls_jax.tools.visualise grad_cam --workdir runs/birds IMAGE... [--class NAME] [--layer NAME]
  python -m imgcls_jax.tools.visualise occlusion --workdir runs/birds IMAGE... [--patch 32] [--stride 16]
  python -m imgcls_jax.tools.visualise parts --workdir runs/birds IMAGE...
  python -m imgcls_jax.tools.visualise deconvolution --workdir runs/birds IMAGE [--layer NAME] [--channel 3]
  python -m imgcls_jax.tools.visualise neighbours --workdir runs/birds IMAGE... [--k 8]
  python -m imgcls_jax.tools.visualise embedding --workdir runs/birds FOLDER | --split test [--method tsne]
  python -m imgcls_jax.tools.visualise confusion --workdir runs/birds [--split test]
  python -m imgcls_jax.tools.visualise curves --workdir runs/birds
  python -m imgcls_jax.tools.visualise augmentation --config configs/cub_transfer.py | --workdir runs/birds

The picture is `--output`, by default the subcommand's name with .png. `parts` is for runs of `ma_cnn`,
`deconvolution` for networks of convolutions, ReLU and max-pooling; `neighbours` needs the workdir's index,
which `tools.index` makes. `augmentation` takes the overrides of a configuration too:
`--config.data.root=FOLDER`. Exit status: 0 all drawn, 1 some images could not be read, 2 none or a mistake in
the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.command import (
    add_batch_size,
    add_data,
    add_workdir,
    at_least_one,
    command,
    exit_with,
    importing,
    parser_of,
    tell,
    user_path,
    workdir_path,
)
from imgcls_jax.runtime.files import naming
from imgcls_jax.runtime.names import printable

with importing(__name__):
    from PIL import Image

    from imgcls_jax.config.files import read_config
    from imgcls_jax.config.resolve import resolve
    from imgcls_jax.data.image_files import find_images
    from imgcls_jax.figures import (
        augmentation,
        confusion,
        curves,
        embedding_map,
        neighbours,
        network_input,
        network_pictures,
    )
    from imgcls_jax.inference import index
    from imgcls_jax.inference.trained import load, probabilities
    from imgcls_jax.train.known_data import NOTHING, named, require_open
    from imgcls_jax.train.workdir import load_configuration

Drawn = tuple[Image.Image, dict[Path, str]]


def of_images(
    arguments: argparse.Namespace, draw: Callable[..., Image.Image], *options: Any, **more: Any
) -> Drawn:
    """Returns a picture of image files, and why some could not be read."""
    trained = load(arguments.workdir, arguments.checkpoint)
    paths = find_images(list(map(str, arguments.images)))
    images, errors = network_input.read_images(trained, paths, arguments.most)
    return draw(trained, images, *options, **more), errors


def draw_filters(arguments: argparse.Namespace) -> Drawn:
    return network_pictures.filters(load(arguments.workdir, arguments.checkpoint)), {}


def draw_features(arguments: argparse.Namespace) -> Drawn:
    return of_images(arguments, network_pictures.features, arguments.layer)


def draw_grad_cam(arguments: argparse.Namespace) -> Drawn:
    return of_images(arguments, network_pictures.grad_cam, arguments.class_name, arguments.layer)


def draw_occlusion(arguments: argparse.Namespace) -> Drawn:
    sizes = {"patch": arguments.patch, "stride": arguments.stride}
    return of_images(arguments, network_pictures.occlusion, arguments.class_name, **sizes)


def draw_parts(arguments: argparse.Namespace) -> Drawn:
    return of_images(arguments, network_pictures.parts)


def draw_deconvolution(arguments: argparse.Namespace) -> Drawn:
    return of_images(arguments, network_pictures.deconvolution, arguments.layer, arguments.channel)


def draw_neighbours(arguments: argparse.Namespace) -> Drawn:
    trained = load(arguments.workdir, arguments.checkpoint)
    stored = index.read(arguments.workdir, trained.step)
    paths = find_images(list(map(str, arguments.images)))
    return neighbours.draw(trained, stored, paths, k=arguments.k, batch_size=arguments.batch_size)


def draw_embedding(arguments: argparse.Namespace) -> Drawn:
    if (arguments.folder is None) == (arguments.split is None):
        raise ValueError("give either a folder of class folders or --split")
    if arguments.split is None and named(arguments) != NOTHING:
        raise ValueError("--data_root and --trust_data are of --split, which reads the run's data")
    trained = load(arguments.workdir, arguments.checkpoint, data=named(arguments))
    errors: dict[Path, str] = {}
    if arguments.split is not None:
        what = f"the split {arguments.split!r}"
        embedded = embedding_map.embed_split(trained, arguments.split, batch_size=arguments.batch_size)
    else:
        what = arguments.folder.name
        embedded, errors = embedding_map.embed_folder(
            trained, arguments.folder, batch_size=arguments.batch_size
        )
    options = {"method": arguments.method, "seed": arguments.seed, "what": what}
    return embedding_map.draw(trained, embedded, **options), errors


def draw_confusion(arguments: argparse.Namespace) -> Drawn:
    trained = load(arguments.workdir, arguments.checkpoint, data=named(arguments))
    found = trained.outputs_of_split(arguments.split, probabilities, batch_size=arguments.batch_size)
    notes = f"{network_input.network_of(trained)}, the split {arguments.split!r}"
    return confusion.draw(*found, trained.class_names, notes=notes), {}


def draw_curves(arguments: argparse.Namespace) -> Drawn:
    return curves.draw(arguments.workdir), {}


def draw_augmentation(arguments: argparse.Namespace) -> Drawn:
    if arguments.workdir is None and named(arguments) != NOTHING:
        raise ValueError("--data_root is of --workdir; beside --config it is --config.data.root=FOLDER")
    if arguments.workdir is not None:
        configuration = require_open(load_configuration(arguments.workdir), arguments.workdir, arguments)
    else:
        configuration = resolve(read_config([f"--config={arguments.config}", *arguments.overrides]))
    options = {name: getattr(arguments, name) for name in ("split", "phase", "examples", "draws")}
    return augmentation.draw(configuration, **options), {}


def parser() -> argparse.ArgumentParser:
    """Returns the command line's."""
    whole = parser_of("visualise", __doc__)
    commands = whole.add_subparsers(dest="what", required=True)

    def add(name: str, draw: Callable[..., Drawn], about: str, most: int = 0) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False
        )
        one.set_defaults(draw=draw, most=most)
        one.add_argument("--output", type=user_path, default=Path(f"{name}.png"), help="default: %(default)s")
        if name == "curves":
            one.add_argument("--workdir", type=workdir_path, required=True, help="of a training run")
        elif name != "augmentation":
            add_workdir(one)
        if most:
            one.add_argument("images", nargs=1 if most == 1 else "+", type=user_path, metavar="IMAGE")
        return one

    many = network_input.MOST_IMAGES
    add("filters", draw_filters, "first-layer filters")
    one = add("features", draw_features, "feature maps of an image", 1)
    one.add_argument("--layer", help="a module's path; default: several")
    one = add("grad_cam", draw_grad_cam, "where the evidence for a class lies", many)
    one.add_argument("--class", dest="class_name", metavar="NAME", help="default: the predicted one")
    one.add_argument("--layer", help="default: the last that the answer depends on")
    one = add("occlusion", draw_occlusion, "probability of a class with one place hidden", many)
    one.add_argument("--class", dest="class_name", metavar="NAME", help="default: the predicted one")
    one.add_argument(
        "--patch", type=at_least_one, default=32, help="side of the square in pixels (default 32)"
    )
    one.add_argument("--stride", type=at_least_one, default=16, help="pixels between squares (default 16)")
    add("parts", draw_parts, "the attention map of each part", many)
    one = add("deconvolution", draw_deconvolution, "what made the units of a layer respond", 1)
    one.add_argument("--layer", help="default: the last feature map")
    one.add_argument("--channel", type=int, help="default: those of strongest activation")
    one = add("neighbours", draw_neighbours, "the images of the index most like an image", many)
    one.add_argument("--k", type=at_least_one, default=8, help="neighbours (default 8)")
    add_batch_size(one)
    one = add("embedding", draw_embedding, "embeddings in two dimensions, colored by class")
    one.add_argument("folder", nargs="?", type=user_path, metavar="FOLDER", help="of class folders")
    one.add_argument("--split", help="of the run's data, instead of a folder")
    add_data(one)
    one.add_argument("--method", choices=embedding_map.METHODS, default="pca")
    one.add_argument("--seed", type=int, default=0)
    add_batch_size(one)
    one = add("confusion", draw_confusion, "which classes are taken for which")
    one.add_argument("--split", default="test", help="of the run's data (default: test)")
    add_data(one)
    add_batch_size(one)
    add("curves", draw_curves, "what the run logged, over its steps")
    add_augmentation(add("augmentation", draw_augmentation, "what the input pipeline feeds in training"))
    return whole


def add_augmentation(one: argparse.ArgumentParser) -> None:
    """Adds the arguments of `augmentation`, which needs no trained network."""
    origin = one.add_mutually_exclusive_group(required=True)
    origin.add_argument("--config", metavar="FILE.py[:argument]", help="with its overrides after it")
    origin.add_argument("--workdir", type=workdir_path, help="of a training run")
    add_data(one)
    one.add_argument("--split", default="", help="default: the training split")
    one.add_argument("--phase", default="", help="whose line is drawn, in a run of several phases")
    one.add_argument("--examples", type=at_least_one, default=6)
    one.add_argument("--draws", type=at_least_one, default=8)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; what begins with --config. is kept as overrides."""
    whole = parser()
    arguments, rest = whole.parse_known_args(argv)
    overrides = [one for one in rest if one.startswith("--config.") and getattr(arguments, "config", None)]
    if unknown := [one for one in rest if one not in overrides]:
        whole.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.overrides = overrides
    return arguments


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    picture, errors = arguments.draw(arguments)
    with naming(arguments.output, way_out=""):
        picture.save(arguments.output)
    for file, error in errors.items():
        tell(f"{file}: {error}")
    print(printable(f"{arguments.output}: {picture.width} x {picture.height} pixels"))
    return 1 if errors else 0


if __name__ == "__main__":
    exit_with(main)
