"""Weights from elsewhere: PyTorch's names and layouts to params and batch_stats, and back.

One rule serves every family, since modules bear torchvision's names. The path of a module, joined with ".",
is its name in the state dict; kernel and scale are its weight, mean and var its running statistics. A
convolution goes from [O, I, h, w] to [h, w, I, O], grouped and depthwise ones alike, a linear layer from
[O, I] to [I, O], and where it reads a flattened map its inputs go from the order C, h, w to h, w, C.

A family's functions for this:
  torch_head(variant): name of the final linear layer, which becomes params["head"]["classifier"].
  torch_flatten(variant): {module: (h, w)} of the linear layers that read a flattened map; optional.
  torch_aux_heads(variant): names of the auxiliary classifiers' last layers, which become
    params["aux_head_0"]["classifier"] and so on; optional.
  import_weights(arrays, variant), export_weights(arrays, variant): the way from the names and shapes of a
    file to those that the rule reads, and back; optional.
  timm_weights(arrays, variant): the way from those that the rule reads to timm's, where these are others.
  caffe_layers(variant): {Caffe's layer: module}, as `from_caffe` has it; optional.

This package's own files (.safetensors) name an array by its path: "backbone/layer1.0/conv1/kernel",
"head/classifier/bias", "batch_stats/bn1/mean".
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.weights import layout
from imgcls_jax.weights.clip_names import ROOMS, ClipNames, of_clip
from imgcls_jax.weights.files import read_state_dict, write_safetensors
from imgcls_jax.weights.layout import CONV_HEAD, KeyPath, OwnNames, TorchNames, read_weights, renamed
from imgcls_jax.weights.positions import grid_of, resize_positions
from imgcls_jax.weights.prefixes import under_prefix

__all__ = [
    "Report",
    "export_names",
    "import_names",
    "is_own",
    "load",
    "load_own",
    "load_torch",
    "network_of",
    "read_state_dict",
    "read_weights",
    "renamed",
    "target_shapes",
    "to_torch",
    "write_safetensors",
]

Arrays = dict[str, np.ndarray]
Tree = Mapping[str, Any]

POSITIONS = ("pos_embedding", "pos_embed")
EXPORTED = "weights.safetensors"  # the file of a folder of tools.export
SHOWN = 5  # names of each kind in an error


@dataclasses.dataclass(frozen=True)
class Report:
    """How a file's arrays were used.

    Attributes:
      loaded: how many were used.
      notes: a sentence on each thing that is not as it was in the file: a classifier that starts afresh, an
        input layer summed to gray, positions interpolated.
    """

    loaded: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join((f"{self.loaded} arrays loaded", *self.notes))


Loaded = tuple[dict[str, Any], dict[str, Any], Report]


def load(
    path: str | Path, family: ModuleType, variant: str, target: Tree, *, positions: str = "timm"
) -> Loaded:
    """Loads a file, of PyTorch's, Caffe's or this package's own names; otherwise as `load_torch`."""
    arrays = read_weights(path, family, variant)
    try:
        read = load_own if is_own(arrays) else load_torch
        return read(arrays, family, variant, target, positions=positions)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_torch(
    state_dict: Mapping[str, np.ndarray],
    family: ModuleType,
    variant: str,
    target: Tree,
    *,
    positions: str = "timm",
) -> Loaded:
    """Turns a PyTorch state dict into params and batch_stats.

    The network may stand under a prefix, which prefixes.py finds. Of what is there, every array must be used
    once, and every leaf filled, with three exceptions. A classifier of another number of classes or of
    another kind is left out, and its room is not in the params returned; so are auxiliary classifiers and
    other parts that the target is built without. A convolution of 3 input channels is summed over them where
    the target has 1: a gray image then counts as one with R = G = B. Of CLIP's files the text tower, the
    projection and the scale are read where the target has them. Position embeddings of another square grid
    are interpolated, bicubically, in timm's way unless `positions` says otherwise.

    Args:
      state_dict: {name: float array}, as `read_state_dict` returns it.
      family: module of models/.
      variant: of the family.
      target: {"params": {"backbone": ..., "head": ..., ...}, "batch_stats": ...} of arrays or shapes; rooms
        of params other than backbone, head, aux_head_0.. and CLIP's are passed over.
      positions: as `resize_positions` has it.

    Returns:
      params {"backbone", and "head", "aux_head_0".., "projection", "text", "log_scale" where they could be
      filled}, batch_stats, and a `Report`.

    Raises:
      ValueError: listing what is missing, what is left over, what has another shape, and what holds NaN,
        infinity or other things than floats.
    """
    arrays, note = network_of(layout.familiar(state_dict), family, variant, target)
    arrays = layout.familiar(arrays)  # where they stood under a prefix
    texts, told = _texts(arrays, target, positions)
    arrays = renamed(arrays, family, variant)
    try:
        params, batch_stats, report = _fill(arrays, TorchNames(family, variant), target, positions)
    except ValueError as error:
        raise ValueError(f"{note}: {error}" if note else str(error)) from error
    head = f"{family.torch_head(variant)}:"  # the family's name of CLIP's projection of the images
    notes = [own for own in (note, *report.notes, told) if own and not (texts and own.startswith(head))]
    return params | texts, batch_stats, Report(report.loaded + len(dict(_leaves(texts))), tuple(notes))


