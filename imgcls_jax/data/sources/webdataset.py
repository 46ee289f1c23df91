"""Shards of the WebDataset form: tar archives in which files of one name but for suffixes are an example."""

from __future__ import annotations

import json
import logging
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.data.listing import IMAGE_SUFFIXES
from imgcls_jax.data.shards import Shards, class_names_file, to_labels
from imgcls_jax.data.source import Root
from imgcls_jax.data.tar_files import (
    Index,
    TarImages,
    identity_of,
    lie_within,
    read_columns,
    reading,
    regular_members,
    write_columns,
)

logger = logging.getLogger(__name__)

SUFFIX = ".tar"
COLUMNS = ("samples", "offsets", "sizes")  # of an index file
LABELS = (".cls", ".json", ".txt")  # suffixes of what may hold a label, the first that does counts
MAX_LABEL_BYTES = 2**20
MAX_WORD = 1000  # characters of the name of a class
NUMBER = re.compile(r"-?\d{1,9}")
HOW = (
    "; each .tar holds KEY.jpg (or another image) and KEY.cls, KEY.json or KEY.txt for each example. Shards "
    "that are compressed (.tar.gz) have no random access: unpack them (gunzip)"
)


class _Samples(NamedTuple):
    """The examples of a shard.

    Attributes:
      names: of the image files.
      labels: as the shard says them: a number, a word, or a list of these.
      offsets, sizes: of the image files, int64 [N], bytes.
      left_out: how many files have no image of their name.
    """

    names: list[str]
    labels: list[Any]
    offsets: np.ndarray
    sizes: np.ndarray
    left_out: int


class WebDataset(TarImages):
    """Shards of the WebDataset form, read by index where they lie.

    root holds .tar files, not compressed, at any depth; their split as data/shards.py says. Within one, files
    that follow each other and have the same name up to the first dot are an example: KEY.jpg (or .png, ...;
    one image), and KEY.cls, the number of the class, or its name; else KEY.json, an object whose field
    `label_key` is that, or a list for any number of labels; else KEY.txt, the name.

    Examples come in the order of the shards' names and of their places within. The headers are read once:
    where the examples lie, and their labels, is kept beside each shard in <shard>.index.npz where that folder
    can be written.

    Args:
        split: of the names of the shards, or of the folders that they lie in; all of "train" without such.
        root: the folder.
        label_key: the field of KEY.json.
        classes: optional file, relative to root or absolute, with one class name a line. Without it words are
            the class names, sorted, and numbers name themselves; of the training split where it is there.

    Raises:
        FileNotFoundError: root or the split's shards are missing.
        ValueError: a shard that is damaged, an example without a label or with two images, or a class that
            the training split lacks; the message names the shard and the example.
    """

    def __init__(
        self, split: str, *, root: Root, label_key: str = "label", classes: str | None = None
    ) -> None:
        shards = Shards(root, SUFFIX, HOW)
        own, training = shards.require(split), shards.of("train")
        found = [_samples(shards.root / shard, label_key) for shard in own]
        names = [f"{shard}/{name}" for shard, part in zip(own, found, strict=True) for name in part.names]

        def of_training() -> list[Any]:
            parts = [_samples(shards.root / shard, label_key) for shard in training]
            return [label for part in parts for label in part.labels]

        labels, class_names = to_labels(
            [label for part in found for label in part.labels],
            lambda index: str(shards.root / names[index]),
            names=class_names_file(shards.root, classes),
            training=of_training if training and training != own else None,
        )
        offsets, sizes = (
            np.concatenate(own) for own in zip(*((p.offsets, p.sizes) for p in found), strict=True)
        )
        super().__init__(
            shards.root, Index(names, offsets, sizes), np.arange(len(names)), labels, class_names
        )
        self._shards = own
        self._ends = np.cumsum([len(part.names) for part in found])
        self.rule = f"from {len(own)} shards of {shards.root}, in place"
        beside = sum(part.left_out for part in found)
        self.left_out = {"beside the images": beside} if beside else {}

    def _archive(self, index: int) -> Path:
        shard = np.searchsorted(self._ends, range(len(self))[index], side="right")
        return self.root / self._shards[shard]


