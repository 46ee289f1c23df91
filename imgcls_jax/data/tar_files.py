"""Images read in place from a tar archive, plain or of archives, by an index of where each lies."""

from __future__ import annotations

import contextlib
import errno
import gzip
import logging
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from imgcls_jax.data.listing import IMAGE_SUFFIXES, is_hidden
from imgcls_jax.data.source import MAX_IMAGE_BYTES
from imgcls_jax.runtime.tar_members import Bounded, limit_of, members, opened

logger = logging.getLogger(__name__)

MAX_INDEX_BYTES = 2**30  # that of ImageNet's training images takes some 70 MB
COLUMNS = ("names", "offsets", "sizes")  # of an index file
IDENTITY = "archive"  # the column that says of which archive


class Index(NamedTuple):
    """Where the images of an archive lie.

    Attributes:
      names: N of them; of an archive within the archive "<its name>/<name>".
      offsets, sizes: int64 [N], bytes.
    """

    names: Sequence[str]
    offsets: np.ndarray
    sizes: np.ndarray


def index_of(archive: Path) -> Index:
    """Returns the index of an archive's images, in the archive's order.

    It is kept in a file beside the archive, <archive>.index.npz, because ImageNet's million of headers take
    half a minute to read, or the time of as many seeks. Where that folder cannot be written, the index is
    made anew each time.

    Args:
      archive: a .tar, not compressed; archives within it (.tar), one deep, are looked into.

    Raises:
      ValueError: it is no such archive, is cut short, or holds no image.
      OSError: it cannot be read.
    """
    kept = archive.with_name(f"{archive.name}.index.npz")
    identity = identity_of(archive)
    index = _read_index(kept, identity)
    if index is None:
        logger.info("reading the headers of %s, once", archive)
        index = _make_index(archive)
        _write_index(kept, index, identity)
    return index


def identity_of(archive: Path) -> np.ndarray:
    """Returns size and time of a file, int64 [2]."""
    found = os.stat(archive)
    return np.array([found.st_size, found.st_mtime_ns], np.int64)


def _make_index(archive: Path) -> Index:
    names, places = [], []
    with reading(archive) as stream:
        for name, offset, length in _images(stream, os.path.getsize(archive), archive.name):
            names.append(name)
            places.append((offset, length))
    if not names:
        raise ValueError(f"{archive} holds no image ({' '.join(IMAGE_SUFFIXES)})")
    offsets, sizes = np.array(places, np.int64).T
    return Index(names, offsets, sizes)


def _images(stream: Bounded, end: int, where: str, within: str = "") -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset, size) of the images of the archive that begins at the stream's place."""
    for name, member in regular_members(stream, end, where):
        if name.endswith(".tar") and not within:
            stream.seek(member.offset_data)
            yield from _images(stream, member.offset_data + member.size, name, f"{name}/")
        elif name.lower().endswith(IMAGE_SUFFIXES):
            yield f"{within}{name}", member.offset_data, member.size


