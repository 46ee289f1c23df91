"""Caffe's files of weights (.caffemodel), read without Caffe and without a package of Protobuf.

Such a file is a message NetParameter of Protobuf's wire format; the numbers of its fields are those of
Caffe's caffe.proto. A layer has a name, a type and its arrays, which Caffe calls blobs. Layers of the present
form (field 100) and of the one before it (field 2, "V1") are read. Every length is checked against the bytes
that are there, arrays are views of the file's bytes, and nothing is allocated for what a file merely claims.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]

VARINT, WIDE, BYTES, NARROW = 0, 1, 2, 5  # Protobuf's wire types; groups, 3 and 4, are not of caffe.proto
VARINT_BYTES = 10
LAYERS, V1_LAYERS = 100, 2  # of NetParameter
SHAPE, FLOATS, DOUBLES = 7, 5, 8  # of BlobProto
LEGACY_SHAPE = (1, 2, 3, 4)  # of BlobProto: num, channels, height, width
V1_TYPES = {4: "Convolution", 14: "InnerProduct", 39: "Deconvolution"}  # those that have arrays
LEAVES = {
    "BatchNorm": ("running_mean", "running_var", "factor"),
    **dict.fromkeys(("Convolution", "Deconvolution", "InnerProduct", "Scale"), ("weight", "bias")),
}
MAX_AXES = 32  # of Caffe's blobs
MAX_LAYERS = 10_000
MAX_BLOBS = 16  # of a layer
MAX_NAME = 200  # bytes of a layer's name
IMAGE_CHANNELS = 3  # of a color image: B, G, R in Caffe


class _Fields(NamedTuple):
    """The numbers of a layer's fields in one of its forms."""

    name: int
    type: int
    blobs: int


FORMS = {LAYERS: _Fields(1, 2, 7), V1_LAYERS: _Fields(4, 5, 6)}


def read_caffemodel(path: Path) -> Arrays:
    """Reads the arrays of a .caffemodel.

    Of a BatchNorm the sums are divided by its factor, as Caffe does; the scale and bias that follow it are
    those of a layer of their own, a Scale.

    Returns:
      {"conv1.weight": [O, I, h, w], "conv1.bias": [O], "ip1.weight": [O, I], "bn1.running_mean": [C], ...},
      under the layers' names; of layers of other kinds "name.0", "name.1" and so on.

    Raises:
      ValueError: the bytes are no NetParameter, or arrays and shapes disagree.
    """
    arrays: Arrays = {}
    layers = 0
    for field, value in _fields(memoryview(path.read_bytes())):
        if field not in FORMS:
            continue
        layers += 1
        if layers > MAX_LAYERS:
            raise ValueError(f"it has more than {MAX_LAYERS} layers")
        found = _layer(_message(value, "a layer"), FORMS[field])
        if twice := found.keys() & arrays.keys():
            raise ValueError(f"two layers have the name of {min(twice)!r}")
        arrays |= found
    if not arrays:
        raise ValueError("it has no layer with arrays: is it empty, or a solver's state?")
    return arrays


def from_caffe(arrays: Mapping[str, np.ndarray], family: ModuleType, variant: str) -> Arrays:
    """Returns the arrays of a .caffemodel under a family's own names, the first kernel's inputs in R, G, B.

    Args:
      arrays: as `read_caffemodel` returns them. Those of layers that the family does not know keep their
        names.
      family: module of models/ with `caffe_layers(variant)`: {Caffe's layer: module}, of which the first
        reads the image. A BatchNorm and its Scale are one module.
      variant: of the family.

    Raises:
      ValueError: the family has no `caffe_layers`, or none for the variant.
    """
    layers = family.caffe_layers(variant) if hasattr(family, "caffe_layers") else {}
    if not layers:
        raise ValueError(
            f"Caffe's layers are not known of {family.__name__.rpartition('.')[2]} {variant}; docs/models.md "
            "lists the networks that read .caffemodel"
        )
    named: Arrays = {}
    for name, array in arrays.items():
        layer, _, leaf = name.rpartition(".")
        if name == f"{next(iter(layers))}.weight" and array.ndim == 4 and array.shape[1] == IMAGE_CHANNELS:
            array = array[:, ::-1]
        own = f"{layers.get(layer, layer)}.{leaf}"
        if own in named:
            raise ValueError(f"two layers of the file are {own!r} of {variant}")
        named[own] = array
    return named


