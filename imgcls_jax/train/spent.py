"""What a run has spent so far, over all its starts, and the window of steps since its last line.

Each checkpoint keeps both, and a start goes on from those of its own checkpoint. So a line after a resume
averages the same steps as that of an undisturbed run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from imgcls_jax.config.field_types import fits


class Clock:
    """A stopwatch, standing at first: it runs while the training steps do."""

    def __init__(self) -> None:
        self._since, self._total, self._running = 0.0, 0.0, False

    def seconds(self) -> float:
        """Returns the seconds that have run so far."""
        return self._total + (time.monotonic() - self._since if self._running else 0.0)

    def pause(self) -> None:
        """Stops the clock."""
        self._total, self._running = self.seconds(), False

    def resume(self) -> None:
        """Lets the clock run on."""
        self._since, self._running = time.monotonic(), True

    def add(self, seconds: float) -> None:
        """Counts time that an earlier clock measured."""
        self._total += seconds


class Spent:
    """Time and steps of a run.

    Not counted is what a run spent after its newest checkpoint when it was killed: the time is lost with the
    steps, which are taken and counted again. Nor is the time between two starts. A run that went back to a
    checkpoint within one start counts all that it spent there, and the steps twice. One that began with
    another run's checkpoint (train/origin.py) counts its own time and steps alone.

    Attributes:
      clock: of the training steps, without evaluations and checkpoints.
      steps: taken.
      waited: seconds that they waited for their batch.
    """

    def __init__(self) -> None:
        self.clock, self.steps, self.waited = Clock(), 0, 0.0
        self._started, self._earlier, self._goes_on = time.monotonic(), 0.0, False

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Adds what earlier starts spent; only the first call of a start does.

        Args:
          kept: of `kept`, from the checkpoint from which this start goes on; {} where it has none.
        """
        if not self._goes_on:
            self._goes_on = True
            self._earlier = _number(kept.get("wall_seconds"))
            self.clock.add(_number(kept.get("training_seconds")))
            self.steps += int(_number(kept.get("steps")))
            self.waited += _number(kept.get("waited_seconds"))

    def wall_seconds(self) -> float:
        """Returns the time of all starts."""
        return self._earlier + time.monotonic() - self._started

    def now(self) -> tuple[int, float, float]:
        """Returns (steps, seconds of them, seconds that they waited)."""
        return self.steps, self.clock.seconds(), self.waited

    def kept(self) -> dict[str, float]:
        """Returns what a checkpoint keeps."""
        names = ("steps", "training_seconds", "waited_seconds")
        return {"wall_seconds": self.wall_seconds(), **dict(zip(names, self.now(), strict=True))}


class Window:
    """The finite steps since the last line: sums of their metrics, and what had been spent before them.

    Args:
      spent: of the run.
      kept: of `kept`, from the checkpoint from which the run goes on; whatever its file holds there.
    """

    def __init__(self, spent: Spent, kept: Any):
        self._spent = spent
        kept = kept if isinstance(kept, Mapping) else {}
        sums, began = kept.get("sums"), kept.get("began")
        self.finite, self.taken = int(_number(kept.get("finite"))), int(_number(kept.get("taken")))
        self.sums = dict(sums) if isinstance(sums, dict) and fits([*sums.values()], list[float]) else {}
        self._began = spent.now()
        if isinstance(began, list) and fits(began, tuple[int, float, float]):
            self._began = tuple(map(min, began, self._began))
        if bool(self.finite) != bool(self.sums) or self.taken < self.finite:
            self.clear()

    def add(self, metrics: Mapping[str, Any] | None) -> None:
        """Counts a step, by its metrics on the host; None where it was not finite."""
        self.taken += 1
        if metrics is None:
            return
        if self.sums.keys() != metrics.keys():  # of another version, before a resume
            self.finite, self.sums = 0, dict.fromkeys(metrics, 0.0)
        self.finite += 1
        for name, value in metrics.items():
            self.sums[name] += float(value)

    def means(self) -> dict[str, float]:
        """Returns the averages over the finite steps; {} where there are none."""
        return {name: total / self.finite for name, total in self.sums.items()} if self.finite else {}

    def spent(self) -> tuple[int, float, float]:
        """Returns (steps, seconds of them, seconds that they waited) since the last line."""
        steps, seconds, waited = (
            now - then for now, then in zip(self._spent.now(), self._began, strict=True)
        )
        return int(steps), seconds, waited

    def clear(self) -> None:
        """Begins a new window."""
        self.finite, self.taken, self.sums, self._began = 0, 0, {}, self._spent.now()

    def kept(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"finite": self.finite, "taken": self.taken, "sums": self.sums, "began": list(self._began)}


def _number(value: Any) -> float:
    """Returns what a file holds where that is a number from 0 on, else 0."""
    return value if fits(value, float) and math.isfinite(value) and value >= 0 else 0.0
