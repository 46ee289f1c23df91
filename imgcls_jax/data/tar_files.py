"""Images read in place from a tar archive, plain or of archives, by an index of where each lies."""

from __future__ import annotations

import errno
import logging
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from imgcls_jax.data.listing import IMAGE_SUFFIXES, is_hidden
from imgcls_jax.data.source import MAX_IMAGE_BYTES

logger = logging.getLogger(__name__)

MAX_INDEX_BYTES = 2**30  # that of ImageNet's training images takes some 70 MB
COLUMNS = ("names", "offsets", "sizes", "archive")  # of an index file


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
    identity = _identity(archive)
    index = _read_index(kept, identity)
    if index is None:
        logger.info("reading the headers of %s, once", archive)
        index = _make_index(archive)
        _write_index(kept, index, identity)
    return index


def _identity(archive: Path) -> np.ndarray:
    found = os.stat(archive)
    return np.array([found.st_size, found.st_mtime_ns], np.int64)


def _make_index(archive: Path) -> Index:
    names, places = [], []
    size = os.path.getsize(archive)
    try:
        with open(archive, "rb") as file:
            for name, offset, length in _members(file, size, archive.name):
                names.append(name)
                places.append((offset, length))
    except tarfile.TarError as error:
        raise ValueError(f"{archive}: no uncompressed tar archive, or damaged: {error}") from error
    except ValueError as error:
        raise ValueError(f"{archive}: {error}; download it again") from error
    if not names:
        raise ValueError(f"{archive} holds no image ({' '.join(IMAGE_SUFFIXES)})")
    offsets, sizes = np.array(places, np.int64).T
    return Index(names, offsets, sizes)


def _members(file: BinaryIO, end: int, where: str, within: str = "") -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset, size) of the images of the archive that begins at the file's place."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            name = os.path.normpath(member.name)
            if not member.isreg() or is_hidden(os.path.basename(name)):
                continue
            if member.offset_data + member.size > end:
                raise ValueError(f"the member {name!r} of {where} goes beyond its end")
            if name.endswith(".tar") and not within:
                file.seek(member.offset_data)
                yield from _members(file, member.offset_data + member.size, name, f"{name}/")
            elif name.lower().endswith(IMAGE_SUFFIXES) and not member.issparse():
                yield f"{within}{name}", member.offset_data, member.size
        file.seek(archive.offset)  # tarfile takes what is no header for the end
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"{where} is cut short or damaged")


def _read_index(kept: Path, identity: np.ndarray) -> Index | None:
    """Returns the index that a file holds, None where it is absent, of another archive, or damaged."""
    try:
        if os.path.getsize(kept) > MAX_INDEX_BYTES:
            return None
        with zipfile.ZipFile(kept) as packed:  # as it is written: compressed, a few bytes would fill memory
            if any(member.compress_type != zipfile.ZIP_STORED for member in packed.infolist()):
                return None
        with np.load(kept, allow_pickle=False) as found:
            text, offsets, sizes, archive = (found[column] for column in COLUMNS)
        names = text.astype(np.uint8).tobytes().decode("utf-8", "surrogateescape").split("\n")
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile):
        return None
    sound = offsets.shape == sizes.shape == (len(names),) and offsets.dtype == sizes.dtype == np.int64
    if not sound or not np.array_equal(archive, identity):
        return None
    inside = (offsets >= 0) & (sizes >= 0) & (sizes <= identity[0]) & (offsets <= identity[0] - sizes)
    return Index(names, offsets, sizes) if inside.all() else None


def _write_index(kept: Path, index: Index, identity: np.ndarray) -> None:
    if any("\n" in name for name in index.names):
        return
    text = "\n".join(index.names).encode("utf-8", "surrogateescape")
    columns = (np.frombuffer(text, np.uint8), index.offsets, index.sizes, identity)
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(dir=kept.parent, prefix=kept.name, delete=False) as file:
            temporary = file.name
            np.savez(file, **dict(zip(COLUMNS, columns, strict=True)))  # type: ignore[arg-type]
        os.replace(temporary, kept)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.remove(temporary)
        logger.info("%s cannot be written (%s): the next run reads the headers again", kept, error.strerror)


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
        with open(self.root, "rb") as file:  # anew each time: a source keeps no file open
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise OSError(f"cannot read {self.describe(index)}: the archive has become shorter")
        return {"image": content, "label": self.labels[index]}

    def describe(self, index: int) -> str:
        return str(self.root / self.paths[index])