def _texts(arrays: Arrays, target: Tree, positions: str) -> tuple[dict[str, Any], str]:
    """Returns the rooms of params that CLIP has beside the backbone, {} where the target or the file lacks
    them, and a note, "" where the target does."""
    rooms = ROOMS & target["params"].keys()
    found = of_clip(arrays) if rooms else {}
    if not found:
        return {}, f"{', '.join(sorted(rooms))}: not in the file, start afresh" if rooms else ""
    params, _, _ = _fill(found, ClipNames(), {"params": target["params"]}, positions)
    return params, f"{', '.join(sorted(rooms))}: read"


def network_of(
    state_dict: Mapping[str, np.ndarray],
    family: ModuleType,
    variant: str,
    target: Tree,
    prefix: str = "",
) -> tuple[Arrays, str]:
    """`under_prefix` for the backbone of a target."""
    names = TorchNames(family, variant)
    backbone = {"backbone": target["params"]["backbone"], "batch_stats": target.get("batch_stats", {})}
    needed = frozenset(names.key(path) for path, _ in _leaves(backbone))
    return under_prefix(state_dict, family, variant, needed, prefix)


def load_own(
    arrays: Mapping[str, np.ndarray],
    family: ModuleType,
    variant: str,
    target: Tree,
    *,
    positions: str = "timm",
) -> Loaded:
    """`load_torch` for arrays of this package's names; other rooms (a projector) are left out."""
    names = OwnNames(family, variant)
    known = {name: a for name, a in arrays.items() if name.split("/")[0] in names.rooms}
    params, batch_stats, report = _fill(known, names, target, positions)
    others = sorted({name.split("/")[0] for name in arrays} - names.rooms)
    notes = [f"{room}: left out, no part of a backbone or its classifier" for room in others]
    return params, batch_stats, Report(report.loaded, (*report.notes, *notes))


def to_torch(
    params: Tree, batch_stats: Tree, family: ModuleType, variant: str, *, to_timm: bool = False
) -> Arrays:
    """Returns the PyTorch state dict, the inverse of `load_torch`, without num_batches_tracked.

    Args:
      params: {"backbone", and any of "head", "aux_head_0"..}.
      batch_stats: of the backbone.
      family, variant: as in `load_torch`.
      to_timm: timm's names and shapes, where the family has `timm_weights`, instead of the released ones.

    Raises:
      ValueError: a room or a head that PyTorch's network does not have, or a linear layer that reads a
        flattened map of another size than PyTorch's.
    """
    names = TorchNames(family, variant)
    arrays = {}
    for path, leaf in _leaves({**params, "batch_stats": batch_stats}):
        if path[0] not in names.rooms or (path[0] in names.heads and path[1:-1] != ("classifier",)):
            raise ValueError(f"PyTorch's {names} has no counterpart of {'/'.join(path)}")
        arrays[names.key(path)] = names.outward(path, np.asarray(leaf))
    bring = getattr(family, "timm_weights", None) if to_timm else None
    bring = bring or getattr(family, "export_weights", None)
    return {name: np.asarray(a) for name, a in bring(arrays, variant).items()} if bring else arrays


