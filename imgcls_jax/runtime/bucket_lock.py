"""The lock of a folder in an object store, which knows no locks: an object that its holder writes anew.

Nobody lets go of the lock of a process that was killed. So who finds one watches it: a holder that lives
changes it every RENEW_SECONDS, and one that stays as it is for STALE_SECONDS is taken over. Clocks of two
machines are compared nowhere.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from imgcls_jax.runtime import buckets
from imgcls_jax.runtime.names import printable

logger = logging.getLogger(__name__)

RENEW_SECONDS, STALE_SECONDS, POLL_SECONDS = 10.0, 60.0, 2.0
SETTLE_SECONDS = 1.0  # in which two processes that took over at once see who wrote last
MAX_BYTES = 2000


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Holds a lock.

    Args:
      path: of its object.

    Raises:
      ValueError: another process holds it.
      OSError: the store does not answer, or refuses.
    """
    now = datetime.datetime.now().isoformat(" ", "seconds")
    owner = f"process {os.getpid()} on {platform.node()} since {now}"
    lease = _Lease(path, owner, f"{_place()} {os.getpid()} {secrets.token_hex(8)}")
    lease.take()
    thread = threading.Thread(target=lease.renew, name="lock of a bucket", daemon=True)
    thread.start()
    try:
        yield
    finally:
        lease.ended.set()
        thread.join(timeout=buckets.READ_SECONDS)
        lease.let_go()


def _place() -> str:
    """Returns a word for where process numbers mean what they mean here: a start of a system, a container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return secrets.token_hex(8)  # of no other process


class _Lease:
    """One process's wish to hold a lock.

    Its object has three lines: whom a message names, who it is, and how often it was renewed.
    """

    def __init__(self, path: Path, owner: str, own: str):
        self._path, self._owner, self._own, self._renewed = path, owner, own, 0
        self.ended = threading.Event()

    def take(self) -> None:
        """Takes the lock, after a look at who holds it."""
        found = self._read()
        if found:
            self._require_dead(found)
            with contextlib.suppress(FileNotFoundError), buckets.told(self._path):
                self._path.unlink()
        try:
            buckets.write_new(self._path, self._content())
        except FileExistsError:
            if not self._is_own(self._read()):  # else the store's answer was lost, and it was asked again
                self._refuse(self._read())
        if found:
            time.sleep(SETTLE_SECONDS)
        if not self._is_own(now := self._read()):
            self._refuse(now)

    def _require_dead(self, found: str) -> None:
        """Raises ValueError where the holder of a lock lives."""
        place, number = ([*found.splitlines(), "", ""][1].split(" ") + [""])[:2]
        if place == _place() and number.isdigit() and not _runs(int(number)):
            return
        logger.warning(
            "%s is of %s: watching for up to %.0f s whether that lives",
            self._path,
            _named(found),
            STALE_SECONDS,
        )
        until = time.monotonic() + STALE_SECONDS
        while time.monotonic() < until:
            time.sleep(POLL_SECONDS)
            now = self._read()
            if not now:
                return
            if now != found:
                self._refuse(now)

    def _refuse(self, found: str) -> None:
        holder = _named(found)
        raise ValueError(f"{self._path.parent} is in use by {holder}: end it, or choose another --workdir")

    def renew(self) -> None:
        """Renews the lock until the end, or until another process holds it."""
        while not self.ended.wait(RENEW_SECONDS):
            try:
                if not self._is_own(found := self._read()):
                    logger.error("%s: another run has taken this folder over: %s", self._path, _named(found))
                    return
                self._renewed += 1
                buckets.write(self._path, self._content())
            except OSError as error:
                logger.warning("%s cannot be renewed now: %s", self._path, error.strerror or error)

    def let_go(self) -> None:
        """Removes the lock where it is this process's; a store that does not answer keeps it."""
        with contextlib.suppress(OSError), buckets.told(self._path):
            if self._is_own(self._read()):
                self._path.unlink()

    def _content(self) -> bytes:
        return f"{self._owner}\n{self._own}\n{self._renewed}\n".encode()

    def _is_own(self, found: str) -> bool:
        return self._own in found.splitlines()

    def _read(self) -> str:
        try:
            return buckets.read_bytes(self._path, MAX_BYTES).decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""


def _named(found: str) -> str:
    return printable([*found.splitlines(), ""][0][:200]) or "another run"


def _runs(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