def regular_members(stream: Bounded, end: int, where: str) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yields the files of the archive that begins at the stream's place, and their normalized names.

    Args:
      stream: of the archive, not compressed.
      end: of the archive, its place in the stream.
      where: the archive's name, for messages.

    Raises:
      ValueError, tarfile.TarError: it is damaged, cut short, or claims headers of megabytes.
    """
    with opened(stream) as archive:
        for member in members(archive, stream):
            name = os.path.normpath(member.name)
            if not member.isreg() or member.issparse() or is_hidden(os.path.basename(name)):
                continue
            if member.offset_data + member.size > end:
                raise ValueError(f"the member {name!r} of {where} goes beyond its end")
            yield name, member
        # tarfile takes what is no header for the end: from there on all is zero.
        stream.seek(archive.offset)
        left = end - archive.offset
        if left < tarfile.BLOCKSIZE:
            raise ValueError(f"{where} is cut short or damaged")
        while left > 0:
            size = min(left, 2**20)
            stream.allow(size)
            if any(stream.read(size)):
                raise ValueError(f"{where} is damaged, or holds more after its end")
            left -= size


@contextlib.contextmanager
def reading(archive: Path) -> Iterator[Bounded]:
    """Opens an archive, and names it in what is raised.

    Raises:
      ValueError: as raised within, with the archive's name and the remedy.
    """
    try:
        with open(archive, "rb") as file:
            yield Bounded(file, os.fstat(file.fileno()).st_size)
    except tarfile.TarError as error:
        raise ValueError(f"{archive}: no uncompressed tar archive, or damaged: {error}") from error
    except ValueError as error:
        raise ValueError(f"{archive}: {error}; download it again") from error


def read_packed(packed: Path, name: str, limit: int) -> bytes:
    """Returns a file of a compressed archive (.tar.gz), which is read up to it.

    Raises:
      ValueError: it cannot be read, lacks the file, or that has more than `limit` bytes.
    """
    try:
        with open(packed, "rb") as file, gzip.GzipFile(fileobj=file) as content:
            stream = Bounded(content, limit_of(packed))
            with opened(stream) as archive:
                for member in members(archive, stream):
                    if member.name == name and member.isreg() and not member.issparse():
                        if member.size > limit:
                            raise ValueError(f"its {name} is too large")
                        stream.seek(member.offset_data)
                        stream.allow(member.size)
                        return stream.read(member.size)
        raise ValueError(f"it holds no {name}")
    except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{packed} cannot be read: {error}; download it again") from error


# ---- the index, kept beside the archive


def read_columns(kept: Path, names: Sequence[str], identity: np.ndarray) -> list[np.ndarray] | None:
    """Returns the columns of a file that `write_columns` wrote; None where it is absent, damaged, or the
    index of something else.

    Args:
      kept: the file.
      names: of the columns.
      identity: what the file was made of.
    """
    try:
        if os.path.getsize(kept) > MAX_INDEX_BYTES:
            return None
        with zipfile.ZipFile(kept) as packed:  # as it is written: compressed, a few bytes would fill memory
            if any(member.compress_type != zipfile.ZIP_STORED for member in packed.infolist()):
                return None
        with np.load(kept, allow_pickle=False) as found:
            columns = [found[column] for column in (*names, IDENTITY)]
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile):
        return None
    return columns[:-1] if np.array_equal(columns[-1], identity) else None


def write_columns(kept: Path, columns: Mapping[str, np.ndarray], identity: np.ndarray) -> None:
    """Writes columns into a file that other processes see whole or not at all; tells where it cannot."""
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(dir=kept.parent, prefix=kept.name, delete=False) as file:
            temporary = file.name
            np.savez(file, **columns, **{IDENTITY: identity})  # type: ignore[arg-type]
        os.replace(temporary, kept)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.remove(temporary)
        logger.info("%s cannot be written (%s): the next run reads the headers again", kept, error.strerror)


def lie_within(offsets: np.ndarray, sizes: np.ndarray, total: int) -> bool:
    """Returns whether the places of an index lie within an archive of `total` bytes."""
    integers = offsets.dtype == sizes.dtype == np.int64 and offsets.shape == sizes.shape
    return integers and bool(
        ((offsets >= 0) & (sizes >= 0) & (sizes <= total) & (offsets <= total - sizes)).all()
    )


def _read_index(kept: Path, identity: np.ndarray) -> Index | None:
    """Returns the index that a file holds, None where it is absent, of another archive, or damaged."""
    columns = read_columns(kept, COLUMNS, identity)
    if columns is None:
        return None
    text, offsets, sizes = columns
    try:
        names = text.astype(np.uint8).tobytes().decode("utf-8", "surrogateescape").split("\n")
    except ValueError:
        return None
    sound = offsets.shape == (len(names),) and lie_within(offsets, sizes, int(identity[0]))
    return Index(names, offsets, sizes) if sound else None


def _write_index(kept: Path, index: Index, identity: np.ndarray) -> None:
    if any("\n" in name for name in index.names):
        return
    text = "\n".join(index.names).encode("utf-8", "surrogateescape")
    columns = (np.frombuffer(text, np.uint8), index.offsets, index.sizes)
    write_columns(kept, dict(zip(COLUMNS, columns, strict=True)), identity)


class TarImages:
    """A source of the images of a tar archive, read where they lie. It returns the files, undecoded.

    Args:
      archive: the file.
      index: of it.
      rows: int [N], which of the index.
      labels: int [N] in [0, K).
      class_names: K names.
    """

    rule = ""

    def __init__(
        self,
        archive: Path,
        index: Index,
        rows: npt.ArrayLike,
        labels: npt.ArrayLike,
        class_names: Sequence[str],
    ) -> None:
        chosen = np.asarray(rows)
        self.root = archive
        self.paths = [index.names[row] for row in chosen]
        self.labels = np.asarray(labels, np.int32)
        self.class_names = tuple(class_names)
        self._places = np.stack([index.offsets[chosen], index.sizes[chosen]], axis=1)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        offset, size = self._places[index].tolist()
        if size > MAX_IMAGE_BYTES:
            raise OSError(errno.EFBIG, "more than an image may have", self.describe(index))
        with open(self._archive(index), "rb") as file:  # anew each time: a source keeps no file open
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise OSError(f"cannot read {self.describe(index)}: the archive has become shorter")
        return {"image": content, "label": self.labels[index]}

    def _archive(self, index: int) -> Path:
        return self.root

    def describe(self, index: int) -> str:
        return str(self.root / self.paths[index])
