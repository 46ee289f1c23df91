"""Packed data sets: any source, written as shards of array_record, which every host reads fast by index.

A folder holds, for each split,

    train-00000-of-00012.array_record  the examples, in order: a record is the bytes of a safetensors file
                                       with `image` (uint8 [n], the source's encoded file, or uint8
                                       [H, W, C]), `label`, `name` (uint8 [n], UTF-8) and any further field of
                                       the source, such as boxes
    train.index.safetensors            `labels`, `names` (JSON, as uint8) and `groups` of all examples
    train.json                         what it is: `Description`

train.json is written last. A folder without it holds no such split, whatever else is there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.data.contents import contents_of
from imgcls_jax.data.lists import inside_root
from imgcls_jax.data.source import Source, read_regular
from imgcls_jax.runtime import buckets

logger = logging.getLogger(__name__)

FORMAT = "imgcls_jax packed 1"
OWN = ("image", "label", "name")  # fields of every record
MAX_DESCRIPTION_BYTES = 2**28
NEEDS = "packed data sets are read by array_record: pip install 'imgcls-jax[array_record]'"
WRITER = "group_size:1,uncompressed"  # random access; images do not shrink
SPLIT_NAME = re.compile(r"\w[\w.+-]*")


class Shard(NamedTuple):
    """A file of records.

    Attributes:
      file: its name.
      examples: how many records.
      bytes: its size.
      sha256: of its content, in hex.
    """

    file: str
    examples: int
    bytes: int
    sha256: str


class Description(NamedTuple):
    """What a split holds.

    Attributes:
      class_names: K names.
      examples: N.
      digest: of classes, names and labels (data/contents.py), which the source had, too.
      shards: in the order of the examples.
      rule: what a run says of the split at its start.
      left_out: {kind: files that were no images}.
    """

    class_names: tuple[str, ...]
    examples: int
    digest: str
    shards: tuple[Shard, ...]
    rule: str
    left_out: Mapping[str, int]


# ---- writing


def pack(
    source: Source, folder: Path, split: str, *, shard_bytes: int, indices: Iterable[int]
) -> Description:
    """Writes a split of a source.

    Args:
      source: of it, all of it.
      folder: is made; other splits may be there.
      split: its name there.
      shard_bytes: a shard ends when it has that many.
      indices: range(len(source)), perhaps one that shows its progress.

    Raises:
      ImportError: array_record is missing.
      ValueError: the split is there already, or is being written; an example cannot be packed.
      OSError: it cannot be read, or written.
    """
    if not SPLIT_NAME.fullmatch(split):
        raise ValueError(f"{split!r} cannot begin the names of files; give the split another name")
    if not len(source):
        raise ValueError("the split has no examples")
    told = folder / f"{split}.json"
    if told.exists():
        raise ValueError(f"{told} is there: remove it, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f".{split}.packing"
    try:
        own.mkdir()
    except FileExistsError:
        raise ValueError(
            f"{own} is there: another command writes this split, or was killed as it did; if so, remove it"
        ) from None
    try:
        description = _write(source, own, split, shard_bytes, indices)
        for path in sorted(own.iterdir(), key=lambda path: path.suffix == ".json"):
            path.replace(folder / path.name)  # the description last
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return description


def _write(source: Source, own: Path, split: str, shard_bytes: int, indices: Iterable[int]) -> Description:
    writer = _Writer(own, shard_bytes)
    names, labels = [], []
    paths = getattr(source, "paths", None)
    for index in indices:
        element = source[index]
        names.append(source.describe(index) if paths is None else paths[index])
        labels.append(np.asarray(element["label"], np.int32))
        writer.write(_record(element, names[-1], source.describe(index)))
    shards = writer.finish(split)
    columns = {"labels": np.stack(labels), "names": _bytes(json.dumps(names).encode())}
    groups = getattr(source, "groups", None)
    if groups is not None:
        columns["groups"] = np.asarray(groups, np.int64)
    from safetensors.numpy import save_file

    save_file(columns, own / index_name(split))
    class_names = tuple(source.class_names)
    digest = contents_of(len(names), class_names, names, columns["labels"]).digest
    left_out = dict(getattr(source, "left_out", {}))
    rule = getattr(source, "rule", "")
    described = Description(class_names, len(names), digest, shards, rule, left_out)
    text = {"format": FORMAT} | described._asdict() | {"shards": [shard._asdict() for shard in shards]}
    (own / f"{split}.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    return described


class _Writer:
    """Writes records into shards one after the other.

    Args:
      folder: of them.
      limit: bytes of records, from which on a shard is full.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        try:
            from array_record.python.array_record_module import ArrayRecordWriter
        except ImportError as error:
            raise ImportError(NEEDS) from error
        self._open, self._folder, self._limit = ArrayRecordWriter, folder, limit
        self._writer: Any = None
        self._counts: list[int] = []
        self._size = 0

    def write(self, record: bytes) -> None:
        if self._writer is None:
            self._writer = self._open(str(self._folder / str(len(self._counts))), WRITER)
            self._counts.append(0)
            self._size = 0
        self._writer.write(record)
        self._counts[-1] += 1
        self._size += len(record)
        if self._size >= self._limit:
            self._close()

    def _close(self) -> None:
        try:
            self._writer.close()
        except RuntimeError as error:  # as of a full disk
            raise OSError(f"{self._folder.parent} cannot be written: {error}") from error
        self._writer = None

    def finish(self, split: str) -> tuple[Shard, ...]:
        """Closes the last shard, gives all their names, and looks at what was written."""
        if self._writer is not None:
            self._close()
        shards = []
        for number, count in enumerate(self._counts):
            path = self._folder / f"{split}-{number:05d}-of-{len(self._counts):05d}.array_record"
            (self._folder / str(number)).rename(path)
            opened_shard(path, count)
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            shards.append(Shard(path.name, count, path.stat().st_size, digest))
        return tuple(shards)


