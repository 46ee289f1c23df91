"""The learning-rate range test: one short run whose rate rises, and what its loss says of the rate.

Smith, "Cyclical Learning Rates for Training Neural Networks" (arXiv:1506.01186), section 3.3. Differences:
the rate rises exponentially and not linearly, and the loss is looked at in place of the accuracy, so that no
evaluation is needed; both as is usual today. What it suggests is where to begin a search, not its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.config.written import Config
from imgcls_jax.search.space import Dimension
from imgcls_jax.train import finished

FIELD = "optimizer.learning_rate"
LOW, HIGH, STEPS = 1e-7, 10.0, 200
SMOOTHING = 0.98  # of the loss's average
LEAST_STEPS = 8  # that can be read
EXPLODES = 4.0  # times the least smoothed loss so far: where the test ends
BEFORE_LEAST = 10.0  # the second suggestion: so many times below the rate of the least loss


class Course(NamedTuple):
    """A range test.

    Attributes:
      rate: float [N], the learning rate of each step.
      loss: float [N], of the step's batch.
      smoothed: float [N], its average.
      steepest: the rate at which the smoothed loss falls fastest.
      before_least: a tenth of that at which it is least.
    """

    rate: np.ndarray
    loss: np.ndarray
    smoothed: np.ndarray
    steepest: float
    before_least: float

    def as_json(self) -> dict[str, Any]:
        """Returns what `range_test.json` keeps."""
        arrays = ("rate", "loss", "smoothed")
        return self._asdict() | {name: getattr(self, name).tolist() for name in arrays}


def bounds(space: Sequence[Dimension]) -> tuple[float, float]:
    """Returns the rates to go from and to: of the space, or LOW and HIGH where it is empty.

    Raises:
      ValueError: the space is not that of a learning rate.
    """
    if not space:
        return LOW, HIGH
    if [(own.field, own.kind) for own in space] != [(FIELD, "log")]:
        raise ValueError(f"--range_test takes one --space, {FIELD}=log(LOW, HIGH)")
    return space[0].low, space[0].high


def overrides(written: Config, low: float, high: float, steps: int) -> dict[str, str]:
    """Returns the overrides that make a configuration's run a range test.

    Raises:
      ValueError: it has phases, each with a learning rate of its own.
    """
    if written.get("phases"):
        raise ValueError(
            "--range_test raises the one learning rate of a run, and this configuration has phases: leave "
            f"them out ({', '.join(f'--config.phases.{name}=none' for name in written['phases'])})"
        )
    fields = {
        FIELD: repr(low),
        "optimizer.final_learning_rate": repr(high),
        "optimizer.schedule": "exponential",
        "optimizer.warmup_steps": "0",
        "optimizer.cooldown_steps": "0",
        "train.total_steps": str(steps),
        "train.log_every_steps": "1",
        "train.eval_every_steps": "0",
        "train.best_metric": "",
    }
    return fields | {f"evals.{name}": "none" for name in written["evals"]}


def smooth(loss: Sequence[float] | np.ndarray, beta: float = SMOOTHING) -> np.ndarray:
    """Returns the exponential average of a loss, corrected for its start at 0.

    Eq.: a_t = beta a_{t-1} + (1 - beta) loss_t; a_t / (1 - beta^t), t from 1 on.

    Args:
      loss: N numbers.
      beta: in [0, 1).

    Returns:
      float64 [N].
    """
    averages, average = [], 0.0
    for step, value in enumerate(loss, start=1):
        average = beta * average + (1 - beta) * value
        averages.append(average / (1 - beta**step))
    return np.array(averages)


def end_of(smoothed: np.ndarray) -> int:
    """Returns how many steps come before the smoothed loss exceeds EXPLODES times its least so far; all of
    them where that is not positive."""
    least = np.minimum.accumulate(smoothed)
    beyond = np.flatnonzero((smoothed > EXPLODES * least) & (least > 0))
    return int(beyond[0]) if len(beyond) else len(smoothed)


def read(workdir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (rate, loss), float [N] each, of the steps of a run so far, up to one that is not finite."""
    path = workdir / "metrics.jsonl"
    records = finished.read_records(path) if path.exists() else []
    rates, losses = [], []
    for record in records:
        rate, loss = record.get("train/learning_rate"), record.get("train/loss")
        if rate is None or loss is None:
            break
        rates.append(rate)
        losses.append(loss)
    return np.array(rates), np.array(losses)


def has_exploded(workdir: Path) -> bool:
    """Whether a run has gone far enough."""
    smoothed = smooth(read(workdir)[1])
    return end_of(smoothed) < len(smoothed)


def suggest(rate: np.ndarray, loss: np.ndarray) -> Course:
    """Reads what a range test says.

    Args:
      rate, loss: float [N] of its steps.

    Raises:
      ValueError: too few steps.
    """
    smoothed = smooth(loss)
    end = end_of(smoothed)
    if end < LEAST_STEPS:
        raise ValueError(
            f"the range test has {end} steps before its loss explodes, too few to read: begin at a lower "
            f"rate (--space '{FIELD}=log(LOW, HIGH)')"
        )
    slope = np.gradient(smoothed[:end], np.log(rate[:end]))
    return Course(
        rate[:end],
        loss[:end],
        smoothed[:end],
        steepest=float(rate[np.argmin(slope)]),
        before_least=float(rate[np.argmin(smoothed[:end])]) / BEFORE_LEAST,
    )


def advice(course: Course) -> str:
    """Returns the line that a user reads."""
    text = (
        f"the smoothed loss falls fastest at {course.steepest:.2g}, and a tenth of the rate of its least is "
        f"{course.before_least:.2g}: a peak to begin with lies between"
    )
    if course.smoothed.argmin() == len(course.smoothed) - 1:
        text += f". It still falls at {course.rate[-1]:.2g}, the highest: go higher"
    return text
