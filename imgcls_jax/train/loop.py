"""The loop: steps, lines, evaluations and checkpoints, until the last step."""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from imgcls_jax.config import compare
from imgcls_jax.config.field_types import fits
from imgcls_jax.contracts.objective import Batch
from imgcls_jax.data.pipeline import TrainBatches, note_bad_examples
from imgcls_jax.data.read_ahead import iterate
from imgcls_jax.runtime.agreement import union
from imgcls_jax.runtime.environment import environment
from imgcls_jax.runtime.mistakes import in_one_line
from imgcls_jax.runtime.progress import bar
from imgcls_jax.runtime.stop import Interrupted, StopRequest
from imgcls_jax.train import evaluation, sharding
from imgcls_jax.train.build import make_evaluators
from imgcls_jax.train.checkpoint import Checkpoints, NotSaved
from imgcls_jax.train.compiled import compile_step
from imgcls_jax.train.due import Due
from imgcls_jax.train.epoch_plan import Embedder, plan
from imgcls_jax.train.evaluation import Splits
from imgcls_jax.train.features import CachedFeatures, cache_features
from imgcls_jax.train.gallery import Gallery
from imgcls_jax.train.nonfinite import Incidents
from imgcls_jax.train.optimizer import plateau_scale
from imgcls_jax.train.phase import Phase
from imgcls_jax.train.progress import Progress, named
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.spent import Spent
from imgcls_jax.train.state import TrainState, state_digest
from imgcls_jax.train.writer import MetricWriter, flatten

logger = logging.getLogger(__name__)


class Failed(ValueError):
    """The run ended before its last step, for a reason that this names, and its state is saved."""


