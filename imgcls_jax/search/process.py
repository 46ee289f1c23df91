"""A run as a process of its own, which can be asked to stop: it saves its state first."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from imgcls_jax.runtime.files import open_own

POLL_SECONDS = 0.5


def run(
    words: Sequence[str],
    log: Path,
    unwanted: Callable[[], bool],
    *,
    by: signal.Signals = signal.SIGTERM,
    poll_seconds: float = POLL_SECONDS,
    patience: float = math.inf,
) -> int:
    """Runs a command to its end and returns its exit status.

    SIGTERM, SIGHUP and Ctrl-C are handed on as SIGTERM; the command has ended when the interrupt is raised.

    Args:
      words: of the command.
      log: file to which what it prints is added.
      unwanted: asked again and again; True stops the command.
      by: the signal that stops it. SIGKILL ends its own processes too, as where a machine goes.
      poll_seconds: between two questions.
      patience: seconds that it may take to stop; then its own processes are killed with it.

    Raises:
      KeyboardInterrupt: one of them came.
    """
    with open_own(log, "ab") as file, _signals_as_interrupt():
        # Of a session of its own, Ctrl-C in a terminal does not reach it twice.
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            asked_at = math.inf
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(poll_seconds)
                if asked_at == math.inf and unwanted():
                    if by == signal.SIGKILL:
                        os.killpg(process.pid, by)
                    else:
                        process.send_signal(by)
                    asked_at = time.monotonic()
                if time.monotonic() - asked_at > patience:
                    os.killpg(process.pid, signal.SIGKILL)
        except BaseException:
            process.terminate()
            _wait(process)
            raise


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Waits until the process has ended; another Ctrl-C ends it at once."""
    try:
        process.wait()
    except KeyboardInterrupt:
        process.kill()
        process.wait()
        raise


@contextlib.contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(log: Path) -> str:
    """Returns the last line of a log that says something, "" where there is none."""
    with contextlib.suppress(OSError), open(log, "rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - 4096, 0))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""
