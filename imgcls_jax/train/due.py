"""What is due after a step: a line, an evaluation, a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable

from imgcls_jax.runtime.agreement import of_first
from imgcls_jax.train.experiment import TrainSettings

MAX_SHARE = 0.03  # of a run's time that checkpoints by the clock may take


class Due:
    """Answers what is due after a step, alike in every process.

    A checkpoint is due every `checkpoint_every_steps`, with every evaluation, and when none was saved for
    `checkpoint_every_minutes`. The clock of process 0 decides on the last. The processes ask it together, and
    seldom: after 1, 2, 4, ... steps, and at most halfway to the expected time.

    Args:
      settings: of the run.
      step: the last one done.
      now: a clock, in seconds.
    """

    def __init__(self, settings: TrainSettings, step: int, now: Callable[[], float] = time.monotonic):
        self._settings, self._now = settings, now
        self._interval = 60 * settings.checkpoint_every_minutes
        self._step, self._since, self._next_look = step, now(), step + 1
        self.looks = 0

    def line(self, step: int) -> bool:
        """Returns whether a line of progress is due."""
        return _every(self._settings.log_every_steps, step) or step == self._settings.total_steps

    def evaluation(self, step: int) -> bool:
        """Returns whether an evaluation is due."""
        return _every(self._settings.eval_every_steps, step) or step == self._settings.total_steps

    def checkpoint(self, step: int) -> bool:
        """Returns whether a checkpoint is due; asked after every step."""
        by_steps = _every(self._settings.checkpoint_every_steps, step) or self.evaluation(step)
        return by_steps or (self._interval > 0 and step >= self._next_look and self._by_the_clock(step))

    def saved(self, step: int, seconds: float) -> None:
        """Notes that a checkpoint was saved, and for how long that held up the run."""
        self._interval = max(60 * self._settings.checkpoint_every_minutes, seconds / MAX_SHARE)
        if not self._settings.checkpoint_every_minutes:
            self._interval = 0
        self._step, self._since, self._next_look = step, self._now(), step + 1

    def _by_the_clock(self, step: int) -> bool:
        elapsed, steps = self._now() - self._since, step - self._step
        left = self._interval - elapsed
        ahead = 1 if left <= 0 else max(1, min(steps, int(left / max(elapsed, 1e-9) * steps / 2)))
        due, ahead = of_first([left <= 0, ahead])
        self.looks += 1
        self._next_look = step + ahead
        return due


def _every(steps: int, step: int) -> bool:
    return steps > 0 and step > 0 and step % steps == 0
