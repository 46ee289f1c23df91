"""Images of Parquet files by row: where each row lies, and the row groups that were read last.

Apache Parquet: https://parquet.apache.org/docs/file-format/. A row cannot be read alone: its row group is, or
as much of it as one column has. Files come from strangers, so what a footer claims is compared with the size
of the file, and a row group that unpacks to more than MAX_GROUP_BYTES is refused.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

MAX_GROUP_BYTES = 2**30  # of the images of a row group; those of the Hugging Face hub have some 10 MB
RECENT_BYTES = 2**28  # of row groups that each process keeps
BATCH_ROWS = 16  # are unpacked at once
MAX_FOOTER_STRING, MAX_FOOTER_ITEMS = 2**24, 10**6  # a footer that claims more is none
SMALLER = "write it anew with fewer rows a group (row_group_size=100)"


@contextlib.contextmanager
def naming_parquet(path: Path) -> Iterator[None]:
    """Makes what a damaged file raises a ValueError that names it.

    Raises:
      ImportError: pyarrow is missing.
      ValueError: as raised within.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("Parquet files are read by pyarrow: pip install 'imgcls-jax[parquet]'") from error
    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, IndexError, KeyError, OverflowError) as error:
        if str(path) in str(error) and not isinstance(error, pyarrow.ArrowException):
            raise
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be read as a Parquet file: {text}; download it again") from error


def open_parquet(path: Path, metadata: Any = None, **options: Any) -> Any:
    """Returns a pyarrow.parquet.ParquetFile, to be used within `naming_parquet` and closed.

    Args:
      path: of the file.
      metadata: of it, where it was read before.
      options: of that class.

    Raises:
      ValueError: it claims more rows than it has bytes.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetFile(
        path, metadata=metadata, pre_buffer=False, page_checksum_verification=True,
        thrift_string_size_limit=MAX_FOOTER_STRING, thrift_container_size_limit=MAX_FOOTER_ITEMS, **options,
    )  # fmt: skip
    if file.metadata.num_rows > os.path.getsize(path):
        file.close()
        raise ValueError(f"{path} claims {file.metadata.num_rows:,} rows, more than it has bytes")
    return file


class ImageRows:
    """The images of a column of some files, by row.

    It keeps no file open, pickles without what it has read, and may be read by several threads.

    Args:
      paths: of the files.
      column: of the images, its path in the schema: "image.bytes", or "image".

    Raises:
      ValueError: a file is damaged, lacks the column, or has row groups that are too large.
    """

    def __init__(self, paths: Sequence[Path], column: str) -> None:
        self._paths, self._column = list(paths), column
        self._metadata, self._identity = [], []
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        self._ends: list[int] = []  # of the groups: the number of rows up to there
        rows = 0
        for number, path in enumerate(self._paths):
            with naming_parquet(path), open_parquet(path) as file:
                self._metadata.append(file.metadata)
                self._identity.append(_identity(path))
                for group in range(file.metadata.num_row_groups):
                    found = file.metadata.row_group(group)
                    _require_group(path, found, column)
                    rows += found.num_rows
                    self._groups.append((number, group))
                    self._ends.append(rows)
        self._recent = _Recent(RECENT_BYTES)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def place(self, row: int) -> tuple[int, int]:
        """Returns the file of a row, and its number there, from 0."""
        number = self._groups[bisect.bisect_right(self._ends, row)][0]
        first = bisect.bisect_left(self._groups, (number, 0))
        return number, row - (self._ends[first - 1] if first else 0)

    def __getitem__(self, row: int) -> bytes | None:
        """Returns the image of a row in [0, N), None where it has none.

        Raises:
          ValueError: the file is damaged there, or has changed.
        """
        at = bisect.bisect_right(self._ends, row)
        first = self._ends[at - 1] if at else 0
        starts, arrays = self._recent.get(self._groups[at], lambda: self._read(*self._groups[at]))
        batch = bisect.bisect_right(starts, row - first) - 1
        buffer = arrays[batch][row - first - starts[batch]].as_buffer()
        return None if buffer is None else buffer.to_pybytes()

    def _read(self, number: int, group: int) -> tuple[tuple[list[int], list[Any]], int]:
        """Returns a row group, (the first rows of its batches, their images), and its bytes."""
        path = self._paths[number]
        starts, arrays, rows, size = [], [], 0, 0
        with naming_parquet(path):
            if _identity(path) != self._identity[number]:
                raise ValueError(f"{path} has changed since it was opened; start again")
            with open_parquet(path, self._metadata[number]) as file:
                for batch in file.iter_batches(
                    BATCH_ROWS, row_groups=[group], columns=[self._column], use_threads=False
                ):
                    images = bytes_of(batch.column(0))
                    starts.append(rows)
                    arrays.append(images)
                    rows, size = rows + len(images), size + images.nbytes
                    if size > MAX_GROUP_BYTES:
                        raise ValueError(
                            f"{path} has a row group of over {MAX_GROUP_BYTES:,} bytes: {SMALLER}"
                        )
            if rows != self._metadata[number].row_group(group).num_rows:
                raise ValueError(f"its row group {group} has {rows} rows, unlike its footer")
        return (starts, arrays), size

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_recent": _Recent(RECENT_BYTES)}


class _Recent:
    """Values made last, up to a number of bytes, for all threads of a process; each is made once.

    Args:
      limit: bytes; the newest value is kept, however large.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found: dict[Hashable, Future[tuple[Any, int]]] = {}  # in the order of use
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], tuple[Any, int]]) -> Any:
        """Returns a value; `make` returns it and its bytes where it is not there."""
        with self._lock:
            future = self._found.pop(key, None)
            is_new = future is None
            if future is None:
                future = Future()
            self._found[key] = future
        if is_new:
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    self._found.pop(key, None)
                raise
            self._forget()
        return future.result()[0]

    def _forget(self) -> None:
        with self._lock:
            made = [key for key, future in self._found.items() if future.done() and not future.exception()]
            size = sum(self._found[key].result()[1] for key in made)
            for key in made[:-1]:
                if size <= self._limit:
                    return
                size -= self._found.pop(key).result()[1]

    def __reduce__(self) -> tuple[type[_Recent], tuple[int]]:
        return _Recent, (self._limit,)


def bytes_of(column: Any) -> Any:
    """Returns the encoded images of a column, an array of binary; of structures their field "bytes"."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _require_group(path: Path, group: Any, column: str) -> None:
    for number in range(group.num_columns):
        found = group.column(number)
        if found.path_in_schema == column:
            if found.total_uncompressed_size > MAX_GROUP_BYTES:
                size = f"{found.total_uncompressed_size / 2**30:.3g} GiB"
                raise ValueError(
                    f"{path} has a row group with {size} of images, which is read whole: {SMALLER}"
                )
            return
    raise ValueError(f"{path} has no column {column!r}, unlike the first file")
