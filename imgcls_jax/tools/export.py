"""Writes a trained network as a folder that predicts without this program's training side.

  python -m imgcls_jax.tools.export --workdir runs/birds FOLDER [--platforms cpu,cuda,tpu]
  python -m imgcls_jax.tools.predict --exported FOLDER IMAGE...

The folder holds `model.stablehlo`, the network with its weights and the device side of its transforms, for a
batch of any size and for all the platforms named (jax.export, whose files newer versions of jax go on reading
for six months at least); `weights.safetensors`, the weights alone, by their paths; and `export.json`, the
class names, the evaluation line of transforms and the images' shape. Prediction from it needs jax, numpy and
Pillow. Nothing in it is executed but the network. With `--onnx` it also holds `model.onnx`, of uint8
images; onnx_file.py says what that needs. Exit status: 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from imgcls_jax.inference.export import MODEL, ONNX, PLATFORMS, WEIGHTS, write
from imgcls_jax.runtime.command import exit_with


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m imgcls_jax.tools.export", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("folder", type=Path, help="to write")
    parser.add_argument("--workdir", required=True, help="of a training run")
    parser.add_argument("--checkpoint", default="latest", help="'latest' (default), 'best' or a step")
    parser.add_argument("--platforms", default=",".join(PLATFORMS), help="default: cpu,cuda,tpu")
    parser.add_argument("--onnx", choices=("any", "1"), help="write model.onnx too, for such a batch")
    arguments = parser.parse_args(argv)
    platforms = arguments.platforms.split(",")
    if not set(platforms) <= set(PLATFORMS):
        parser.error(f"--platforms are some of {', '.join(PLATFORMS)}; got {arguments.platforms}")
    from imgcls_jax.inference.trained import load

    try:
        trained = load(arguments.workdir, arguments.checkpoint)
        write(trained, arguments.folder, platforms)
        if arguments.onnx:
            from imgcls_jax.inference import onnx_file

            batch = int(arguments.onnx) if arguments.onnx != "any" else None
            difference = onnx_file.write(trained, arguments.folder / ONNX, batch)
            print(f"{ONNX}: its probabilities differ from the network's by {difference:.1e} at most")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    written = (MODEL, WEIGHTS, ONNX)[: 3 if arguments.onnx else 2]
    sizes = {name: (arguments.folder / name).stat().st_size / 2**20 for name in written}
    print(f"{arguments.folder}: " + ", ".join(f"{name} {size:.1f} MiB" for name, size in sizes.items()))
    return 0


if __name__ == "__main__":
    exit_with(main)
