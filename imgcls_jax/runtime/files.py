"""Files of a workdir: written whole or not at all, never through a link, and named in every error.

A workdir may come from a stranger, and a link in it may name any file of the user's. It may lie in an object
store, which has no links: see buckets.py.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from imgcls_jax.runtime import buckets

GOES_ON = ". With room and permission to write, the same command goes on from the newest checkpoint"
MAX_JSON_BYTES = 2**28  # of one file; a confusion matrix of 1,000 classes takes 4 MB
MAX_METRICS_BYTES = 2**31  # of metrics.jsonl: ten million lines
MAX_DEPTH, MAX_DIGITS = 50, 25  # of JSON: of a list within lists, and of a whole number


@contextlib.contextmanager
def naming(path: Path, way_out: str = GOES_ON) -> Iterator[None]:
    """Names the file in what its writing raises, which a full disk does not; `way_out` ends the message."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}{way_out}") from error


def open_own(path: Path, mode: str) -> IO[Any]:
    """Opens a file to write, which is a regular one of this folder.

    Args:
      path: of it.
      mode: "a+" or "a", or "w" for a new file in place of what is there; with "b" for bytes. Who may read a
        new file is for the umask to say.

    Raises:
      OSError: a symbolic link, a pipe or a device stands there, or a file that has another name besides.
    """
    new = mode.startswith("w")
    if new:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # of a link the link itself
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    flags |= os.O_WRONLY | os.O_EXCL if new else os.O_APPEND | (os.O_RDWR if "+" in mode else os.O_WRONLY)
    try:
        number = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "it is a symbolic link: remove it", str(path)) from error
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(number)
        kind = "has another name, a hard link" if stat.S_ISREG(found.st_mode) else "is no regular file"
        raise OSError(errno.EINVAL, f"it {kind}: remove it", str(path))
    return os.fdopen(number, mode, encoding=None if "b" in mode else "utf-8")


@contextlib.contextmanager
def whole(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a new file that takes the place of `path` at the end: who reads finds the old or the new one."""
    if buckets.is_bucket(path):
        with buckets.whole(path, mode) as file:
            yield file
        return
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        with open_own(temporary, mode) as file:
            yield file
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: Path, content: Any, way_out: str = GOES_ON) -> None:
    """Writes JSON so that a reader finds the old file or the new one; `way_out` as of naming."""
    with naming(path, way_out), whole(path, "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")


def read_bytes(path: Path, limit: int) -> bytes:
    """Returns what a regular file holds.

    Raises:
      ValueError: it is larger than `limit` bytes, which nothing of its kind is, or no regular file.
      OSError: it cannot be read.
    """
    if buckets.is_bucket(path):
        return buckets.read_bytes(path, limit)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} is no regular file")
        if found.st_size > limit:
            raise ValueError(f"{path} has {found.st_size} bytes; a file of its kind has at most {limit}")
        return file.read(found.st_size)


def parse_json(text: str) -> Any:
    """Returns a JSON value.

    Raises:
      ValueError: it is none, nested more than MAX_DEPTH deep, or holds a number that no field has.
    """
    try:
        content = json.loads(text, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from error
    level, depth = [content], 0
    while level:
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return content


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"the number {digits[:10]}... has {len(digits)} digits")
    return int(digits)


def read_json(path: Path) -> Any:
    """Reads a JSON file of a workdir, each of which holds an object.

    Raises:
      ValueError: it is absent, unreadable or no JSON object.
    """
    try:
        content = parse_json(read_bytes(path, MAX_JSON_BYTES).decode("utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is absent: {path.parent} is not the workdir of a run") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a JSON object")
    return content
