"""Files of weights, read into {name: array} without torch and without running what is in them.

PyTorch files are pickles, and a pickle is a program. Here one is interpreted by an unpickler that knows only
the few names a state dict is made of; every other name is refused, objects are never given a state, and each
tensor is checked against the bytes that are there before anything is allocated for it.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from imgcls_jax.runtime.buckets import as_path, copying, is_bucket
from imgcls_jax.runtime.files import whole
from imgcls_jax.runtime.restricted_pickle import RestrictedUnpickler, require_key, shown
from imgcls_jax.weights.caffe import read_caffemodel
from imgcls_jax.weights.sharded import INDEX, is_index, require_names, shards_of

Arrays = dict[str, np.ndarray]

TORCH_SUFFIXES = (".pth", ".pt", ".th", ".bin", ".ckpt", ".tar")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors", ".npz", ".caffemodel")
WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training loops keep the state dict
PREFIXES = ("module.", "_orig_mod.")  # of torch's DataParallel and torch.compile
# The stream format that torch wrote before version 1.6 opens with this number, pickled with protocol 2.
LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
LEGACY_PROTOCOL = 1001
MAX_DIMENSIONS = 64  # of NumPy
MAX_PREFIXES = 8  # at the beginning of every name
MAX_WRAPPERS = 32  # dictionaries of a checkpoint that are looked into
MAX_WRAPPER = 100  # characters of the key of one
MAX_SHOWN = 1000  # characters of an error that may quote the file
# Tensors may share a storage (tied weights), or be compressed (.npz); more than this many times the file's
# size is no state dict.
MAX_BYTES_PER_FILE_BYTE = 16

STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def read_state_dict(path: str | Path) -> Arrays:
    """Reads the weights of a file.

    A state dict inside a checkpoint (under state_dict, model_state_dict or model) is found; other keys, such
    as "student", become prefixes. The prefixes "module." and "_orig_mod." are taken off where every name has
    them, entries that are no tensors and num_batches_tracked are left out, and every floating type becomes
    float32.

    Args:
      path: .pth, .pt, .th (.bin, .ckpt, .pth.tar) as torch.save writes them, .safetensors, .npz or
        .caffemodel; or the index of several .safetensors beside it (sharded.py).

    Returns:
      {name: array}, in the file's order.

    Raises:
      ValueError: no such file, another suffix, a damaged file, or a pickle that asks for more than tensors.
    """
    path = as_path(path)
    suffix = INDEX if is_index(path) else path.suffix.lower()
    if is_bucket(path):
        raise ValueError(f"{path}: weights are read on this machine alone: `{copying(path)}` copies them")
    if not path.exists():
        raise ValueError(f"{path}: no such file of weights, and no workdir of a run")
    if suffix not in (*SUFFIXES, INDEX):
        raise ValueError(f"{path}: weights are read from {', '.join(SUFFIXES)}; got the suffix {suffix!r}")
    if not path.is_file():
        raise ValueError(f"{path}: is no file of weights")
    read = _read_torch if suffix in TORCH_SUFFIXES else _READERS[suffix]
    try:
        arrays = {name: _widen(array) for name, array in read(path).items()}
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged file makes its reader say
        raise ValueError(
            f"{path}: cannot be read as {suffix}: {str(error)[:MAX_SHOWN] or type(error).__name__}"
        ) from error
    arrays = {name: a for name, a in arrays.items() if not name.endswith("num_batches_tracked")}
    if not arrays:
        raise ValueError(f"{path}: holds no tensors under names, so no state dict")
    return arrays


def write_safetensors(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes {name: array} as .safetensors; the file appears whole or not at all.

    Args:
      path: of the file; its folder is made where needed.
      arrays: of any one dtype that NumPy has, or bfloat16.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _safetensors().save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
    with whole(path) as file:
        file.write(content)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("files of .safetensors need that package: pip install safetensors") from error
    return safetensors.numpy


def _read_safetensors(path: Path) -> Arrays:
    return _strip_prefixes(_safetensors().load_file(path))


def _read_sharded(path: Path) -> Arrays:
    read = _safetensors().load_file
    arrays: Arrays = {}
    for file, names in shards_of(path).items():
        shard = path.with_name(file)
        if not shard.is_file():
            raise ValueError(f"{shard} is missing, of which the index says that it holds {len(names)} arrays")
        found = read(shard)
        require_names(file, found, names)
        arrays |= found
    return _strip_prefixes(arrays)


def _read_npz(path: Path) -> Arrays:
    with zipfile.ZipFile(path) as archive:
        _check_claim(sum(member.file_size for member in archive.infolist()), path.stat().st_size)
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    # NumPy knows no bfloat16 and writes two bytes of no type.
    return _strip_prefixes(
        {n: a.view(jnp.bfloat16) if a.dtype == np.dtype("V2") else a for n, a in found.items()}
    )


_READERS = {
    ".safetensors": _read_safetensors,
    INDEX: _read_sharded,
    ".npz": _read_npz,
    ".caffemodel": read_caffemodel,
}


def _widen(array: np.ndarray) -> np.ndarray:
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return np.ascontiguousarray(array, np.float32 if floating else array.dtype).reshape(array.shape)


def _check_claim(total: int, file_size: int) -> None:
    if total > MAX_BYTES_PER_FILE_BYTE * file_size:
        raise ValueError(f"its tensors claim {total} bytes, far more than the file's {file_size}")


def _strip_prefixes(named: dict[str, Any]) -> dict[str, Any]:
    for _ in range(MAX_PREFIXES + 1):
        prefix = next((p for p in PREFIXES if named and all(name.startswith(p) for name in named)), None)
        if prefix is None:
            return named
        named = {name.removeprefix(prefix): value for name, value in named.items()}
    raise ValueError(f"all its names begin with more than {MAX_PREFIXES} prefixes such as {PREFIXES[0]!r}")


# PyTorch's files. Unpickling gives records, not arrays: what is no part of the state dict (the optimizer's
# moments, say) is never read.


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int  # elements of the whole storage
    start: int = 0  # of a view of it, in elements


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements, like offset


class _Ignored:
    """Stands for a harmless object that checkpoints carry beside the tensors; keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Ignored:
        return object.__new__(cls)


