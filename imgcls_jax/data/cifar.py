"""The files of CIFAR-10 and CIFAR-100: the binary version, and the pickled one without running the pickle."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.data.folders import Origin, expanded, locate
from imgcls_jax.data.source import Root, check_labels, read_regular
from imgcls_jax.runtime.restricted_pickle import RestrictedUnpickler

MAX_CIFAR_BYTES = 2**28  # the largest, train.bin of CIFAR-100, has 0.15 GB
PIXELS = 3 * 32 * 32


class _Array:
    """Stands for an array in a pickle.

    Attributes:
      state: of a file's array, [version, shape, dtype, is Fortran order, text of its bytes].
    """

    state: Any = None

    def __new__(cls, *args: Any) -> _Array:
        return object.__new__(cls)


class _Dtype:
    """Stands for a dtype in a pickle; `name` is "u1" for bytes."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = name


class _Unpickler(RestrictedUnpickler):
    """Unpickles the lists, texts and arrays of bytes of a batch; strings of Python 2 come as latin-1."""

    kind = "CIFAR batch"
    way_out = "Unpack the official archive again"
    allowed = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("_codecs", "encode"): lambda text, encoding: text,  # Python 3 writes bytes so, as latin-1
    }

    def give_state(self, record: Any, state: Any) -> None:
        if isinstance(record, _Array):
            record.state = state


def read_batch(path: Path) -> dict[str, Any]:
    """Reads a pickled batch, or the names of its classes.

    Returns:
      {name: list, text, or _Array}, as in the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no such pickle, or asks for anything but lists and arrays; nothing of it was run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; unpack the official archive again")
    try:
        found = _Unpickler(io.BytesIO(read_regular(path, MAX_CIFAR_BYTES)), encoding="latin1").load()
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, not a dictionary")
    except Exception as error:  # whatever a damaged pickle makes its reader say
        raise ValueError(f"{path}: no CIFAR batch: {str(error)[:300] or type(error).__name__}") from error
    return {_text(name): value for name, value in found.items()}


def _text(word: Any) -> Any:
    """Returns a word as text: copies that Python 3 pickled have bytes in their place."""
    return word.decode("latin1") if isinstance(word, bytes) else word


def read_pickled(path: Path, columns: Sequence[tuple[str, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Reads a batch of the pickled version; arguments and result otherwise as of `read_cifar`.

    Args:
      path: of the file.
      columns: (name of a list of labels, number of its classes).
    """
    batch = read_batch(path)
    planes = _bytes_of(path, batch.get("data")).reshape(-1, 3, 32, 32)  # [N, C, H, W]
    labels = np.zeros((len(planes), len(columns)), np.uint8)
    for column, (name, num_classes) in enumerate(columns):
        own = batch.get(name)
        if (
            not isinstance(own, list)
            or len(own) != len(planes)
            or not all(type(label) is int and 0 <= label < 256 for label in own)
        ):
            raise ValueError(f"{path}: {name!r} must be a list of {len(planes)} labels, one an image")
        labels[:, column] = own
        check_labels(labels[:, column], num_classes, path)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _bytes_of(path: Path, array: Any) -> np.ndarray:
    """Returns the pixels of a pickled batch, uint8 [N, 3072]."""
    state = array.state if isinstance(array, _Array) else None
    if isinstance(state, list) and len(state) == 5:
        _, shape, dtype, fortran, content = state
        if isinstance(content, str):
            content = content.encode("latin1", "ignore")
        is_bytes = isinstance(dtype, _Dtype) and dtype.name == "u1" and not fortran
        if is_bytes and isinstance(content, bytes) and len(content) % PIXELS == 0:
            if shape == [len(content) // PIXELS, PIXELS]:
                return np.frombuffer(content, np.uint8).reshape(-1, PIXELS)
    raise ValueError(f"{path}: 'data' must be an array of bytes [N, {PIXELS}]")


def read_pickled_names(path: Path, name: str, expected: int) -> tuple[str, ...]:
    """Returns the names of the classes in a file of the pickled version."""
    names = read_batch(path).get(name)
    names = list(map(_text, names)) if isinstance(names, list) else names
    if not isinstance(names, list) or len(names) != expected or not all(isinstance(n, str) for n in names):
        raise ValueError(f"{path}: {name!r} must be a list of {expected} class names")
    return tuple(names)


def read_cifar(path: Path, label_counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Reads one binary batch; `label_counts` holds the number of classes behind each label byte of a record.

    Returns:
        (images uint8 [N, 32, 32, 3], label bytes uint8 [N, len(label_counts)]).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; unpack the official binary archive again")
    content = np.fromfile(path, np.uint8, count=MAX_CIFAR_BYTES)
    record = len(label_counts) + PIXELS
    if not len(content) or len(content) % record:
        raise ValueError(
            f"{path}: expected records of {record} bytes, got {len(content)} bytes in all; it is cut short "
            f"or no binary CIFAR batch, so unpack the official binary archive again"
        )
    records = content.reshape(-1, record)
    for column, num_classes in enumerate(label_counts):
        check_labels(records[:, column], num_classes, path)
    planes = records[:, len(label_counts) :].reshape(-1, 3, 32, 32)  # [N, C, H, W]
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, : len(label_counts)].copy()


def locate_cifar(
    root: Root, binary: tuple[str, str], pickled: tuple[str, str], origin: Origin
) -> tuple[Path, bool]:
    """Returns the folder of a version, and whether it is the pickled one, which is read where it is alone.

    Args:
      root: the folder of a version, or the one that holds it.
      binary, pickled: of each version, (its folder, a file in it).
      origin: where it comes from.

    Raises:
      FileNotFoundError: neither is there.
    """
    try:
        return locate(root, *binary, origin.remedy), False
    except FileNotFoundError:
        folders = (expanded(root), expanded(root) / pickled[0])
        found = [folder for folder in folders if (folder / pickled[1]).is_file()]
        if not found:
            raise
        return found[0], True
