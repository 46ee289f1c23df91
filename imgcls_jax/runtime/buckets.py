"""Folders of an object store, `gs://BUCKET/FOLDER` and `s3://BUCKET/FOLDER`, where a path is meant.

They are paths of etils.epath; gcsfs and s3fs, of the extras `gcs` and `s3`, read and write them. A store
writes an object whole or not at all, so that a later one takes the place of an earlier one at once. It
renames by copying, appends to nothing, and has no folders.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import importlib.util
import io
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

SCHEMES = {"gs": "gcsfs", "s3": "s3fs"}  # and the package that reads and writes it
EXTRAS = {"gs": "gcs", "s3": "s3"}
CONNECT_SECONDS, READ_SECONDS = 20, 60  # without an answer, before a request is sent again
SHARE = 20  # a growing object is written at most this part of the time


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path lies in an object store."""
    return os.fspath(path).partition("://")[0] in SCHEMES and "://" in os.fspath(path)


def as_path(text: str | os.PathLike[str]) -> Path:
    """Returns the path that a text names: of this machine, or, with the same methods, of an object store.

    Raises:
      ValueError: an address of neither, or its package is not installed.
    """
    text = os.fspath(text)
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Path(text)
    if scheme not in SCHEMES:
        raise ValueError(f"{text} is an address; name a folder, or one of gs:// or s3://")
    if not rest.strip("/"):
        raise ValueError(f"{text} names no bucket: {scheme}://BUCKET/FOLDER")
    if not importlib.util.find_spec(SCHEMES[scheme]):
        raise ValueError(
            f"{text}: {scheme}:// needs {SCHEMES[scheme]}: pip install 'imgcls-jax[{EXTRAS[scheme]}]'"
        )
    _set_up(scheme)
    from etils import epath

    return cast(Path, epath.Path(text))


@functools.cache
def _set_up(scheme: str) -> None:
    """Makes the file systems of a scheme, Orbax's too, see what others write and give up on dead servers."""
    import aiohttp
    import fsspec

    # They report, with tracebacks, what they raise besides.
    for name in ("gcsfs", "s3fs", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("EPATH_USE_TF", "false")  # one way for all, whether TensorFlow is there or not
    # TensorStore's, for the arrays of a checkpoint: a transfer that stands still is an error, and sent again.
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(READ_SECONDS))
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    waits: dict[str, Any] = {
        "gs": {
            "session_kwargs": {
                "timeout": aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS
                )
            }
        },
        "s3": {"config_kwargs": {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}},
    }
    fsspec.config.conf[scheme] = (
        waits[scheme] | {"use_listings_cache": False} | fsspec.config.conf.get(scheme, {})
    )


