"""A trained network as a folder that predicts without this program's training side.

The folder holds `model.stablehlo`, the network with its weights and the device side of its transforms, for a
batch of any size and for all the platforms named (jax.export, whose files newer versions of jax go on reading
for six months at least); `weights.safetensors`, the weights alone, by their paths; and `export.json`, the
class names, the evaluation line of transforms and the images' shape. Prediction from it needs jax, numpy and
Pillow, and flatbuffers, by which jax.export reads its files (`pip install '.[predict]'`). Nothing in it is
executed but the network.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from imgcls_jax.runtime.files import naming
from imgcls_jax.runtime.mistakes import reason

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
      trained: of inference/trained.py.
      folder: made where it does not exist.
      platforms: some of PLATFORMS.

    Raises:
      ValueError: the objective predicts no classes, or flatbuffers is missing.
      OSError: the folder cannot be written; names it.
    """
    # Here, so that an exported network is read without what training needs.
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    from imgcls_jax.inference.trained import probabilities
    from imgcls_jax.train.optimizer import param_paths

    def function(images: jax.Array) -> dict[str, jax.Array]:
        outputs = trained.predict(trained.params, trained.objective_state, {"image": images})
        kept = {"probabilities": probabilities(outputs).astype(jnp.float32)}
        if "embedding" in outputs:
            kept["embedding"] = outputs["embedding"].astype(jnp.float32)
        return kept

    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *trained.source_shape), jnp.uint8)
    exported = jax_export.export(jax.jit(function), platforms=tuple(platforms))(images)
    weights = {"params": trained.objective_state.get("ema", trained.params)}
    if trained.objective_state.get("batch_stats"):
        weights["batch_stats"] = trained.objective_state["batch_stats"]
    leaves = zip(jax.tree.leaves(param_paths(weights)), jax.tree.leaves(weights), strict=True)
    arrays = {path: np.asarray(leaf) for path, leaf in leaves}
    with _flatbuffers():
        model = bytes(exported.serialize())
    description = {
        "class_names": trained.class_names,
        "eval_transforms": trained.data.settings.eval_transforms,
        "image_shape": trained.source_shape,
        "platforms": tuple(platforms),
        "step": trained.step,
        "sha256": hashlib.sha256(model).hexdigest(),
        "jax": jax.__version__,
    }
    text = json.dumps(description, indent=2)  # escaped: a class may bear a name that is not UTF-8
    with naming(folder, way_out=""):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL).write_bytes(model)
        try:
            save_file(arrays, str(folder / WEIGHTS))
        except SafetensorError as error:  # of a disk that is full, without the number of an OSError
            raise OSError(f"{WEIGHTS}: {error}") from error
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read(folder: str | Path) -> Exported:
    """Reads a folder.

    Raises:
      ValueError: it is not one, or damaged, or not for the platform at hand; or flatbuffers is missing.
    """
    folder = Path(folder)
    try:
        fields = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        model = (folder / MODEL).read_bytes()
        if hashlib.sha256(model).hexdigest() != fields["sha256"]:
            raise ValueError(f"{MODEL} is not the file that {DESCRIPTION} was written with")
        with _flatbuffers():
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
    except _Missing:
        raise
    except Exception as error:  # whatever the reader of damaged bytes raises
        raise ValueError(f"{folder} is damaged or of another program: {reason(error)}") from error
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform not in exported.platforms:
        raise ValueError(
            f"{folder} was exported for {', '.join(exported.platforms)}, and this is {platform}: export "
            f"again with --platforms {platform}"
        )
    return described


class _Missing(ValueError):
    """A package is not installed."""


@contextlib.contextmanager
def _flatbuffers() -> Iterator[None]:
    """Makes the lack of flatbuffers, which jax does not bring along, one line."""
    try:
        yield
    except ImportError as error:
        raise _Missing(
            "exports are read and written with the package flatbuffers, which is missing: "
            "pip install flatbuffers"
        ) from error


def _check_description(described: Exported, exported: jax_export.Exported) -> None:
    """Raises ValueError where the description is not that of the network."""
    names, line = described.class_names, described.eval_transforms
    if exported.in_avals[0].shape[1:] != described.image_shape:
        raise ValueError(f"image_shape is {described.image_shape}; {MODEL} reads {exported.in_avals[0]}")
    num_classes = exported.out_avals[-1].shape[-1]  # of embedding and probabilities the latter
    if len(names) != num_classes or not all(isinstance(name, str) for name in (*names, line)):
        raise ValueError(f"class_names are not {num_classes} names, or eval_transforms is no line")
