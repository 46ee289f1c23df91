"""A trained network as a folder that predicts without this program's training side.

The folder holds `model.stablehlo`, the network with its weights and the device side of its transforms, for a
batch of any size and for all the platforms named (jax.export, whose files newer versions of jax go on reading
for six months at least); `weights.safetensors`, the weights alone, by their paths; and `export.json`, the
class names, the evaluation line of transforms and the images' shape. Prediction from it needs jax, numpy and
Pillow, and flatbuffers, by which jax.export reads its files (`pip install '.[predict]'`). Nothing in it is
executed but the network, which is a program: allowed_operations.py says what one from a stranger may do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from imgcls_jax.data import transforms
from imgcls_jax.inference.allowed_operations import require_allowed
from imgcls_jax.runtime.buckets import as_path
from imgcls_jax.runtime.files import naming, parse_json, read_bytes, whole
from imgcls_jax.runtime.mistakes import is_passing, reason

PLATFORMS = ("cpu", "cuda", "tpu")
MODEL, WEIGHTS, DESCRIPTION = "model.stablehlo", "weights.safetensors", "export.json"
MAX_DESCRIPTION_BYTES = 2**26  # a million names
MAX_MODEL_BYTES = 2**36  # the largest network known to export has a hundredth
MAX_IMAGE = 2**28  # numbers of one image, 16384 x 5461 pixels of three colors


class Exported(NamedTuple):
    """A network read from its folder.

    Attributes:
      function: uint8 [B, H, W, C] -> {"probabilities": float32 [B, K]}, and "embedding": float32 [B, D] where
        the objective has one.
      class_names: K names.
      eval_transforms: the line of transforms; its host operations are the caller's.
      image_shape: (H, W, C) after those.
      multi_label: whether an image has any number of labels, each of a probability of its own.
    """

    function: Any
    class_names: tuple[str, ...]
    eval_transforms: str
    image_shape: tuple[int, ...]
    multi_label: bool = False


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
    from safetensors.numpy import save

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
    require_allowed(exported.mlir_module_serialized)
    weights = dict(trained.objective_state.get("ema", trained.params))  # as model.pretrained reads them
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
        "multi_label": trained.objective.multi_label,
        "platforms": tuple(platforms),
        "step": trained.step,
        "sha256": hashlib.sha256(model).hexdigest(),
        "jax": jax.__version__,
    }
    text = json.dumps(description, indent=2)  # escaped: a class may bear a name that is not UTF-8
    with naming(folder, way_out=""):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in ((MODEL, model), (WEIGHTS, save(arrays)), (DESCRIPTION, f"{text}\n".encode())):
            with whole(folder / name) as file:
                file.write(content)


def read(folder: str | Path) -> Exported:
    """Reads a folder.

    Raises:
      ValueError: it is not one, or damaged, or not for the platform at hand; or flatbuffers is missing.
    """
    folder = as_path(folder)
    try:
        fields = parse_json(read_bytes(folder / DESCRIPTION, MAX_DESCRIPTION_BYTES).decode("utf-8"))
        require_sound(fields)
        model = read_bytes(folder / MODEL, MAX_MODEL_BYTES)
        if hashlib.sha256(model).hexdigest() != fields["sha256"]:
            raise ValueError(f"{MODEL} is not the file that {DESCRIPTION} was written with")
        with _flatbuffers():
            exported = jax_export.deserialize(bytearray(model))
        require_allowed(exported.mlir_module_serialized)
        described = Exported(
            jax.jit(exported.call),
            tuple(fields["class_names"]),
            fields["eval_transforms"],
            tuple(fields["image_shape"]),
            fields.get("multi_label", False),  # which older exports do not say
        )
        _check_description(described, exported)
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is absent: {folder} is not a folder of tools.export") from error
    except _Missing:
        raise
    except Exception as error:  # whatever the reader of damaged bytes raises
        if is_passing(error):
            raise
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


def require_sound(fields: Any) -> None:
    """Raises ValueError for the first field of a description that is not as `write` writes it."""
    if not isinstance(fields, dict):
        raise ValueError(f"{DESCRIPTION} holds no JSON object")
    names, line, shape = (fields.get(name) for name in ("class_names", "eval_transforms", "image_shape"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
        raise ValueError(f"{DESCRIPTION}: class_names are no list of names")
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"{DESCRIPTION}: image_shape is not height, width and channels")
    if math.prod(shape) > MAX_IMAGE:
        raise ValueError(f"{DESCRIPTION}: image_shape is {shape}, more than any network reads")
    if not isinstance(fields.get("sha256"), str) or not isinstance(line, str):
        raise ValueError(f"{DESCRIPTION}: sha256 or eval_transforms is no text")
    if not isinstance(fields.get("multi_label", False), bool):
        raise ValueError(f"{DESCRIPTION}: multi_label is neither true nor false")
    try:
        drawn = transforms.random_operations(*transforms.parse(line))
    except ValueError as error:
        raise ValueError(f"{DESCRIPTION}: eval_transforms: {error}") from error
    if drawn:
        raise ValueError(f"{DESCRIPTION}: eval_transforms holds random operations: {', '.join(drawn)}")


def _check_description(described: Exported, exported: jax_export.Exported) -> None:
    """Raises ValueError where the description is not that of the network."""
    inputs = exported.in_avals
    if len(inputs) != 1 or inputs[0].dtype != jnp.uint8 or inputs[0].shape[1:] != described.image_shape:
        raise ValueError(f"image_shape is {described.image_shape}; {MODEL} reads {inputs}")
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    found = outputs.get("probabilities") if isinstance(outputs, dict) else None
    if found is None or len(found.shape) != 2 or found.dtype != jnp.float32:
        raise ValueError(f"{MODEL} gives no probabilities, float32 of each class")
    if found.shape[1] != len(described.class_names):
        raise ValueError(f"class_names are {len(described.class_names)}, and {MODEL} has {found.shape[1]}")