def _samples(shard: Path, label_key: str) -> _Samples:
    """Returns the examples of a shard: of its index, which is made where there is none."""
    kept = shard.with_name(f"{shard.name}.index.npz")
    identity = np.append(identity_of(shard), zlib.crc32(label_key.encode()))
    found = _read(kept, identity)
    if found is None:
        logger.info("reading the headers of %s, once", shard)
        found = _make(shard, label_key)
        text = json.dumps([found.names, found.labels, found.left_out])
        columns = (np.frombuffer(text.encode(), np.uint8), found.offsets, found.sizes)
        write_columns(kept, dict(zip(COLUMNS, columns, strict=True)), identity)
    return found


def _read(kept: Path, identity: np.ndarray) -> _Samples | None:
    """Returns what an index file holds, None where it is absent, of another shard, or damaged."""
    columns = read_columns(kept, COLUMNS, identity)
    if columns is None:
        return None
    text, offsets, sizes = columns
    try:
        names, labels, left_out = json.loads(text.astype(np.uint8).tobytes())
    except (ValueError, TypeError, RecursionError):
        return None
    lists = isinstance(names, list) and isinstance(labels, list) and type(left_out) is int
    if not lists or not all(isinstance(name, str) for name in names):
        return None
    sound = offsets.shape == (len(names),) == (len(labels),) and lie_within(offsets, sizes, int(identity[0]))
    return _Samples(names, labels, offsets, sizes, left_out) if sound else None


def _make(shard: Path, label_key: str) -> _Samples:
    names, labels, places, left_out = [], [], [], 0
    with reading(shard) as stream:
        for members in _grouped(regular_members(stream, identity_of(shard)[0], shard.name)):
            images = [place for suffix, place in members.items() if suffix in IMAGE_SUFFIXES]
            if not images:
                left_out += len(members)
                continue
            if len(images) > 1:
                raise ValueError(f"{images[0][0]!r} and {images[1][0]!r} are two images of one example")
            texts = {}
            for suffix in LABELS:
                if suffix in members:
                    name, offset, size = members[suffix]
                    if size > MAX_LABEL_BYTES:
                        raise ValueError(f"{name!r} has {size:,} bytes, more than a label")
                    stream.seek(offset)
                    stream.allow(size)
                    texts[suffix] = stream.read(size)
            names.append(images[0][0])
            labels.append(_label(texts, label_key, images[0][0]))
            places.append(images[0][1:])
    if not names:
        raise ValueError(f"{shard} holds no image{HOW}")
    offsets, sizes = np.array(places, np.int64).T
    return _Samples(names, labels, offsets, sizes, left_out)


def _grouped(
    found: Iterator[tuple[str, tarfile.TarInfo]],
) -> Iterator[dict[str, tuple[str, int, int]]]:
    """Yields {suffix: (name, offset, size)} of members that follow each other and have one key."""
    key, group = "", dict[str, tuple[str, int, int]]()
    for name, member in found:
        folder, slash, file = name.rpartition("/")
        stem, dot, rest = file.partition(".")
        if group and f"{folder}{slash}{stem}" != key:
            yield group
            group = {}
        key = f"{folder}{slash}{stem}"
        group[f"{dot}{rest}".lower()] = (name, member.offset_data, member.size)
    if group:
        yield group


def _label(texts: Mapping[str, bytes], label_key: str, image: str) -> Any:
    """Returns the label that the files beside an image say; None where none does.

    Raises:
      ValueError: a file holds something else.
    """
    for suffix, content in texts.items():
        try:
            value = _value(suffix, content.decode("utf-8-sig"), label_key)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the {suffix} of {image!r} holds no label: {str(error)[:200]}") from error
        if value is not None:
            return value
    return None


def _value(suffix: str, text: str, label_key: str) -> Any:
    if suffix == ".json":
        content = json.loads(text)
        value = content.get(label_key) if isinstance(content, dict) else None
        if any(
            type(own) not in (int, str, type(None)) for own in (value if isinstance(value, list) else [value])
        ):
            raise ValueError(f"{label_key!r} is a number or a name of a class, or a list of such")
        return value
    word = text.strip()
    if len(word) > MAX_WORD:
        raise ValueError(f"{len(word):,} characters")
    return int(word) if NUMBER.fullmatch(word) else word or None


make = WebDataset