def export_names(params: Tree, batch_stats: Tree) -> Arrays:
    """Returns {"backbone/conv1/kernel": array, ..., "batch_stats/bn1/mean": array}."""
    return {
        "/".join(path): np.asarray(leaf) for path, leaf in _leaves({**params, "batch_stats": batch_stats})
    }


def import_names(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns params and batch_stats, the inverse of `export_names`.

    Raises:
      ValueError: the arrays do not have this package's names.
    """
    if not is_own(arrays):
        raise ValueError(f"expected names such as 'backbone/conv1/kernel'; got {_some(sorted(arrays))}")
    params = _tree({tuple(name.split("/")): array for name, array in arrays.items()})
    return params, params.pop("batch_stats", {})


def is_own(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the arrays have this package's names."""
    return any(name.startswith("backbone/") for name in arrays)


def target_shapes(
    backbone: Any, image_shape: tuple[int, int, int], num_classes: int, *, aux: bool = False
) -> dict[str, Any]:
    """Returns the target of a backbone with its classifiers, in shapes: nothing is computed.

    Args:
      backbone: module of models/.
      image_shape: (H, W, C).
      num_classes: K.
      aux: with the auxiliary classifiers, which the backbone has been built with.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    features, variables = jax.eval_shape(
        lambda x: backbone.init_with_output(jax.random.key(0), x, train=False), image
    )

    def classifier(inputs: int) -> dict[str, Any]:
        shapes = {"kernel": (inputs, num_classes), "bias": (num_classes,)}
        return {"classifier": {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in shapes.items()}}

    read = features.map if getattr(backbone, "head", "") == CONV_HEAD else features.embedding
    params = {"backbone": variables["params"], "head": classifier(read.shape[-1])}
    if aux:
        params |= {f"aux_head_{i}": classifier(x.shape[-1]) for i, x in enumerate(features.aux)}
    return {"params": params, "batch_stats": variables.get("batch_stats", {})}


def _fill(arrays: Arrays, names: TorchNames | ClipNames, target: Tree, positions: str) -> Loaded:
    """Fills the target's leaves from `arrays`, which it consumes."""
    rooms = {room: tree for room, tree in target["params"].items() if room in names.rooms}
    leaves = dict(_leaves({**rooms, "batch_stats": target.get("batch_stats", {})}))
    notes = [*_drop_heads(arrays, leaves, names), *_drop_optional(arrays, leaves, names)]
    missing, misshapen, unsound, filled = [], [], [], {}
    for path, leaf in leaves.items():
        key, shape = names.key(path), tuple(leaf.shape)
        if key not in arrays:
            missing.append(key)
            continue
        array = arrays.pop(key)
        if not jnp.issubdtype(array.dtype, jnp.floating) or not np.isfinite(array).all():
            unsound.append(f"{key} ({array.dtype})")
            continue
        array, note = _adapt(names.inward(path, array), shape, path, positions)
        if note:
            notes.append(f"{key}: {note}")
        if array.shape == shape:
            filled[path] = np.array(array, leaf.dtype, order="C")
        else:
            hint = " (a flattened map: the weights are for another image size)"
            misshapen.append(
                f"{key} is {array.shape}, not {shape}{hint * (names.module(path) in names.flatten)}"
            )
    problems = {
        "missing": missing,
        "left over": sorted(arrays),
        "of another shape": misshapen,
        "not of finite floats": unsound,
    }
    if any(problems.values()):
        listed = [f"{len(found)} {what}: {_some(found)}" for what, found in problems.items() if found]
        raise ValueError(f"the weights do not fit {names}; {'; '.join(listed)}")
    params = _tree(filled)
    return params, params.pop("batch_stats", {}), Report(len(filled), tuple(notes))


def _drop_heads(arrays: Arrays, leaves: dict[KeyPath, Any], names: TorchNames | ClipNames) -> Iterator[str]:
    """Takes classifiers that do not go together out of arrays and leaves; yields why, a note each."""
    known = {names.key(path) for path in leaves}
    for room, module in names.heads.items():
        kernel, bias = (room, "classifier", "kernel"), (room, "classifier", "bias")
        ours = {path: tuple(leaf.shape) for path, leaf in leaves.items() if path[0] == room}
        found = {path: arrays[names.key(path)] for path in (kernel, bias) if names.key(path) in arrays}
        theirs = {path: names.inward(path, array).shape for path, array in found.items()}
        below = [key for key in arrays if key.startswith(f"{module}.") and key not in known]
        if below and not theirs:
            yield f"{module}: left out, {len(below)} arrays of another head than a linear layer"
            for key in below:
                del arrays[key]
        if not ours and not theirs:
            continue
        if not theirs:
            reason = "not in the file, starts afresh"
        elif not ours:
            reason = "left out, nothing here uses it"
        elif set(ours) != {kernel, bias} or len(ours[kernel]) != len(theirs.get(kernel, ours[kernel])):
            reason = "left out, the head here is of another kind and starts afresh"
        elif bias in theirs and theirs[bias] != ours[bias]:
            classes = math.prod(theirs[bias])
            reason = f"left out for its {classes} classes; the head of {ours[bias][0]} starts afresh"
        elif module not in names.flatten and theirs.get(kernel, ours[kernel]) != ours[kernel]:
            reason = (
                f"left out, it reads {theirs[kernel][0]} features; the head here reads {ours[kernel][0]} and "
                "starts afresh"
            )
        else:
            continue
        yield f"{module}: {reason}"
        for path in theirs:
            del arrays[names.key(path)]
        for own in ours:
            del leaves[own]


def _drop_optional(
    arrays: Arrays, leaves: dict[KeyPath, Any], names: TorchNames | ClipNames
) -> Iterator[str]:
    """Takes auxiliary branches and other parts that the target is built without out of arrays; yields a note
    each."""

    def root(key: str) -> str:
        return re.split("[./]", key.removeprefix("backbone/").removeprefix("batch_stats/"))[0]

    present = {path[1].split(".")[0] for path in leaves if path[0] == "backbone"}
    for module in sorted(names.optional - present):
        found = [key for key in arrays if root(key) == module]
        if found:
            yield f"{module}: left out, the network here is built without it"
        for key in found:
            del arrays[key]


def _adapt(
    array: np.ndarray, shape: tuple[int, ...], path: KeyPath, positions: str
) -> tuple[np.ndarray, str]:
    """Returns the array, fitted to a gray input or another grid of positions, and a note where it was."""
    if path[-1] == "kernel" and array.ndim == 4 and array.shape[2] == 3:
        if shape == (*array.shape[:2], 1, array.shape[3]):
            return array.sum(axis=2, keepdims=True), "summed over R, G and B for gray images"
    if path[-1].endswith(POSITIONS) and array.ndim == 3 and array.shape != shape:
        theirs, ours = grid_of(array.shape[1]), grid_of(shape[1])
        if array.shape[::2] == shape[::2] and theirs and ours and theirs[0] == ours[0]:
            (prefix, old), (_, new) = theirs, ours
            square = array[:, prefix:].reshape(1, old, old, -1)
            square = resize_positions(square, new, positions)
            tokens = np.concatenate([array[:, :prefix], square.reshape(1, new * new, -1)], axis=1)
            return (
                tokens,
                f"interpolated in {positions}'s way from a grid of {old}x{old} to {new}x{new}",
            )
    return array, ""


def _leaves(tree: Tree, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _tree(leaves: Mapping[KeyPath, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