def _natural(*numbers: Any) -> bool:
    return all(type(number) is int and 0 <= number < 2**63 for number in numbers)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """Returns the record of a tensor, once each of its elements is known to lie within the storage."""
    shape, strides = tuple(shape), tuple(strides)
    sound = isinstance(storage, _Storage) and _natural(offset, *shape, *strides)
    if not sound or len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"a malformed tensor: offset, shape, strides are {shown([offset, shape, strides])}")
    count = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count and (last >= storage.size or count > storage.size):
        raise ValueError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} reaches beyond "
            f"its storage {storage.key!r} of {storage.size} elements"
        )
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    pairs = [(key, value) for key, value in pairs]
    for key, _ in pairs:
        require_key(key)
    return OrderedDict(pairs)


# Everything that a pickle may name. All of it is inert: records, containers, placeholders.
_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch", "Size"): list,
    ("argparse", "Namespace"): _Ignored,
    ("collections", "Counter"): _Ignored,
    ("_codecs", "encode"): _Ignored,
    ("numpy", "dtype"): _Ignored,
    ("numpy.core.multiarray", "scalar"): _Ignored,
    ("numpy._core.multiarray", "scalar"): _Ignored,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class _Unpickler(RestrictedUnpickler):
    """Unpickles records of tensors and plain containers."""

    allowed = _GLOBALS
    kind = "state dict"
    way_out = "Save the weights alone: torch.save(model.state_dict(), PATH), or as .safetensors"

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.itemsizes: dict[str, int] = {}  # of the storages named so far, by key

    def persistent_load(self, pid: Any) -> _Storage:
        sound = isinstance(pid, list) and len(pid) in (5, 6) and pid[0] == "storage" and _natural(pid[4])
        if not sound or not isinstance(pid[1], np.dtype) or not isinstance(pid[2], str):
            raise ValueError(f"a malformed reference to a storage: {shown(pid)}")
        if self.itemsizes.setdefault(pid[2], pid[1].itemsize) != pid[1].itemsize:
            raise ValueError(f"the storage {pid[2]!r} is given two types")
        view = pid[5] if len(pid) == 6 else None  # (key, offset, size) of a part of the storage, legacy only
        if view is None:
            return _Storage(pid[2], pid[1], pid[4])
        if not isinstance(view, list) or len(view) != 3 or not _natural(*view[1:]) or sum(view[1:]) > pid[4]:
            raise ValueError(f"a malformed view of a storage: {shown(pid)}")
        return _Storage(pid[2], pid[1], view[2], start=view[1])


def _read_torch(path: Path) -> Arrays:
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            return _read_torch_zip(file, path.stat().st_size)
        file.seek(0)
        if file.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC:
            return _read_torch_legacy(file, path.stat().st_size)
    raise ValueError("neither a zip archive nor the older stream that torch.save writes; is the file whole?")


