"""Fetches one file over HTTP: goes on where it broke off, and checks size and checksum at the end.

The file grows under the name <file>.part, beside <file>.part.tag, which holds what the server says of the
version it sends (its ETag, or else its date). The next request asks for the rest of that very version (Range,
If-Range; RFC 9110, sections 13.1.5 and 14). A server that sends the whole instead, because the file has
changed or because it knows no ranges, makes the file begin anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from imgcls_jax.runtime.files import naming, open_own
from imgcls_jax.runtime.progress import BYTES, Bar, bar, tracked

logger = logging.getLogger(__name__)

CHUNK = 2**20
SECONDS = 60.0  # without a byte
ATTEMPTS = 5  # in a row that bring nothing
WAIT = 2.0  # seconds before the second attempt; it doubles
MAX_TAG = 1000  # bytes
MAX_BYTES = 2**38  # of a file of unknown size; the largest, iNaturalist's images of 2021, has 224 GB
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP errors that may be over in a moment
CHECKSUMS = {"md5": 32, "sha256": 64}  # digits
WAY_OUT = ". With room and permission to write, the same command goes on where it stopped"


class BrokenOff(Exception):
    """The server sent less than it announced, or nothing; the next attempt goes on."""


class Part(NamedTuple):
    """A file that is on its way.

    Attributes:
      file: what there is of it.
      tag: the file with the server's name of its version.
    """

    file: Path
    tag: Path

    @property
    def done(self) -> int:
        return self.file.stat().st_size if self.file.is_file() else 0

    @property
    def version(self) -> str:
        """The ETag or date of what is there, "" where none is known."""
        try:
            return self.tag.read_bytes()[:MAX_TAG].decode("latin-1").strip()
        except OSError:
            return ""

    def forget(self) -> None:
        for path in self:
            path.unlink(missing_ok=True)


def fetch(url: str, path: Path, *, size: int = 0, checksum: str = "", wait: float = WAIT) -> None:
    """Fetches a file; does nothing where it is there already, whole.

    Args:
      url: https or http.
      path: of the file; its folder is made. It appears when it is whole and checked.
      size: in bytes; 0 where it is not known.
      checksum: "md5:<hex>" or "sha256:<hex>", or its first digits; "" where none is known.
      wait: seconds before the second attempt.

    Raises:
      ValueError: the server sends another size, or the checksum is another; the part is removed then.
      OSError: the server cannot be reached, refuses, or breaks off too often; there is no room on the disk.
    """
    if path.is_file() and _is_whole(path, size, checksum):
        return
    with naming(path, WAY_OUT):
        path.parent.mkdir(parents=True, exist_ok=True)
    part = Part(path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.tag"))
    failures, furthest = 0, part.done
    while True:
        try:
            _attempt(url, part, size, is_checked=bool(checksum))
            break
        except BrokenOff as error:
            failures = 1 if part.done > furthest else failures + 1
            furthest = max(furthest, part.done)
            if failures >= ATTEMPTS:
                raise OSError(
                    f"{url}: {error}, {ATTEMPTS} times in a row; the same command goes on from the "
                    f"{part.done:,} bytes of {part.file}"
                ) from error
            logger.warning("%s: %s; trying again", url, error)
            time.sleep(wait * 2 ** (failures - 1))
    if not _is_whole(part.file, size, checksum):
        got = f"{part.done:,} bytes, {digest(part.file, checksum or 'md5:')}"
        part.forget()
        published = ", ".join(filter(None, (f"{size:,} bytes" if size else "", checksum)))
        raise ValueError(
            f"{url} is not what was published: expected {published}; got {got}. It was removed: try again "
            "later, or download it by hand"
        )
    part.file.replace(path)
    part.tag.unlink(missing_ok=True)


def _is_whole(path: Path, size: int, checksum: str) -> bool:
    if size and path.stat().st_size != size:
        return False
    return not checksum or digest(path, checksum).startswith(checksum.lower())


def digest(path: Path, checksum: str) -> str:
    """Returns the checksum of a file, of the same kind as another: "md5:..."."""
    kind = checksum.partition(":")[0]
    if kind not in CHECKSUMS:
        raise ValueError(
            f"a checksum is one of {', '.join(f'{kind}:...' for kind in CHECKSUMS)}; got {checksum!r}"
        )
    found = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        blocks = iter(lambda: file.read(CHUNK), b"")
        for block in tracked(blocks, f"checking {path.name}", path.stat().st_size, BYTES, count=len):
            found.update(block)
    return f"{kind}:{found.hexdigest()}"


# ---- one attempt


def _attempt(url: str, part: Part, size: int, is_checked: bool) -> None:
    """Asks for what is missing, and writes it.

    Args:
      url, size: as of fetch.
      part: what is there.
      is_checked: whether a checksum tells at the end if the parts are of one file.

    Raises:
      BrokenOff: less came than was announced.
      ValueError: what is sent is not what was published.
      OSError: the server refuses; there is no room.
    """
    done, version = part.done, part.version
    if size and done == size:
        return
    headers = {"User-Agent": "imgcls-jax", "Accept-Encoding": "identity"}
    if not (version or is_checked) or size and done > size:
        done = 0
    if done:
        headers |= {"Range": f"bytes={done}-"} | ({"If-Range": version} if version else {})
    with _opened(url, headers) as response:
        if response is None:  # 416: there is no rest
            part.forget()
            raise BrokenOff("the server has no more of it than is here")
        start, total = _range_of(response, done)
        if size and total and total != size:
            part.forget()
            raise ValueError(
                f"{url} has {total:,} bytes, and {size:,} were published: it is another file by now"
            )
        if start == 0:
            _remember_version(part, response)
        _require_room(part.file.parent, (size or total) - start)
        with bar(
            f"fetching {part.file.name.removesuffix('.part')}", size or total or None, BYTES, done=start
        ) as shown:
            _write(part, response, start, total or size, bool(size), shown)


class _Unsafe(Exception):
    """An https address leads to another kind."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows no step from https to anything else, which anybody on the way could change."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise _Unsafe(f"it leads to {newurl}, which anybody on the way could change")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def _opened(url: str, headers: dict[str, str]) -> Iterator[Any]:
    """Yields the response; None where the server has no such range.

    Raises:
      BrokenOff: it may be over in a moment.
      OSError: it will not.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ("https", "http"):
        raise ValueError(f"{url}: only https and http are fetched")
    opener = urllib.request.OpenerDirector()  # build_opener would know ftp, data and files, too
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        _Redirects,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            yield None
            return
        if error.code in PASSING:
            raise BrokenOff(f"the server says {error.code} {error.reason}") from error
        raise OSError(f"{url}: the server says {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise BrokenOff(
            f"no answer ({getattr(error, 'reason', None) or error or type(error).__name__})"
        ) from error
    except _Unsafe as error:
        raise OSError(f"{url}: {error}") from None
    if response is None:  # no handler: redirected to another scheme
        raise OSError(f"{url}: it leads to an address that is neither https nor http")
    with response:
        yield response


def _range_of(response: Any, asked: int) -> tuple[int, int]:
    """Returns where the content begins, and the size of the whole file, 0 where it is not said.

    Raises:
      BrokenOff: the server sends another range than it was asked for.
    """
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if re.fullmatch(r"\d{1,15}", length) else 0
    match = re.fullmatch(r"bytes (\d{1,15})-\d+/(\d{1,15}|\*)", response.headers.get("Content-Range", ""))
    if not match or int(match[1]) != asked:
        raise BrokenOff(f"the server sends {response.headers.get('Content-Range')!r}, not from {asked} on")
    return asked, int(match[2]) if match[2] != "*" else 0


def _remember_version(part: Part, response: Any) -> None:
    """Notes the version of what begins to come; a weak ETag, or none, names none (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag", "")
    version = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    part.forget()
    if version:
        with naming(part.tag, WAY_OUT), open_own(part.tag, "wb") as file:
            file.write(version.encode("latin-1", "replace")[:MAX_TAG])


def _require_room(folder: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise OSError(f"{folder}: {missing:,} bytes are to come, and the disk has room for {free:,}")


def _write(part: Part, response: Any, start: int, total: int, is_sure: bool, shown: Bar) -> None:
    """Writes what comes behind what is there.

    Args:
      total: size of the whole; 0 where nobody knows.
      is_sure: whether more than that is another file, not a server's mistake.
    """
    done = start
    with naming(part.file, WAY_OUT):
        file = open_own(part.file, "ab" if start else "wb")
    with file:
        while True:
            try:
                block = response.read(CHUNK)
            except (http.client.HTTPException, OSError) as error:
                raise BrokenOff(f"the connection broke ({str(error) or type(error).__name__})") from error
            if not block:
                break
            done += len(block)
            if done > (total or MAX_BYTES):
                break
            with naming(part.file, WAY_OUT):
                file.write(block)
            shown.update(done)
    if done > (total or MAX_BYTES):
        part.forget()
        said = "published" if is_sure else "announced" if total else "that any data set has"
        raise ValueError(f"{response.url} sends more than the {total or MAX_BYTES:,} bytes {said}")
    if total and done < total:
        raise BrokenOff(f"the connection broke after {done:,} of {total:,} bytes")
