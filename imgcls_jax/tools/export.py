"""Writes a trained network as a folder that predicts without this program's training side.

  python -m imgcls_jax.tools.export --workdir runs/birds FOLDER [--platforms cpu,cuda,tpu]
  python -m imgcls_jax.tools.predict --exported FOLDER IMAGE...

The folder holds `model.stablehlo`, the network with its weights and the device side of its transforms, for a
batch of any size and for all the platforms named (jax.export, whose files newer versions of jax go on reading
for six months at least); `weights.safetensors`, the weights alone, by their paths; and `export.json`, the
class names, the evaluation line of transforms and the images' shape. Prediction from it needs jax, numpy and
Pillow. Nothing in it is executed but the network. `--formats onnx,tflite` adds `model.onnx`, for a batch of
any size, and `model.tflite`, LiteRT's, for one image; `--batch` fixes another size. Both read uint8 images,
and are kept where their own runtime gives the network's answers. Those of an earlier export are removed. Exit
status: 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.command import (
    add_workdir,
    at_least_one,
    command,
    exit_with,
    importing,
    parser_of,
    user_path,
)
from imgcls_jax.runtime.names import printable

with importing(__name__):
    from imgcls_jax.inference.export import DESCRIPTION, MODEL, PLATFORMS, WEIGHTS, write

FORMATS = ("onnx", "tflite")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("export", __doc__)
    parser.add_argument("folder", type=user_path, help="to write")
    add_workdir(parser)
    parser.add_argument("--platforms", default=",".join(PLATFORMS), help="default: cpu,cuda,tpu")
    parser.add_argument("--formats", default="", help="to write besides: onnx,tflite, or one of them")
    parser.add_argument(
        "--batch", type=at_least_one, help="images at a time of --formats (onnx: any, tflite: 1)"
    )
    arguments = parser.parse_args(argv)
    arguments.platforms = arguments.platforms.split(",")
    if not set(arguments.platforms) <= set(PLATFORMS):
        parser.error(f"--platforms are some of {', '.join(PLATFORMS)}; got {','.join(arguments.platforms)}")
    arguments.formats = arguments.formats.split(",") if arguments.formats else []
    if not set(arguments.formats) <= set(FORMATS):
        parser.error(f"--formats are some of {', '.join(FORMATS)}; got {','.join(arguments.formats)}")
    if arguments.batch and not arguments.formats:
        parser.error("--batch is of --formats, and none is named: the network itself takes any batch")
    return arguments


def _require_packages(formats: Sequence[str]) -> None:
    from imgcls_jax.inference import litert_file, onnx_file

    for name in formats:
        (onnx_file if name == "onnx" else litert_file).require_packages()


def _write(trained: Any, file: Path, name: str, batch: int | None) -> float:
    from imgcls_jax.inference import litert_file, onnx_file

    if name == "onnx":
        return onnx_file.write(trained, file, batch)
    return litert_file.write(trained, file, batch or 1)


def _files_of(formats: Sequence[str], folder: Path) -> list[Path]:
    """Returns the files of the formats that the folder holds; jax2onnx puts large weights into one beside."""
    files = [folder / f"model.{name}{more}" for name in formats for more in ("", ".data")]
    return [file for file in files if file.exists()]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    from imgcls_jax.inference.trained import load  # here, so that --help does not wait for it

    _require_packages(arguments.formats)
    trained = load(arguments.workdir, arguments.checkpoint)
    is_older = (arguments.folder / DESCRIPTION).exists()
    older = _files_of(FORMATS, arguments.folder) if is_older else []
    write(trained, arguments.folder, arguments.platforms)
    for file in older:  # of another network than the one that now stands beside
        file.unlink()
        print(f"{file.name}: of an earlier export, removed")
    for name in arguments.formats:
        file = arguments.folder / f"model.{name}"
        difference = _write(trained, file, name, arguments.batch)
        print(f"{file.name}: its probabilities differ from the network's by {difference:.1e} at most")
    written = [arguments.folder / name for name in (MODEL, WEIGHTS)]
    written += _files_of(arguments.formats, arguments.folder)
    shown = ", ".join(f"{file.name} {file.stat().st_size / 2**20:.1f} MiB" for file in written)
    print(printable(f"{arguments.folder}: {shown}"))
    return 0


if __name__ == "__main__":
    exit_with(main)