class Loop:
    """A run under way: the state, what was measured since the last line, the clock.

    Args:
      setup: what does not change.
      state, order: to begin with; order is the running epoch's, of objectives that plan it.
      checkpoints, writer, stop: where it saves, writes, and learns that it should stop.
      incidents: the steps that were not finite.
      spent: by the run so far.
      kept: of `kept`, from the checkpoint of the state; {} where there is none.
    """

    def __init__(
        self,
        setup: Setup,
        state: TrainState,
        order: np.ndarray | None,
        checkpoints: Checkpoints,
        writer: MetricWriter,
        stop: StopRequest,
        incidents: Incidents,
        spent: Spent,
        kept: Mapping[str, Any],
    ):
        self.setup, self.state, self.order = setup, state, order
        self.phase = setup.phase_of(int(state.step))
        self.cached: CachedFeatures | None = None
        self.checkpoints, self.writer, self.stop = checkpoints, writer, stop
        self.incidents = incidents
        train = setup.settings.train
        self.splits = Splits(setup.data, setup.evaluated_at_once, setup.class_names, stop=stop.here)
        bad_examples = kept.get("bad_examples", [])
        self.splits.bad_examples |= set(bad_examples if fits(bad_examples, list[str]) else [])
        self.evaluators = make_evaluators(setup.settings.evals, setup.predict, self.splits.open, setup.task)
        self.gallery = Gallery(setup.class_names, self.splits.source)
        self.embedder = Embedder(setup, self.splits.read)
        self.evaluation: dict[str, dict[str, Any]] | None = None
        self.step = int(state.step)
        self.due = Due(train, self.step)
        self.progress = Progress(
            spent,
            kept,
            batch_size=train.batch_size,
            steps_per_epoch=setup.task.steps_per_epoch,
            total_steps=train.total_steps,
            writer=writer,
            incidents=incidents,
        )

    # ---- stepping

    def advance(self) -> None:
        """Trains to the last step, one phase after the other.

        Raises:
          Interrupted: the run was asked to stop; nothing is saved yet.
          FloatingPointError: the loss is not finite.
        """
        total = self.setup.settings.train.total_steps
        with bar("training", total, "steps", done=self.step) as self.progress.bar:
            for phase in self.setup.phases:
                if self.step < phase.stop:
                    self._advance_phase(self._begin(phase))

    def _begin(self, phase: Phase) -> dict[int, Any]:
        """Makes a phase the running one, with a fresh optimizer where it begins here; returns its compiled
        programs, by their number of steps."""
        self.check_finite()
        setup = self.setup
        if len(setup.phases) > 1 and setup.first_process:
            print(f"phase {phase.name}: steps {phase.start} to {phase.stop}", flush=True)
        self.cached = cache_features(
            phase,
            setup.backbone,
            self.state,
            self.splits.read,
            batch_size=setup.evaluated_at_once,
        )
        compiled = {steps: compile_step(setup, phase, steps) for steps in self._lengths(phase)}
        if phase is not self.phase:
            self._save_before_change()
            opt_state = phase.tx.init(self.state.params)
            self.phase, self.state = phase, setup.copy(self.state._replace(opt_state=opt_state))
        return compiled

    def _lengths(self, phase: Phase) -> list[int]:
        """Returns how many steps a call may take in a phase: one, and as many as are allowed and fit."""
        fitting = [self.due.longest_call(), phase.stop - phase.start]
        if self.setup.objective.plan_epoch is not None:
            fitting.append(self.setup.task.steps_per_epoch)
        return sorted({1, min(fitting)})

    def _advance_phase(self, compiled: dict[int, Any]) -> None:
        """Trains to the end of the phase, one span of unchanging order after the other."""
        setup, total = self.setup, self.phase.stop
        while self.step < total:
            stop = total
            if setup.objective.plan_epoch is not None:
                epoch, done = divmod(self.step, setup.task.steps_per_epoch)
                stop = min(total, (epoch + 1) * setup.task.steps_per_epoch)
                if done == 0:
                    self._plan(epoch)
            self._span(compiled, self._batches(), stop)

    def _batches(self) -> TrainBatches:
        settings = self.setup.settings.train
        batch_size, seed, order = settings.batch_size, settings.seed, self.order
        if self.cached is not None:
            return self.cached.train_batches(batch_size, seed, order)
        images = not self.setup.settings.data.on_device
        return self.phase.data.train_batches(batch_size, seed, order, images=images)

    def _plan(self, epoch: int) -> None:
        """Lets the objective rearrange itself before an epoch."""
        self.check_finite()
        self._save_before_change()
        state = self.state
        embed = functools.partial(self.embedder.embed, state)
        self.state, self.order, metrics = plan(self.setup, self.phase.tx, state, epoch, embed)
        if metrics:
            if self.setup.first_process:
                print(f"epoch {epoch} planned: {named(metrics)}", flush=True)
            self.writer.write_scalars(self.step, flatten(metrics, "plan"))

    def _span(self, compiled: dict[int, Any], batches: TrainBatches, stop: int) -> None:
        setup, progress = self.setup, self.progress
        spec, beside = setup.rows_of(self.phase), setup.beside_rows(self.phase)
        with iterate(batches, self.step, stop, **setup.data.reading) as iterator:
            progress.clock.resume()
            while self.step < stop:
                steps = self._steps_of_call(max(compiled), stop)
                asked = time.monotonic()
                read = list(itertools.islice(iterator, steps))
                progress.waited(time.monotonic() - asked, steps)
                for batch in read:
                    note_bad_examples(batches.source, batch.pop("bad_examples"), self.splits.bad_examples)
                rows = [{key: batch[key] for key in spec} for batch in read]
                self._take(compiled[steps], self._placed(rows) | beside, steps)
                self._after_step()
            progress.clock.pause()

    def _steps_of_call(self, most: int, stop: int) -> int:
        """Returns how many steps the next call takes: as many as it may, or one where something is due before
        their end."""
        step = self.step
        stops = [stop, self.due.next(step), *(left - 1 for left in self.incidents.left_out if left > step)]
        return most if step + most <= min(stops) else 1

    def _placed(self, rows: list[Batch]) -> Batch:
        """Returns the rows of a call, those of several steps stacked, on the devices; where there is one, it
        takes them from the host, for a fifth of the time."""
        several, mesh = len(rows) > 1, self.setup.mesh
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *rows) if several else rows[0]
        return batch if mesh.size == 1 else sharding.place(batch, mesh, stacked=several)

    def _take(self, compiled: Any, batch: Batch, steps: int) -> None:
        """Takes the steps of a call, or leaves its batch out where the run went back because of it."""
        if self.step + 1 in self.incidents.left_out:
            self.state = self.state._replace(step=sharding.copy(self.state.step + 1, self.setup.sharding))
            self.step += 1
            return
        self.state, metrics = compiled(self.state, batch)
        self.step += steps
        self.progress.took(range(self.step - steps + 1, self.step + 1), metrics)

    def _after_step(self) -> None:
        """What is due at this step: a line, a checkpoint, an evaluation, the end."""
        step, due = self.step, self.due
        saves, line = due.checkpoint(step), due.line(step)
        stops = self.stop.here()
        if saves or line or stops:
            self.check_finite()
        if line:
            rate = float(self.phase.schedule(step - 1 - self.phase.start))
            self.progress.tell(step, rate * plateau_scale(self.state.opt_state))
        if stops:
            raise Interrupted
        if saves:
            self.progress.clock.pause()
            self.writer.flush()  # first: whoever finds the checkpoint finds what was told up to it
            self.save()
            if due.evaluation(step):
                self.evaluate()
            self.progress.clock.resume()

    # ---- keeping

    def check_finite(self) -> None:
        """Raises NonFinite or RollBack for a step since the last look that was not finite."""
        self.progress.check_finite(self.step, self.state, self._batches(), self.checkpoints.steps())

    def evaluate(self) -> None:
        """Runs every evaluation of the state, which is saved; tells of and writes those that succeed.

        Raises:
          EvaluationFailed, ValueError: one failed, or none measured train.best_metric.
          Interrupted: the run was asked to stop; a resume makes up for the evaluation.
        """
        self.evaluation, scalars = evaluation.run_and_tell(
            self.evaluators, self.state, self.step, self.writer, self.gallery
        )
        evaluation.require_metric(self.setup.settings.train.best_metric, scalars)
        self.checkpoints.record(self.step, scalars)

    def save(self, *, wait: bool = False) -> None:
        """Saves the state in the background; `wait` returns only when it is on disk."""
        started = time.monotonic()
        self.checkpoints.save(self.state, order=self.order, progress=self.kept(), wait=wait)
        self.due.saved(self.step, time.monotonic() - started)

    def kept(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps beside the state; every process calls this."""
        return self.progress.kept() | {"bad_examples": sorted(union(self.splits.bad_examples))}

    def _save_before_change(self) -> None:
        """Saves the state that the last step left, before it changes without a step: a resume at this step
        repeats the change."""
        if self.step:
            self.writer.flush()
            self.save()

    def end(self, error: Exception) -> str:
        """Saves what was trained when an error ends the run; returns what to say.

        Of several processes one alone may have failed, so they save nothing together: what is under way ends.
        """
        told = in_one_line(error).removesuffix(".")
        if isinstance(error, evaluation.EvaluationFailed):
            told += " (a run may go on with other evaluations)"
        lost = any(leaf.is_deleted() for leaf in jax.tree.leaves(self.state))  # a step that failed took it
        try:
            if jax.process_count() == 1 and not lost:
                self.check_finite()
                self.save(wait=True)
            self.checkpoints.wait()
        except NotSaved as unsaved:
            raise NotSaved(f"{told}; and {unsaved}") from error
        saved = self.checkpoints.steps()[-1:]
        if not saved:
            return f"{told}. No step was saved: the same command begins again"
        return f"{told}. The state of step {saved[0]} is saved: the same command goes on from there"

    def result(self) -> dict[str, Any]:
        """Returns what result.json holds, once the last step is done and on disk."""
        self.save(wait=True)
        self.writer.require_file()
        return {
            "metrics": self.evaluation,
            "steps": self.step,
            **self.progress.speed(),
            "bad_examples": len(union(self.splits.bad_examples)),
            "config": self.setup.resolved,
            "config_digest": compare.digest(self.setup.resolved),
            "state_digest": state_digest(self.state),
            **environment(),
        }