def _read_torch_zip(file: BinaryIO, file_size: int) -> Arrays:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in members if re.fullmatch("[^/]+/data.pkl", name)]
        if len(roots) != 1 or f"{roots[0]}constants.pkl" in members:
            raise ValueError(
                "not an archive of torch.save (no data.pkl of its own, or a TorchScript program); "
                "save the weights alone: torch.save(model.state_dict(), PATH)"
            )
        root = roots[0]
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members.values())
        if not stored or sum(member.file_size for member in members.values()) > file_size:
            raise ValueError("its members are compressed or overlap, which torch.save never does")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("it was written on a machine of big-endian byte order")
        tensors = _find_state_dict(_Unpickler(io.BytesIO(archive.read(f"{root}data.pkl"))).load())

        def read_storage(storage: _Storage) -> bytes:
            name = f"{root}data/{storage.key}"
            if name not in members:
                raise ValueError(f"the storage {storage.key!r} is not in the archive")
            return archive.read(name)

        return _materialize(tensors, read_storage, file_size)


def _read_torch_legacy(file: BinaryIO, file_size: int) -> Arrays:
    """Reads the stream: protocol, system, the pickle, the storages' keys; then each one's size and bytes."""
    protocol, system = (_Unpickler(file).load() for _ in range(2))
    if protocol != LEGACY_PROTOCOL or not (isinstance(system, dict) and system.get("little_endian") is True):
        raise ValueError(
            f"protocol {shown(protocol)} and system {shown(system)} are not of a little-endian machine"
        )
    unpickler = _Unpickler(file)
    tensors = _find_state_dict(unpickler.load())
    used = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
    keys = _Unpickler(file).load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its list of storages is malformed")
    itemsizes = unpickler.itemsizes
    contents: dict[str, bytes] = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        if key not in itemsizes or not 0 <= count * itemsizes[key] <= file_size - file.tell():
            raise ValueError(f"it ends within the storage {key!r}, or that storage is unknown")
        if key in used:
            contents[key] = file.read(count * itemsizes[key])
        else:
            file.seek(count * itemsizes[key], 1)
    missing = sorted(set(used) - set(contents))
    if missing:
        raise ValueError(f"the storage {missing[0]!r} is not in the file")
    return _materialize(tensors, lambda storage: contents[storage.key], file_size)


def _find_state_dict(found: Any) -> dict[str, _Tensor]:
    """Returns the tensors of a state dict, or of the one within a checkpoint."""
    for _ in range(len(WRAPPERS) + 1):
        if not isinstance(found, dict):
            break
        inner = next((found[key] for key in WRAPPERS if isinstance(found.get(key), dict)), None)
        if inner is None:
            return _strip_prefixes(_named(found))
        found = inner
    raise ValueError(f"it holds a {type(found).__name__}, not a dictionary of tensors")


def _named(found: dict[Any, Any]) -> dict[str, _Tensor]:
    """Returns the tensors of a dictionary; those of its dictionaries too where it is no state dict itself.

    A checkpoint of {"student": ..., "teacher": ...} gives names that begin with "student." and "teacher.".
    """
    names = {key: value for key, value in found.items() if isinstance(key, str)}
    named = {key: value for key, value in names.items() if isinstance(value, _Tensor)}
    if any("." in key for key in named):
        return named
    inner = {id(value): (key, value) for key, value in names.items() if isinstance(value, dict)}
    for key, tensors in list(inner.values())[:MAX_WRAPPERS]:  # each once, however often it is there
        if len(key) <= MAX_WRAPPER:
            named |= {
                f"{key}.{name}": tensor
                for name, tensor in tensors.items()
                if isinstance(name, str) and isinstance(tensor, _Tensor)
            }
    return named


def _materialize(
    tensors: Mapping[str, _Tensor], read_storage: Callable[[_Storage], bytes], file_size: int
) -> Arrays:
    """Turns records into arrays, views of the bytes read."""
    total = sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in tensors.values())
    _check_claim(total, file_size)
    storages: dict[str, bytes] = {}
    arrays = {}
    for name, (storage, offset, shape, strides) in tensors.items():
        if storage.key not in storages:
            storages[storage.key] = read_storage(storage)
        content, itemsize = storages[storage.key], storage.dtype.itemsize
        if len(content) < (storage.start + storage.size) * itemsize:
            raise ValueError(f"the storage {storage.key!r} has {len(content)} bytes, fewer than {name} needs")
        if 0 in shape:
            arrays[name] = np.zeros(shape, storage.dtype)
            continue
        byte_strides = [stride * itemsize for stride in strides]
        start = (storage.start + offset) * itemsize
        arrays[name] = np.ndarray(shape, storage.dtype, content, start, byte_strides)
    return arrays