def s3_server(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what TensorStore must be told of the server of an s3:// path, to ask the one that s3fs asks.

    TensorStore finds Amazon's own, and credentials, as others do, but it reads no AWS_ENDPOINT_URL.
    """
    client = _store(path).s3.meta
    known: dict[str, Any] = {}
    if not (urlsplit(client.endpoint_url).hostname or "").endswith(".amazonaws.com"):
        known |= {"endpoint": client.endpoint_url, "aws_region": client.region_name or "us-east-1"}
    if "AWS_ACCESS_KEY_ID" in os.environ:  # else it tells on standard error where it found none
        known["aws_credentials"] = {"type": "environment"}
    return known


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, where they are absent; an object store has none and needs none."""
    if not is_bucket(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def told(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes an OSError that names the object of what the packages below raise, which has no common class."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no such object", os.fspath(path)) from error
    except (FileExistsError, MemoryError):
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        raise OSError(number or errno.EIO, _line(error), os.fspath(path)) from error


def _line(error: BaseException) -> str:
    told_of = str(getattr(error, "strerror", None) or error)  # the latter begins with its number
    text = next((line.strip() for line in told_of.splitlines() if line.strip()), "")
    return f"{text[:300] or type(error).__name__}"


def _store(path: str | os.PathLike[str]) -> Any:
    """Returns fsspec's file system of a path."""
    import fsspec

    return fsspec.filesystem(os.fspath(as_path(path)).partition("://")[0])


def read_bytes(path: Path, limit: int) -> bytes:
    """Returns what an object holds.

    Raises:
      ValueError: it is larger than `limit` bytes, which nothing of its kind is.
      FileNotFoundError: there is none.
      OSError: it cannot be read.
    """
    store, name = _store(path), os.fspath(path)
    with told(path):
        size = store.info(name)["size"]
        if size <= limit:
            return cast(bytes, store.cat_file(name))
    raise ValueError(f"{path} has {size} bytes; a file of its kind has at most {limit}")


def copy_down(path: Path, file: Path) -> None:
    """Copies an object of any size to a file of this machine."""
    with told(path):
        _store(path).get_file(os.fspath(path), os.fspath(file))


def copying(path: str | os.PathLike[str]) -> str:
    """Returns the command that copies a folder of an object store to this machine, or the other way."""
    scheme = os.fspath(path).partition("://")[0]
    return {"gs": "gcloud storage cp -r", "s3": "aws s3 cp --recursive"}[scheme]


def write(path: Path, content: bytes) -> None:
    """Writes an object: who reads finds the old or the new one."""
    with told(path):
        _store(path).pipe_file(os.fspath(path), content)


def write_new(path: Path, content: bytes) -> None:
    """Writes an object where there is none.

    Raises:
      FileExistsError: there is one.
    """
    with told(path):
        _store(path).pipe_file(os.fspath(path), content, mode="create")


@contextlib.contextmanager
def whole(path: Path, mode: str) -> Iterator[IO[Any]]:
    """Opens memory to write in, whose content becomes an object at the end, and none where an error comes."""
    memory = io.BytesIO()
    file: IO[Any] = memory if "b" in mode else io.TextIOWrapper(memory, "utf-8", newline="")
    yield file
    file.flush()
    write(path, memory.getvalue())


@dataclasses.dataclass(frozen=True)
class Object:
    """An object or a folder, with what os.DirEntry has.

    Attributes:
      path: of it.
      name: within the folder that was listed.
      folder: whether it is one.
    """

    path: str
    name: str
    folder: bool

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self.folder

    def is_symlink(self) -> bool:
        """False: there are no links."""
        return False

    def start(self, size: int) -> bytes:
        """Returns its first bytes."""
        with told(self.path):
            return cast(bytes, _store(self.path).cat_file(self.path, start=0, end=size))


@functools.lru_cache(maxsize=4096)  # a source asks for a folder more than once
def entries(folder: Path) -> tuple[Object, ...]:
    """Returns what a folder holds itself, as it was at the first question.

    Raises:
      OSError: the store does not answer, or there is none.
    """
    with told(folder):
        found = _store(folder).ls(os.fspath(folder), detail=True)
    return tuple(_objects(folder, {own["name"]: own for own in found}))


def below(folder: Path) -> list[Object]:
    """Returns the objects at any depth below a folder, in one listing; names are relative to it."""
    with told(folder):
        return list(_objects(folder, _store(folder).find(os.fspath(folder), detail=True)))


def _objects(folder: Path, found: Mapping[str, Mapping[str, Any]]) -> Iterator[Object]:
    scheme, _, top = os.fspath(folder).partition("://")
    for path, told_of in found.items():
        name = path.removeprefix(f"{top}/").rstrip("/")
        is_folder = told_of["type"] == "directory"
        if name and path.rstrip("/") != top and (is_folder or not path.endswith("/")):  # a folder's own mark
            yield Object(f"{scheme}://{path}", name, is_folder)


def bytes_in(folder: Path) -> int:
    """Returns the size of all objects of a folder."""
    with told(folder):
        return cast(int, _store(folder).du(os.fspath(folder)))


class Pace:
    """When a growing object is due to be written anew.

    Args:
      seconds: at least, from one time to the next.
    """

    def __init__(self, seconds: float):
        self._seconds, self._written, self._took = seconds, time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is; writing takes the smaller part of the time, however large the object has become."""
        return time.monotonic() - self._written > max(self._seconds, SHARE * self._took)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Measures what is done within."""
        started = time.monotonic()
        yield
        self._written = time.monotonic()
        self._took = self._written - started


class Growing:
    """A text object that grows: kept in memory, and written whole when that is due.

    Args:
      path: of it; what it holds stays.
      seconds: at least, from one writing to the next.
    """

    def __init__(self, path: Path, limit: int, seconds: float):
        self._path, self._pace, self._changed = path, Pace(seconds), True
        try:
            self._content = bytearray(read_bytes(path, limit))
        except FileNotFoundError:
            self._content = bytearray()
        self._mark: str | None = None
        self.save()

    def write(self, text: str) -> None:
        """Adds a text."""
        self._content += text.encode()
        self._changed = True

    def flush(self) -> None:
        """Writes the object where that is due."""
        if self._pace.due():
            self.save()

    def save(self) -> None:
        """Writes the object where it has changed.

        Raises:
          OSError: it cannot be written, or another process has written or removed it.
        """
        if not self._changed:
            return
        self.require_own()
        with self._pace.writing():
            write(self._path, bytes(self._content))
        self._mark, self._changed = self._found(), False

    def require_own(self) -> None:
        """Raises OSError where another process has written or removed the object."""
        if self._mark is not None and self._found() != self._mark:
            raise OSError(errno.ESTALE, "another file has taken its place", os.fspath(self._path))

    def _found(self) -> str:
        with told(self._path):
            try:
                found = _store(self._path).info(os.fspath(self._path))
            except FileNotFoundError:
                return "none"
        return str(found.get("generation") or found.get("ETag") or found.get("size"))

    def close(self) -> None:
        """Writes the object."""
        self.save()