def _record(element: Mapping[str, Any], name: str, where: str) -> bytes:
    from safetensors.numpy import save

    fields = {"name": _bytes(name.encode("utf-8", "surrogateescape"))}
    for key, value in element.items():
        array = _bytes(value) if isinstance(value, bytes) else np.ascontiguousarray(value)
        if array.dtype.kind not in "biuf" or key == "name":
            raise ValueError(
                f"{where}: the field {key!r} ({array.dtype}) cannot be packed; it holds no numbers"
            )
        fields[key] = array.reshape(np.shape(value)) if not isinstance(value, bytes) else array
    return save(fields)


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


# ---- reading


def index_name(split: str) -> str:
    return f"{split}.index.safetensors"


def read_description(path: Path) -> Description:
    """Reads and checks the description of a split.

    Raises:
      ValueError: it is none, or one of another form.
      OSError: it cannot be read.
    """
    try:
        content = json.loads(read_regular(path, MAX_DESCRIPTION_BYTES))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        shards = tuple(
            Shard(inside_root(str(own["file"]), str(path)), *(own[key] for key in Shard._fields[1:]))
            for own in content["shards"]
        )
        names = content["class_names"]
        sizes = [content["examples"], *(size for shard in shards for size in (shard.examples, shard.bytes))]
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError("class_names are no names")
        if any(type(size) is not int or size < 0 for size in sizes):
            raise ValueError("examples and bytes are whole numbers")
        left_out = {str(kind): int(count) for kind, count in content["left_out"].items()}
        told = str(content["digest"]), shards, str(content["rule"]), left_out
        return Description(tuple(names), content["examples"], *told)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        text = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} describes no packed split: {text}; pack it again") from error


def at_hand(folder: Path, split: str) -> Path:
    """Returns the folder where a split lies on this machine: array_record cannot read an object store.

    A split of one is copied to the user's caches, once: the copy bears the digest of the split's description,
    which has those of the shards.

    Args:
      folder: of this machine or an object store.
      split: its name there.

    Raises:
      ValueError: the description is none, or a shard is not the one that was packed.
      OSError: the store does not answer, or the copy cannot be written.
    """
    if not buckets.is_bucket(folder):
        return folder
    description = folder / f"{split}.json"
    told = read_description(description)
    digest = hashlib.sha256(read_regular(description, MAX_DESCRIPTION_BYTES)).hexdigest()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    copy = caches / "imgcls_jax" / "packed" / digest[:32]
    digests = {index_name(split): None} | {own.file: own.sha256 for own in told.shards}
    absent = [name for name in (*digests, description.name) if not (copy / name).exists()]
    if absent:
        size = sum(own.bytes for own in told.shards) / 2**30
        logger.warning("copying the split %r, %.3g GiB, from %s to %s", split, size, folder, copy)
    for name in absent:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        _copy(folder / name, copy / name, digests.get(name))
    return copy


def _copy(path: Path, file: Path, sha256: str | None) -> None:
    own = file.with_name(f"{file.name}.tmp{os.getpid()}")
    try:
        buckets.copy_down(path, own)
        with open(own, "rb") as opened:
            if sha256 and hashlib.file_digest(opened, "sha256").hexdigest() != sha256:
                raise ValueError(f"{path} is not the shard that was packed: copy it there again")
        own.replace(file)
    finally:
        own.unlink(missing_ok=True)


def opened_shard(path: Path, examples: int) -> Any:
    """Returns a reader of a shard.

    Raises:
      ImportError: array_record is missing.
      ValueError: it is damaged, or holds another number of records.
      OSError: it cannot be read.
    """
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise ImportError(NEEDS) from error
    os.stat(path)  # the reader tells no file from a damaged one
    reader = ArrayRecordReader(str(path), options="readahead_buffer_size:0", file_reader_buffer_size=2**15)
    if not reader.ok() or reader.num_records() != examples:
        what = (
            f"{reader.num_records()} records, {examples} expected" if reader.ok() else "no whole array_record"
        )
        raise ValueError(f"{path} is damaged ({what}): copy or pack it again")
    return reader


def read_record(record: bytes) -> dict[str, np.ndarray]:
    """Returns the fields of a record.

    Raises:
      ValueError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        fields = load(record)
    except SafetensorError as error:
        raise ValueError(f"its record is damaged: {error}") from error
    if not set(OWN) <= fields.keys() or fields["image"].dtype != np.uint8:
        raise ValueError(f"its record has {sorted(fields)}, not {OWN}")
    return fields
