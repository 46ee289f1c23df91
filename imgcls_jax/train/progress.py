"""How far a run is: the steps since the last look, whether they were finite, how fast they were, and the line
that says so."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from imgcls_jax.data.pipeline import TrainBatches
from imgcls_jax.runtime.progress import Bar, clock
from imgcls_jax.train import nonfinite
from imgcls_jax.train.nonfinite import Incidents
from imgcls_jax.train.spent import Spent, Window
from imgcls_jax.train.state import TrainState, first_nonfinite
from imgcls_jax.train.writer import MetricWriter, flatten

# How far the host may run ahead of the device: more would only pile up batches in its memory.
CALLS_IN_FLIGHT = 2


class Progress:
    """The metrics of the steps since the last line, and the time that steps took.

    Args:
      spent: by the run so far.
      kept: of `kept`, from the checkpoint from which the run goes on; {} where there is none.
      batch_size, steps_per_epoch, total_steps: of the run.
      writer: of the lines' numbers.
      incidents: the steps that were not finite.
    """

    def __init__(
        self,
        spent: Spent,
        kept: Mapping[str, Any],
        *,
        batch_size: int,
        steps_per_epoch: int,
        total_steps: int,
        writer: MetricWriter,
        incidents: Incidents,
    ):
        self._batch_size, self._steps_per_epoch, self._total = batch_size, steps_per_epoch, total_steps
        self._writer, self._incidents = writer, incidents
        self.pending: list[tuple[range, dict[str, jax.Array]]] = []
        self.bar, self._spent, self._window = Bar(), spent, Window(spent, kept.get("window"))
        self.clock = spent.clock

    def waited(self, seconds: float, steps: int) -> None:
        """Counts the steps of a call, and how long they waited for their batches."""
        self._spent.steps += steps
        self._spent.waited += seconds

    def took(self, steps: range, metrics: dict[str, jax.Array]) -> None:
        """Keeps the metrics of a call, [S] where it took several steps; waits where the device is too far
        behind."""
        self.pending.append((steps, metrics))
        self.bar.update(steps[-1])
        if len(self.pending) > CALLS_IN_FLIGHT:
            jax.block_until_ready(self.pending[-CALLS_IN_FLIGHT - 1][1])

    def check_finite(self, step: int, state: TrainState, batches: TrainBatches, saved: list[int]) -> None:
        """Looks at the steps since the last time; before anything is saved, and before an order changes.

        Args:
          step, state: now.
          batches: from which they came.
          saved: the steps of the checkpoints, ascending.

        Raises:
          NonFinite, RollBack: see train/nonfinite.py.
        """
        pending, self.pending = self.pending, []
        calls = zip((steps for steps, _ in pending), jax.device_get([own for _, own in pending]), strict=True)
        for taken, metrics in itertools.chain.from_iterable(itertools.starmap(_each_step, calls)):
            finite = nonfinite.is_finite(metrics)
            self._window.add(metrics if finite else None)
            if finite:
                self._incidents.note_finite()
                continue
            epoch, position = divmod(taken - 1, batches.steps_per_epoch)
            rows = slice(position * batches.batch_size, (position + 1) * batches.batch_size)
            self._incidents.note(
                step=taken,
                loss=float(metrics["loss"]),
                leaf=first_nonfinite(state),
                found_at_step=step,
                indices=batches.order_of(epoch)[rows].tolist(),
                saved=saved,
            )

    def tell(self, step: int, learning_rate: float) -> None:
        """Averages the steps since the last line, which check_finite has seen, prints and writes them."""
        window = self._window
        means = {name: float(np.float32(mean)) for name, mean in window.means().items()}
        means.pop(nonfinite.FLAG, None)
        if self._incidents.policy == "skip":
            means["skipped"] = window.taken - window.finite
        means["learning_rate"] = learning_rate
        steps, seconds, waited = window.spent()
        window.clear()
        speed = steps * self._batch_size / max(seconds, 1e-9)
        epoch = step / self._steps_per_epoch
        left = (self._total - step) * seconds / max(steps, 1)
        said = f"epoch {epoch:.2f}  {named(means)}  {speed:,.0f} examples/s"
        self.bar.update(step, said, seconds_left=left)
        if jax.process_index() == 0 and not self.bar.replaces_lines:
            print(f"step {step}/{self._total}  {said}  {clock(left)} left", flush=True)
        extra = {"epoch": epoch, "examples_per_second": speed, "input_wait": waited / max(seconds, 1e-9)}
        self._writer.write_scalars(step, flatten(means | extra, "train"))

    def speed(self) -> dict[str, float | None]:
        """Returns examples a second, and the part of the time that steps waited for their batch."""
        steps, seconds, waited = self._spent.now()
        return {
            "examples_per_second": steps * self._batch_size / seconds if seconds else None,
            "input_wait": waited / seconds if seconds else None,
        }

    def kept(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: of the run so far, and of the steps since the last line."""
        return self._spent.kept() | {"window": self._window.kept()}


def _each_step(steps: range, metrics: dict[str, np.ndarray]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each step of a call with its metrics."""
    if len(steps) == 1:
        yield steps[0], metrics
        return
    for position, step in enumerate(steps):
        yield step, {name: own[position] for name, own in metrics.items()}


def named(numbers: Mapping[str, float]) -> str:
    """Returns numbers by name, as lines show them."""
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