def _layer(content: memoryview, form: _Fields) -> Arrays:
    """Returns the arrays of a layer by name."""
    name, kind = "", ""
    blobs: list[np.ndarray] = []
    for field, value in _fields(content):
        if field == form.name:
            name = _text(value)
        elif field == form.type:
            kind = V1_TYPES.get(value, "") if isinstance(value, int) else _text(value)
        elif field == form.blobs:
            if len(blobs) == MAX_BLOBS:
                raise ValueError(f"the layer {name!r} has more than {MAX_BLOBS} arrays")
            blobs.append(_blob(_message(value, "an array"), name))
    if kind == "BatchNorm" and len(blobs) == 3:
        mean, variance, factor = blobs
        if factor.size != 1:
            raise ValueError(f"the factor of the BatchNorm {name!r} has {factor.size} numbers")
        share = 1 / factor.item() if factor.item() else 0.0
        blobs = [mean * np.float32(share), variance * np.float32(share)]
    leaves = LEAVES.get(kind, ())
    return {
        f"{name}.{leaves[i] if i < len(leaves) else i}": _without_ones(blob, kind, first=i == 0)
        for i, blob in enumerate(blobs)
    }


def _without_ones(blob: np.ndarray, kind: str, *, first: bool) -> np.ndarray:
    """Returns an array without the leading axes of one that V1 files give all that has less than four."""
    if kind not in LEAVES or (first and kind in ("Convolution", "Deconvolution")):
        return blob
    axes = 2 if first and kind == "InnerProduct" else 1
    leading = blob.ndim - axes
    return blob.reshape(blob.shape[leading:]) if set(blob.shape[: max(leading, 0)]) == {1} else blob


def _blob(content: memoryview, layer: str) -> np.ndarray:
    """Returns an array, a view of the content where it is in one piece."""
    pieces: dict[int, memoryview | bytearray] = {}
    legacy: dict[int, int] = {}
    shape: tuple[int, ...] | None = None
    for field, value in _fields(content):
        if field == SHAPE:
            shape = _dimensions(_message(value, "a shape"))
        elif field in LEGACY_SHAPE and isinstance(value, int):
            legacy[field] = value
        elif field in (FLOATS, DOUBLES):
            part = _message(value, "the numbers of an array")
            before = pieces.get(field)
            if before is None:
                pieces[field] = part
            elif isinstance(before, bytearray):
                before += part
            else:
                pieces[field] = bytearray(before) + part
    if shape is None:
        shape = tuple(legacy.get(field, 0) for field in LEGACY_SHAPE)
    kind, numbers = (DOUBLES, "<f8") if DOUBLES in pieces else (FLOATS, "<f4")
    raw = pieces.get(kind, b"")
    if len(raw) != math.prod(shape) * np.dtype(numbers).itemsize:
        raise ValueError(f"an array of the layer {layer!r} has {len(raw)} bytes, its shape is {shape}")
    return np.frombuffer(raw, numbers).reshape(shape)


def _dimensions(content: memoryview) -> tuple[int, ...]:
    shape: list[int] = []
    for field, value in _fields(content):
        if field == 1:
            shape += [value] if isinstance(value, int) else _varints(value)
        if len(shape) > MAX_AXES:
            raise ValueError(f"an array has more than {MAX_AXES} axes")
    return tuple(shape)


def _varints(content: memoryview) -> list[int]:
    """Returns packed integers; no more than one axis too many."""
    found: list[int] = []
    at = 0
    while at < len(content) and len(found) <= MAX_AXES:
        value, at = _varint(content, at)
        found.append(value)
    return found


def _message(value: int | memoryview, what: str) -> memoryview:
    if isinstance(value, int):
        raise ValueError(f"{what} is a number in it")
    return value


def _text(value: int | memoryview) -> str:
    content = _message(value, "a name")
    if len(content) > MAX_NAME:
        raise ValueError(f"a name has {len(content)} bytes, more than {MAX_NAME}")
    try:
        return bytes(content).decode()
    except UnicodeDecodeError as error:
        raise ValueError("no .caffemodel, or damaged: a name is no text") from error


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields the number and the value of each field of a message: an integer, or the bytes.

    Raises:
      ValueError: the bytes are no message of Protobuf.
    """
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(content, at)
            yield key >> 3, value
            continue
        if kind == BYTES:
            length, at = _varint(content, at)
        elif kind in (WIDE, NARROW):
            length = 8 if kind == WIDE else 4
        else:
            raise ValueError(f"no .caffemodel: Protobuf's wire type {kind} is not of Caffe's format")
        if not key >> 3 or length > len(content) - at:
            raise ValueError("no .caffemodel, or cut off: a field is longer than what holds it")
        yield key >> 3, content[at : at + length]
        at += length


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """Returns an integer of Protobuf's variable length, and the position after it."""
    value = 0
    for place, byte in enumerate(content[at : at + VARINT_BYTES]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("no .caffemodel, or cut off: an integer has no end")
