"""Data sets that `tools.dataset pack` has written."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.data.contents import contents
from imgcls_jax.data.folders import named_split, require_folder
from imgcls_jax.data.packed import at_hand, index_name, opened_shard, read_description, read_record
from imgcls_jax.data.source import Root

MAX_INDEX_BYTES = 2**31
MAX_OPEN = 128  # shards; a process may often open 1,024 files


class ArrayRecord:
    """A packed split, as data/packed.py writes it, read by index.

    Elements have what those of its source had: the image, encoded or as an array, the label, and further
    fields. Names and labels are the source's own, and so is the digest of the data.

    It opens its shards at the first read in each process, and drops them when it is pickled.

    Args:
        split: as it was packed, or a name that means the same.
        root: the folder; a split in an object store is first copied, as `at_hand` says.

    Raises:
        ImportError: array_record is missing; when read.
        FileNotFoundError: root, the split's description or a file of it is missing.
        ValueError: a description, an index or a shard that is damaged, or files that are not of one split;
            when read, a record that is damaged.
    """

    def __init__(self, split: str, *, root: Root) -> None:
        holds = f"{split}.json and what `tools.dataset pack` wrote with it"
        folder = require_folder(root, holds, in_store=True)
        splits = [path.stem for path in folder.glob("*.json")]
        name = named_split(split, splits, folder)
        if name is None:
            known = f"it holds {sorted(splits)}" if splits else "no split was packed there, or not to its end"
            raise FileNotFoundError(f"{folder / split}.json is missing: {known}")
        self._folder = at_hand(folder, name)
        self.root = self._folder / f"{name}.json"  # so that images of two splits with one name are two
        told = read_description(self.root)
        for shard in told.shards:
            self._require_size(shard.file, shard.bytes)
        self.class_names, self._shards = told.class_names, told.shards
        self.labels, self.paths, groups = _read_index(self._folder / index_name(name))
        if groups is not None:
            self.groups = groups
        self._ends = np.cumsum([shard.examples for shard in told.shards])
        if not len(self.paths) == len(self.labels) == told.examples == (self._ends[-1] if told.shards else 0):
            raise ValueError(f"{self._folder}: the files of {name!r} are not of one split; pack it again")
        if contents(self).digest != told.digest:
            raise ValueError(
                f"{self._folder / index_name(name)} is not what {name}.json describes; pack it again"
            )
        self.rule = f"packed in {folder}" + (f" {told.rule}" if told.rule else "")
        self.left_out = told.left_out
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def _require_size(self, file: str, size: int) -> None:
        path = self._folder / file
        try:
            found = path.stat().st_size
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing; copy it again") from None
        if found != size:
            raise ValueError(f"{path} has {found:,} bytes, and {size:,} when it was packed; copy it again")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        shard = int(np.searchsorted(self._ends, index, side="right"))
        first = self._ends[shard - 1] if shard else 0
        reader = self._reader(shard)
        try:
            record = reader.read([int(index - first)])[0]
            fields = read_record(record)
            if fields.pop("name").tobytes() != self.paths[index].encode("utf-8", "surrogateescape"):
                raise ValueError("another example lies in its place")
        except (RuntimeError, ValueError) as error:
            text = " ".join(str(error).split())[:200]
            raise ValueError(f"cannot read {self.describe(index)}: {text}; copy or pack it again") from error
        image = fields["image"]
        return fields | {"image": image.tobytes() if image.ndim == 1 else image, "label": self.labels[index]}

    def _reader(self, shard: int) -> Any:
        with self._lock:
            reader = self._readers.pop(shard, None)
            if reader is None:
                reader = opened_shard(self._folder / self._shards[shard].file, self._shards[shard].examples)
            self._readers[shard] = reader  # the newest last
            if len(self._readers) > MAX_OPEN:
                self._readers.pop(next(iter(self._readers)))  # closed once no thread reads from it
            return reader

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_readers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._readers, self._lock = {}, threading.Lock()

    def describe(self, index: int) -> str:
        shard = np.searchsorted(self._ends, range(len(self))[index], side="right")
        return f"{self._folder / self._shards[shard].file}: {self.paths[index]}"


def _read_index(path: Path) -> tuple[np.ndarray, list[str], np.ndarray | None]:
    """Returns labels, names and perhaps groups of all examples."""
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError("packed data sets need safetensors: pip install 'imgcls-jax[train]'") from error
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"over {MAX_INDEX_BYTES} bytes")
        found = load_file(path)
        labels, groups = found["labels"], found.get("groups")
        names = json.loads(found["names"].tobytes())
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its names are none")
        if labels.dtype != np.int32 or groups is not None and groups.shape != (len(names),):
            raise ValueError("its labels or groups are of another form")
        return labels, names, groups
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; copy or pack it again") from None
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no index of a packed split: {error}; pack it again") from error


make = ArrayRecord
