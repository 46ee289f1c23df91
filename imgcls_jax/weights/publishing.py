"""A trained network in the form that timm or Hugging Face's transformers load: arrays and their config.json.

The names come from the tables by which such files are read: `timm_weights` of each family, and
hugging_face.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.weights.described import Preprocessing, hugging_face_preprocessing, timm_preprocessing
from imgcls_jax.weights.hugging_face import WRITTEN, to_hugging_face
from imgcls_jax.weights.hugging_face_networks import hugging_face_config
from imgcls_jax.weights.pretrained import to_torch
from imgcls_jax.weights.timm_networks import FAMILIES, timm_network

Arrays = dict[str, np.ndarray]

NAMINGS: Mapping[str, Sequence[str]] = {"timm": FAMILIES, "hugging_face": tuple(WRITTEN)}


class Published(NamedTuple):
    """What others load.

    Attributes:
      arrays: {name: array}.
      files: {"config.json": content, ...}, JSON values.
      architecture: timm's or transformers's name of the network.
    """

    arrays: Arrays
    files: dict[str, dict[str, Any]]
    architecture: str


def published(
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    family: ModuleType,
    variant: str,
    backbone: Any,
    *,
    naming: str,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    preprocessing: Preprocessing,
) -> Published:
    """Brings a network to another package's names.

    Args:
      params: "backbone", and "head" where it has a classifier; other rooms are left out.
      batch_stats: of the backbone.
      family: module of models/.
      variant: of the family.
      backbone: the network.
      naming: of `NAMINGS`.
      image_shape: (H, W, C).
      class_names: of the K classes.
      preprocessing: of the images.

    Raises:
      ValueError: the other package has no network that computes the same; says why.
    """
    name = family.__name__.rpartition(".")[2]
    if name not in NAMINGS[naming]:
        known = "; ".join(f"{naming} has {', '.join(families)}" for naming, families in NAMINGS.items())
        raise ValueError(f"models/{name}.py has no names of {naming}; of the families {known}")
    # Of vit each field that is not the class's default is told, whatever the variant.
    plain = type(backbone)() if name == "vit" else family.build(variant)
    rooms = {room: params[room] for room in ("backbone", "head") if room in params}
    if naming == "hugging_face":
        if "head" not in rooms:
            raise ValueError(
                "transformers's networks have a classifier, and this run has none; --naming timm"
            )
        config = hugging_face_config(name, variant, backbone, plain, image_shape, class_names)
        arrays = to_torch(rooms, batch_stats, family, variant, to_timm=True)
        files = {
            "config.json": config,
            "preprocessor_config.json": hugging_face_preprocessing(preprocessing),
        }
        return Published(to_hugging_face(arrays, name), files, config["architectures"][0])
    architecture, arguments = timm_network(name, variant, backbone, plain, image_shape)
    arrays = _without_auxiliary(to_torch(rooms, batch_stats, family, variant, to_timm=True), family, variant)
    num_classes = len(class_names) if "head" in rooms else 0
    head = next(iter(_timm({f"{family.torch_head(variant)}.bias": np.zeros(1)}, family, variant)))
    pretrained = timm_preprocessing(preprocessing, image_shape[2]) | {
        "fixed_input_size": "img_size" in arguments,
        "num_classes": num_classes,
        "first_conv": _first_convolution(arrays, image_shape[2]),
        "classifier": head.removesuffix(".bias"),
    }
    config = {
        "architecture": architecture,
        "num_classes": num_classes,
        "model_args": arguments,
        "pretrained_cfg": pretrained,
        "label_names": list(class_names) if num_classes else [],
    }
    return Published(arrays, {"config.json": config}, architecture)


def _timm(arrays: Mapping[str, Any], family: ModuleType, variant: str) -> Mapping[str, Any]:
    return family.timm_weights(arrays, variant) if hasattr(family, "timm_weights") else arrays


def _without_auxiliary(arrays: Arrays, family: ModuleType, variant: str) -> Arrays:
    """Leaves out the branches that classify in training alone."""
    heads = family.torch_aux_heads(variant) if hasattr(family, "torch_aux_heads") else ()
    modules = tuple(f"{name.split('.')[0]}." for name in heads)
    return {name: array for name, array in arrays.items() if not name.startswith(modules)}


def _first_convolution(arrays: Arrays, channels: int) -> str:
    """Returns the module that reads the image, by which timm takes images of other channels."""
    found = [name for name, a in arrays.items() if a.ndim == 4 and a.shape[1] == channels]
    return found[0].removesuffix(".weight") if len(found) == 1 else ""
