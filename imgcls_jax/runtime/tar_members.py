"""Members of a stranger's tar archive: what its headers claim is bounded, and none is kept in memory.

tarfile reads a long name, or a pax header, of whatever size the archive claims, follows such headers one
within the other, and keeps a record of each member.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_HEADERS = 2**20  # bytes of all headers of a member: a name, and attributes of a file system
# Images hardly shrink, and annotations in JSON to a tenth; more than this is no data set but a bomb.
MAX_RATIO, ALLOWANCE = 40, 2**30


def limit_of(archive: Path) -> int:
    """Returns how many bytes an archive may hold."""
    return archive.stat().st_size * MAX_RATIO + ALLOWANCE


class Bounded:
    """A stream of which no more is read than was allowed, and nothing beyond a limit.

    Attributes:
      last: what was read last.

    Args:
      stream: of the archive, decompressed.
      limit: its place is never beyond.
    """

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._limit, self._allowed = stream, limit, MAX_HEADERS
        self.last = b""

    def allow(self, count: int) -> None:
        """Lets so many bytes be read from now on."""
        self._allowed = count

    def read(self, count: int) -> bytes:
        """Returns the next bytes.

        Raises:
          ValueError: more than was allowed, or beyond the limit.
        """
        if not 0 <= count <= self._allowed:
            raise ValueError(f"a header claims {count:,} bytes")
        self._require(self._stream.tell() + count)
        self._allowed -= count
        self.last = self._stream.read(count)
        return self.last

    def seek(self, place: int) -> int:
        self._require(place)
        return self._stream.seek(place)

    def tell(self) -> int:
        return self._stream.tell()

    def _require(self, place: int) -> None:
        if place > self._limit + MAX_HEADERS:
            raise ValueError(f"it holds more than {self._limit:,} bytes, which no data set of its size does")


def opened(stream: Bounded) -> tarfile.TarFile:
    """Opens an archive, uncompressed, at the stream's place; reads its first header.

    Raises:
      ValueError: that header claims more than MAX_HEADERS bytes.
      tarfile.TarError: it is no archive.
    """
    stream.allow(MAX_HEADERS)
    with _endless_refused():
        return tarfile.open(fileobj=stream, mode="r:")  # type: ignore[call-overload]


def members(archive: tarfile.TarFile, stream: Bounded) -> Iterator[tarfile.TarInfo]:
    """Yields the members of an archive, in its order.

    Args:
      archive, stream: of `opened`. To read a member's content, allow its size first.

    Raises:
      ValueError: the headers of a member claim more than MAX_HEADERS bytes.
      tarfile.TarError: the archive is damaged.
    """
    while True:
        stream.allow(MAX_HEADERS)
        with _endless_refused():
            member = archive.next()
        archive.members.clear()  # type: ignore[attr-defined]
        if member is None:
            return
        yield member


@contextlib.contextmanager
def _endless_refused() -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise ValueError("a member has headers without end") from error
