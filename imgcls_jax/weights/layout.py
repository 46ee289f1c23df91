"""The name and the layout, in a file of weights, of each leaf of params and batch_stats.

A leaf has a path: its room, its modules and its own name, as in ("backbone", "conv1", "kernel").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from imgcls_jax.weights.big_vision import of_big_vision
from imgcls_jax.weights.caffe import from_caffe
from imgcls_jax.weights.clip_names import openai_names
from imgcls_jax.weights.files import read_state_dict
from imgcls_jax.weights.hugging_face import of_hugging_face

KeyPath = tuple[str, ...]  # room, modules..., leaf

TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
CONV_HEAD = "conv_pool"  # a backbone whose attribute `head` says so has a 1x1 convolution as its classifier


class TorchNames:
    """Names and layouts of PyTorch's network of a family."""

    def __init__(self, family: ModuleType, variant: str) -> None:
        aux = family.torch_aux_heads(variant) if hasattr(family, "torch_aux_heads") else ()
        self.title = f"{family.__name__.rpartition('.')[2]} {variant}"
        self.heads = {"head": family.torch_head(variant)} | {f"aux_head_{i}": n for i, n in enumerate(aux)}
        # The modules that a network may be built without: auxiliary classifiers, VGG's fc6 and fc7.
        self.optional = {name.split(".")[0] for name in aux} | set(getattr(family, "TORCH_OPTIONAL", ()))
        self.flatten = family.torch_flatten(variant) if hasattr(family, "torch_flatten") else {}
        self.conv_head = getattr(family.build(variant), "head", "") == CONV_HEAD
        self.rooms = {"backbone", "batch_stats", *self.heads}

    def __str__(self) -> str:
        return self.title

    def module(self, path: KeyPath) -> str:
        """Returns the name of a leaf's module."""
        return self.heads.get(path[0]) or ".".join(path[1:-1])

    def key(self, path: KeyPath) -> str:
        """Returns the name of a leaf's array in the file."""
        module, leaf = self.module(path), TORCH_LEAVES.get(path[-1], path[-1])
        return f"{module}.{leaf}" if module else leaf

    def inward(self, path: KeyPath, array: np.ndarray) -> np.ndarray:
        """Brings an array to the layout of its leaf."""
        if path[-1] != "kernel" or array.ndim < 2:
            return array
        if path[0] == "head" and self.conv_head and array.shape[2:] == (1, 1):
            array = array[:, :, 0, 0]
        h, w = self.flatten.get(self.module(path), (1, 1))
        if array.ndim == 2 and array.shape[1] % (h * w) == 0:
            array = array.reshape(array.shape[0], -1, h, w).transpose(2, 3, 1, 0)
            return array.reshape(-1, array.shape[-1])
        return array.transpose(*range(2, array.ndim), 1, 0)

    def outward(self, path: KeyPath, array: np.ndarray) -> np.ndarray:
        """The inverse of `inward`."""
        if path[-1] != "kernel" or array.ndim < 2:
            return array
        h, w = self.flatten.get(self.module(path), (1, 1))
        if array.ndim == 2:
            if array.shape[0] % (h * w):
                raise ValueError(
                    f"PyTorch's {self} flattens a map of {h}x{w} before {self.module(path)}; "
                    f"{'/'.join(path)} reads {array.shape[0]} inputs, of another image size"
                )
            array = array.reshape(h, w, -1, array.shape[1]).transpose(3, 2, 0, 1)
            array = array.reshape(array.shape[0], -1)
            return array[:, :, None, None] if path[0] == "head" and self.conv_head else array
        return array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))


class OwnNames(TorchNames):
    """The same for this package's own files: names are paths, and layouts stay."""

    def key(self, path: KeyPath) -> str:
        return "/".join(path)

    def inward(self, path: KeyPath, array: np.ndarray) -> np.ndarray:
        return array


def read_weights(path: str | Path, family: ModuleType, variant: str) -> dict[str, np.ndarray]:
    """Returns `read_state_dict` of a file; arrays of Caffe get the family's own names.

    Exports of version 0.1 put "params/" before this package's names, which is taken off.

    Raises:
      ValueError: the file cannot be read, or the family knows no layers of Caffe's.
    """
    arrays = read_state_dict(path)
    if any(name.startswith("params/backbone/") for name in arrays):
        return {name.removeprefix("params/"): array for name, array in arrays.items()}
    if Path(path).suffix.lower() != ".caffemodel":
        return arrays
    try:
        return from_caffe(arrays, family, variant)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def familiar(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays under the names of timm, OpenAI or torchvision, which each family reads.

    Raises:
      ValueError: a part of an attention is missing, or an array has no place in big_vision's network.
    """
    return openai_names(of_hugging_face(of_big_vision(arrays)))


def renamed(arrays: Mapping[str, np.ndarray], family: ModuleType, variant: str) -> dict[str, np.ndarray]:
    """Returns what a family's `import_weights` makes of arrays; their names may also be Hugging Face's or
    big_vision's.

    Raises:
      ValueError: an array is of a form that the family cannot read.
    """
    try:
        named = familiar(arrays)
        imported = family.import_weights(named, variant) if hasattr(family, "import_weights") else named
        return {name: np.asarray(a) for name, a in imported.items()}
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"no weights of {variant}: {error}") from error
