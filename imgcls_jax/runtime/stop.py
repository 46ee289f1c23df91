"""How a run is asked to stop, and how its processes agree on where."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """The run was asked to stop; its state is saved, or about to be."""


class StopRequest:
    """SIGTERM, SIGHUP and the first Ctrl-C, to any process, as an answer that all processes get at the same
    place.

    One process reads a flag of its own. Of several, JAX's preemption service has taken SIGTERM already, tells
    the others, and finds a place that none has passed; the other two are handed to it. A second Ctrl-C ends a
    process at once, and so does a second SIGTERM where there is one process. A terminal that is closed may
    send SIGHUP more than once, so a second one changes nothing; where it is ignored, as under nohup, it is
    left alone.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._places = 0
        self._several = jax.process_count() > 1
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers():
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _numbers(self) -> list[int]:
        """Returns the signals to take note of."""
        numbers: list[int] = [signal.SIGINT] if self._several else [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
            numbers.append(hangup)
        return numbers

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        self.signal = signal.Signals(number).name
        if number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._previous[number])
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    @property
    def reason(self) -> str:
        """What asked for it, for the log."""
        return self.signal or "SIGTERM to one of the processes"

    def here(self) -> bool:
        """Returns whether to stop here; every process asks at the same places in the same order."""
        if not self._several:
            return self.signal is not None
        self._places += 1
        return multihost_utils.reached_preemption_sync_point(self._places)
