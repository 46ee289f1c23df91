"""Writes a trained network as a folder that predicts without this program's training side.

  python -m imgcls_jax.tools.export --workdir runs/birds FOLDER [--platforms cpu,cuda,tpu]
  python -m imgcls_jax.tools.predict --exported FOLDER IMAGE...

The folder holds `model.stablehlo`, the network with its weights and the device side of its transforms, for a
batch of any size and for all the platforms named (jax.export, whose files newer versions of jax go on reading
for six months at least); `weights.safetensors`, the weights alone, by their paths; and `export.json`, the
class names, the evaluation line of transforms and the images' shape. Prediction from it needs jax, numpy and
Pillow. Nothing in it is executed but the network. `--formats` adds `model.onnx`, for a batch of any size, and
`model.tflite`, LiteRT's, for one image; `--batch` fixes another size. Both read uint8 images, and are kept
where their own runtime gives the network's answers. Exit status: 0, or 2 for a mistake.
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
    from imgcls_jax.inference.export import MODEL, PLATFORMS, WEIGHTS, write

FORMATS = ("onnx", "tflite")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("export", __doc__)
    parser.add_argument("folder", type=user_path, help="to write")
    add_workdir(parser)
    parser.add_argument("--platforms", default=",".join(PLATFORMS), help="default: cpu,cuda,tpu")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=[], help="to write besides")
    parser.add_argument("--batch", type=at_least_one, help="images at a time (onnx: any, tflite: 1)")
    arguments = parser.parse_args(argv)
    arguments.platforms = arguments.platforms.split(",")
    if not set(arguments.platforms) <= set(PLATFORMS):
        parser.error(f"--platforms are some of {', '.join(PLATFORMS)}; got {','.join(arguments.platforms)}")
    return arguments


def _write(trained: Any, file: Path, name: str, batch: int | None) -> float:
    if name == "onnx":
        from imgcls_jax.inference import onnx_file

        return onnx_file.write(trained, file, batch)
    from imgcls_jax.inference import litert_file

    return litert_file.write(trained, file, batch or 1)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    from imgcls_jax.inference.trained import load  # here, so that --help does not wait for it

    trained = load(arguments.workdir, arguments.checkpoint)
    write(trained, arguments.folder, arguments.platforms)
    written = [MODEL, WEIGHTS]
    for name in arguments.formats:
        file = arguments.folder / f"model.{name}"
        difference = _write(trained, file, name, arguments.batch)
        print(f"{file.name}: its probabilities differ from the network's by {difference:.1e} at most")
        written.append(file.name)
    sizes = {name: (arguments.folder / name).stat().st_size / 2**20 for name in written}
    shown = ", ".join(f"{name} {size:.1f} MiB" for name, size in sizes.items())
    print(printable(f"{arguments.folder}: {shown}"))
    return 0


if __name__ == "__main__":
    exit_with(main)
