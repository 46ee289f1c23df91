"""Files of named arrays (.npz), written whole, and read so that nothing in them is executed or lies about its
size."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from imgcls_jax.runtime.buckets import is_bucket
from imgcls_jax.runtime.files import naming, read_bytes, whole

MAX_BYTES = 2**34  # of a file in an object store, which is read whole


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256, in hex, over name, dtype, shape and bytes of every array, sorted by name."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes arrays under their names, whole or not at all, and returns the path.

    Raises:
      OSError: the file cannot be written; names it.
    """
    with naming(file, way_out=""), whole(file) as opened:
        np.savez(opened, allow_pickle=False, **arrays)
    return file


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Reads what `write_arrays` wrote.

    Raises:
      ValueError: an array is larger in memory than in the file, as `write_arrays` makes none.
      Exception: whatever a damaged file makes NumPy raise.
    """
    if is_bucket(file):
        held = read_bytes(file, MAX_BYTES)
        return _read(io.BytesIO(held), len(held))
    return _read(file, file.stat().st_size)


def _read(file: Path | io.BytesIO, size: int) -> dict[str, np.ndarray]:
    _require_honest_size(file, size)
    if isinstance(file, io.BytesIO):
        file.seek(0)
    with np.load(file, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def _require_honest_size(file: Path | io.BytesIO, size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed")
        if sum(member.file_size for member in members) > size:
            raise ValueError("its columns overlap")
        for member in members:
            with archive.open(member) as column:
                version = np.lib.format.read_magic(column)
                if version != (1, 0):
                    raise ValueError(f"the column {member.filename} is of version {version}")
                shape, _, dtype = np.lib.format.read_array_header_1_0(column)
                if not dtype.itemsize or math.prod(shape) * dtype.itemsize > member.file_size:
                    raise ValueError(f"the column {member.filename} claims more than the file holds")
