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
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from imgcls_jax.tools import exit_with

PLATFORMS = ("cpu", "cuda", "tpu")
MODEL, WEIGHTS, DESCRIPTION, ONNX = "model.stablehlo", "weights.safetensors", "export.json", "model.onnx"


class Exported(NamedTuple):
    """A network read from its folder.

    Attributes:
      function: uint8 [B, H, W, C] -> {"probabilities": float32 [B, K]}, and "embedding": float32 [B, D] where
        the objective has one.
      class_names: K names.
      eval_transforms: the line of transforms; its host operations are the caller's.
      image_shape: (H, W, C) after those.
    """

    function: Any
    class_names: tuple[str, ...]
    eval_transforms: str
    image_shape: tuple[int, ...]


def write(trained: Any, folder: Path, platforms: Sequence[str]) -> None:
    """Writes the folder.

    Args:
      trained: of train/trained.py.
      folder: made where it does not exist.
      platforms: some of PLATFORMS.

    Raises:
      ValueError: the objective predicts no classes.
    """
    from safetensors.numpy import save_file

    from imgcls_jax.train.optimizer import param_paths
    from imgcls_jax.train.trained import probabilities

    def function(images: jax.Array) -> dict[str, jax.Array]:
        outputs = trained.predict(trained.params, trained.carry, {"image": images})
        kept = {"probabilities": probabilities(outputs).astype(jnp.float32)}
        if "embedding" in outputs:
            kept["embedding"] = outputs["embedding"].astype(jnp.float32)
        return kept

    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *trained.source_shape), jnp.uint8)
    exported = jax_export.export(jax.jit(function), platforms=tuple(platforms))(images)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(exported.serialize())
    weights = {"params": trained.carry.get("ema", trained.params)}
    if trained.carry.get("batch_stats"):
        weights["batch_stats"] = trained.carry["batch_stats"]
    leaves = zip(jax.tree.leaves(param_paths(weights)), jax.tree.leaves(weights), strict=True)
    save_file({path: np.asarray(leaf) for path, leaf in leaves}, str(folder / WEIGHTS))
    description = {
        "class_names": trained.class_names,
        "eval_transforms": trained.data.settings.eval_transforms,
        "image_shape": trained.source_shape,
        "platforms": tuple(platforms),
        "step": trained.step,
        "sha256": hashlib.sha256((folder / MODEL).read_bytes()).hexdigest(),
        "jax": jax.__version__,
    }
    text = json.dumps(description, indent=2, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read(folder: str | Path) -> Exported:
    """Reads a folder.

    Raises:
      ValueError: it is not one, or damaged, or not for the platform at hand.
    """
    folder = Path(folder)
    try:
        fields = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        model = (folder / MODEL).read_bytes()
        if hashlib.sha256(model).hexdigest() != fields["sha256"]:
            raise ValueError(f"{MODEL} is not the file that {DESCRIPTION} was written with")
        exported = jax_export.deserialize(bytearray(model))
        described = Exported(
            jax.jit(exported.call),
            tuple(fields["class_names"]),
            fields["eval_transforms"],
            tuple(fields["image_shape"]),
        )
        _check_description(described, exported)
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is absent: {folder} is not a folder of tools.export") from error
    except Exception as error:  # whatever the reader of damaged bytes raises
        raise ValueError(f"{folder} is damaged or of another program: {error}") from error
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform not in exported.platforms:
        raise ValueError(
            f"{folder} was exported for {', '.join(exported.platforms)}, and this is {platform}: export "
            f"again with --platforms {platform}"
        )
    return described


def _check_description(described: Exported, exported: jax_export.Exported) -> None:
    """Raises ValueError where the description is not that of the network."""
    names, line = described.class_names, described.eval_transforms
    if exported.in_avals[0].shape[1:] != described.image_shape:
        raise ValueError(f"image_shape is {described.image_shape}; {MODEL} reads {exported.in_avals[0]}")
    num_classes = exported.out_avals[-1].shape[-1]  # of embedding and probabilities the latter
    if len(names) != num_classes or not all(isinstance(name, str) for name in (*names, line)):
        raise ValueError(f"class_names are not {num_classes} names, or eval_transforms is no line")


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
    from imgcls_jax.train.trained import load

    try:
        trained = load(arguments.workdir, arguments.checkpoint)
        write(trained, arguments.folder, platforms)
        if arguments.onnx:
            from imgcls_jax.tools import onnx_file

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
