"""Writes a trained network as timm or Hugging Face's transformers load it, with a model card.

  python -m imgcls_jax.tools.publish --workdir runs/birds --output birds
  python -m imgcls_jax.tools.publish --workdir runs/birds --output birds --naming hugging_face
  python -m imgcls_jax.tools.publish --workdir runs/birds --output birds --license mit --push OWNER/NAME

The folder holds `model.safetensors`, config.json (of transformers also preprocessor_config.json) and the
card, README.md, whose figures are those of the run's result.json. timm loads it as `local-dir:FOLDER`,
transformers by `from_pretrained`, and this package by --config.model.pretrained=FOLDER. Where weights are
averaged, their average is written, as it is evaluated. Files are replaced only where an earlier publish
wrote them and nobody changed them since, which published.json in the folder says. Nothing leaves this machine
without --push, which takes the token of HF_TOKEN or `hf auth login`. Exit status: 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from imgcls_jax.runtime.command import add_workdir, command, exit_with, importing, parser_of, tell, user_path
from imgcls_jax.runtime.names import printable

with importing(__name__):
    from imgcls_jax.weights.hub import REPOSITORY, push
    from imgcls_jax.weights.publishing import NAMINGS


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("publish", __doc__)
    add_workdir(parser)
    parser.add_argument("--output", metavar="FOLDER", type=user_path, required=True, help="to write")
    parser.add_argument("--naming", choices=tuple(NAMINGS), default="timm", help="whose names (default timm)")
    parser.add_argument("--title", default="", help="of the card (default: the folder's name)")
    parser.add_argument("--license", default="", help="of the weights, as the hub names it: apache-2.0, ...")
    parser.add_argument("--tags", nargs="+", default=[], help="more tags")
    parser.add_argument("--datasets", nargs="+", default=[], help="trained on, as the hub names them")
    parser.add_argument("--command", default="", help="that trained the network, for the card")
    parser.add_argument(
        "--development_splits",
        nargs="+",
        default=[],
        metavar="SPLIT",
        help="on which choices were made (always: that of train.best_metric, and any not called test)",
    )
    parser.add_argument(
        "--push", default="", metavar="OWNER/NAME", help="upload to this repository of the hub"
    )
    parser.add_argument("--private", action="store_true", help="a repository made by --push is private")
    arguments = parser.parse_args(argv)
    parts = REPOSITORY.fullmatch(arguments.push)
    if arguments.push and (not parts or parts["revision"] or parts["file"] or ".." in arguments.push):
        parser.error(f"--push names a repository by OWNER/NAME; got {printable(arguments.push)}")
    return arguments


def publish(arguments: argparse.Namespace, trained: Any) -> tuple[str, ...]:
    """Writes the folder; returns the names of its files."""
    from imgcls_jax.inference import model_card, model_folder

    network, told = model_folder.of_trained(trained, arguments.naming)
    words = model_card.Words(
        arguments.title or (arguments.push or arguments.output.name).rpartition("/")[2],
        arguments.push,
        arguments.license,
        arguments.tags,
        arguments.datasets,
        arguments.command,
        arguments.development_splits,
    )
    card = model_card.write(trained, arguments.workdir, arguments.naming, network, told, words)
    files = model_folder.write(network, card, arguments.output)
    size = sum((arguments.output / file).stat().st_size for file in files) / 2**20
    print(printable(f"{arguments.output}: {network.architecture}, {', '.join(files)}, {size:.1f} MiB"))
    if told.untold:
        tell(f"warning: {arguments.naming} has no words for {', '.join(told.untold)} of data.eval_transforms")
    return files


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    from imgcls_jax.inference.trained import load  # here, so that --help does not wait for it

    files = publish(arguments, load(arguments.workdir, arguments.checkpoint))
    if arguments.push:
        address = push(arguments.output, files, arguments.push, private=arguments.private)
        print(printable(f"pushed to {address}"))
    return 0


if __name__ == "__main__":
    exit_with(main)
