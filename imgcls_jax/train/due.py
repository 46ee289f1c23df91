"""What is due after a step: a line, an evaluation, a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable

from imgcls_jax.config.settings import TrainSettings
from imgcls_jax.runtime.agreement import of_first

MAX_SHARE = 0.03  # of a run's time that checkpoints by the clock may take
LOOK_SECONDS = 5.0  # between two looks at the clock, about


class Due:
    """Answers what is due after a step, alike in every process.

    A checkpoint is due every `checkpoint_every_steps`, with every evaluation, and when none was saved for
    `checkpoint_every_minutes`. On the last the clock of process 0 decides: the processes ask it together,
    about every LOOK_SECONDS.

    Args:
      settings: of the run.
      step: the last one done.
      now: a clock, in seconds.
    """

    def __init__(self, settings: TrainSettings, step: int, now: Callable[[], float] = time.monotonic):
        self._settings, self._now = settings, now
        self._wanted = self._interval = 60 * settings.checkpoint_every_minutes
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

    def next(self, step: int) -> int:
        """Returns the next step at which anything is due by the number of steps."""
        return min([self._settings.total_steps, *(step - step % every + every for every in self._periods())])

    def longest_call(self) -> int:
        """Returns the most steps of one call: no more than lie between two lines, say."""
        return min([self._settings.steps_per_call, *self._periods()])

    def _periods(self) -> list[int]:
        own = self._settings
        every = (own.log_every_steps, own.eval_every_steps, own.checkpoint_every_steps)
        return [steps for steps in every if steps > 0]

    def saved(self, step: int, seconds: float) -> None:
        """Notes that a checkpoint was saved, and for how long that held up the run."""
        self._interval = self._wanted and max(self._wanted, seconds / MAX_SHARE)
        self._step, self._since, self._next_look = step, self._now(), step + 1

    def _by_the_clock(self, step: int) -> bool:
        elapsed = self._now() - self._since
        left, per_step = self._interval - elapsed, elapsed / (step - self._step)
        ahead = int(min(LOOK_SECONDS, left / 2) / max(per_step, 1e-9))
        due, ahead = of_first([left <= 0, max(1, min(ahead, step - self._step))])
        self.looks += 1
        self._next_look = step + ahead
        return due


def _every(steps: int, step: int) -> bool:
    return steps > 0 and step > 0 and step % steps == 0
