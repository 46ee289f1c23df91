"""What becomes of a step whose loss or state is not finite: config.train.on_nonfinite.

- "stop": the run ends at the next line, evaluation or checkpoint. Nothing is added to the step.
- "skip": such a step changes nothing but the number of steps. The decision is taken on the device.
- "rollback": the run goes back to its newest checkpoint, and leaves out that one batch when it comes again,
  also after a resume. No step is guarded by a choice between old and new state, as those of "skip" are.

Each such step leaves <workdir>/nonfinite_STEP.json, from which tools/replay.py repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.runtime.files import read_json, write_json
from imgcls_jax.train.finished import require_fields

MAX_IN_A_ROW = 10  # so many skipped steps end a run
MAX_ROLLBACKS = 10  # of a run, over all its resumes
FLAG = "nonfinite"  # among the metrics of a watched step: 1.0 where it is not finite


class NonFinite(FloatingPointError):
    """The run cannot go on from a step that is not finite."""


class RollBack(Exception):
    """The run is to go back to its newest checkpoint."""


def watch(step: Callable[..., Any], policy: str) -> Callable[..., Any]:
    """Returns a training step whose metric FLAG tells whether all it computed is finite.

    With "skip" it keeps the old state where it is not; with "stop" it is the step as it came.
    """
    if policy == "stop":
        return step

    def watched(state: Any, batch: Any) -> Any:
        new, metrics = step(state, batch)
        leaves = jax.tree.leaves((metrics["loss"], new.params, new.objective_state, new.opt_state))
        inexact = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in inexact]))
        if policy == "skip":
            kept = jax.tree.map(lambda old, leaf: jnp.where(finite, leaf, old), state, new)
            new = kept._replace(step=new.step)
        return new, metrics | {FLAG: 1.0 - finite.astype(jnp.float32)}

    return watched


def is_finite(metrics: Mapping[str, Any]) -> bool:
    """Returns whether a step's metrics, on the host, say that it was finite."""
    return math.isfinite(metrics["loss"]) and not metrics.get(FLAG, 0.0)


class Incidents:
    """The steps of a run that were not finite, and what they lead to.

    Args:
      workdir: of the run.
      policy: of config.settings.ON_NONFINITE.
      write: False in processes other than the first.
    """

    def __init__(self, workdir: Path, policy: str, *, write: bool):
        self.workdir, self.policy, self._write = workdir, policy, write
        self.left_out = left_out(workdir) if policy == "rollback" else frozenset()
        self._in_a_row = 0

    def note_finite(self) -> None:
        """A step was finite."""
        self._in_a_row = 0

    def note(
        self,
        *,
        step: int,
        loss: float,
        leaf: str | None,
        found_at_step: int,
        indices: Sequence[int],
        saved: Sequence[int],
    ) -> None:
        """Writes a step's record, and decides.

        Args:
          step: that is not finite, counted from 1.
          loss: of it.
          leaf: the first of the state that holds a NaN or an infinity, None where none does.
          found_at_step: the step after which this was looked for.
          indices: of the examples of its batch.
          saved: the steps of the checkpoints, ascending.

        Raises:
          NonFinite: the run stops.
          RollBack: it goes back; the step is among those left out from now on.
        """
        if self._write:
            record = {
                "step": step,
                "loss": str(loss),
                "first_bad_leaf": leaf,
                "found_at_step": found_at_step,
                "indices": list(indices),
                "on_nonfinite": self.policy,
            }
            write_json(self.workdir / f"nonfinite_{step}.json", record)
        self._in_a_row += 1
        if self.policy == "skip" and self._in_a_row < MAX_IN_A_ROW:
            return
        what = (
            f"the {'state after' if math.isfinite(loss) else 'loss of'} step {step} is not finite; by step "
            f"{found_at_step} the first leaf of the state that holds a NaN or an infinity is "
            f"{leaf or 'none'}"
        )
        if self.policy == "rollback" and len(self.left_out) < MAX_ROLLBACKS and step not in self.left_out:
            self.left_out |= {step}
            raise RollBack(f"{what}. The batch of step {step} is left out from now on")
        limits = {
            "skip": f"{MAX_IN_A_ROW} steps skipped in a row; ",
            "rollback": f"{len(self.left_out)} batches left out, and ",
        }
        raise NonFinite(f"{limits.get(self.policy, '')}{what}. {_way_on(self.workdir, saved)}")


def _way_on(workdir: Path, saved: Sequence[int]) -> str:
    """Returns what to try: in another workdir, since this one takes no other configuration."""
    numbers = "a lower optimizer.learning_rate or optimizer.clip_norm = 1.0"
    if not saved:
        return f"No step was saved: begin in another --workdir, with {numbers}, or optimizer.warmup_epochs"
    earlier = f"; where its loss had grown already, from {workdir}@{saved[0]}" if len(saved) > 1 else ""
    return (
        f"The last checkpoint is of step {saved[-1]}: go on from it in another --workdir, with "
        f"--config.train.resume_from={workdir} and {numbers}{earlier}"
    )


def left_out(workdir: Path) -> frozenset[int]:
    """Returns the steps that a run leaves out, from its records.

    Raises:
      ValueError: a record is damaged.
    """
    steps = set()
    for path in sorted(workdir.glob("nonfinite_*.json")):
        record = read_json(path)
        require_fields(path, record, {"step": int, "on_nonfinite": str})
        if record["on_nonfinite"] == "rollback":
            steps.add(record["step"])
    return frozenset(steps)
