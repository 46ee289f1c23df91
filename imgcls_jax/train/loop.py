"""The run: from a configuration and a workdir to a trained, evaluated, checkpointed network."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imgcls_jax.config import compare
from imgcls_jax.config.resolve import Configuration, resolve
from imgcls_jax.contracts.objective import Batch
from imgcls_jax.data.pipeline import EvalBatches, TrainBatches, iterate, note_bad_examples
from imgcls_jax.runtime import compilations
from imgcls_jax.runtime.agreement import all_or_none, require_agreement, union
from imgcls_jax.runtime.files import write_json
from imgcls_jax.runtime.stop import StopRequest
from imgcls_jax.train import finished, nonfinite, sharding
from imgcls_jax.train import workdir as workdirs
from imgcls_jax.train.build import make_evaluators
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.nonfinite import Incidents, RollBack
from imgcls_jax.train.optimizer import reset_optimizer
from imgcls_jax.train.phase import CachedFeatures, Phase, compute_features, only
from imgcls_jax.train.setup import Setup, environment
from imgcls_jax.train.state import TrainState, first_nonfinite, state_digest
from imgcls_jax.train.writer import Clock, MetricWriter, flatten, progress_line

logger = logging.getLogger(__name__)

# How far the host may run ahead of the device: more would only pile up batches in its memory.
STEPS_IN_FLIGHT = 2


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""


class Loop:
    """A run under way: the state, what was measured since the last line, the clock.

    Args:
      setup: what does not change.
      state, order: to begin with; order is the running epoch's, of objectives that plan it.
      checkpoints, writer, stop: where it saves, writes, and learns that it should stop.
      incidents: the steps that were not finite.
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
    ):
        self.setup, self.state, self.order = setup, state, order
        self.phase, self.cached = setup.phase_of(int(state.step)), None
        self.checkpoints, self.writer, self.stop = checkpoints, writer, stop
        self.incidents = incidents
        self.evaluators = make_evaluators(setup.settings.evals, setup.predict, self.open_split, setup.task)
        self.embedders: dict[str, Any] = {}
        self.step = self.checked = int(state.step)
        self.pending: list[tuple[int, dict[str, jax.Array]]] = []
        self.bad_examples: set[str] = set()
        self.evaluation: dict[str, dict[str, Any]] | None = None
        self.clock, self.waited, self.counted_steps = Clock(), 0.0, 0
        self._mark = (0, 0.0, 0.0)

    # ---- reading

    def open_split(self, split: str) -> Iterator[Batch]:
        """Yields the placed batches of a split, every example once.

        Raises:
          Interrupted: the run was asked to stop.
        """
        setup = self.setup
        batches = setup.data.eval_batches(split, setup.settings.train.evaluated_at_once, setup.class_names)
        return self._read_through(batches, setup.data.source(split))

    def _read_through(self, batches: EvalBatches, source: Any) -> Iterator[Batch]:
        with iterate(batches, 0, len(batches), **self.setup.data.reading) as iterator:
            for batch in iterator:
                if self.stop.here():
                    raise Interrupted
                note_bad_examples(source, batch.pop("bad_examples"), self.bad_examples)
                yield sharding.place(batch, self.setup.mesh)

    def embed(self, key: str) -> np.ndarray:
        """Returns predict's output of a key over what is trained on in index order, float32 [N, D]."""
        setup, state = self.setup, self.state
        if key not in self.embedders:
            self.embedders[key] = jax.jit(
                lambda *inputs: setup.predict(*inputs)[key], out_shardings=setup.sharding
            )
        predict = self.embedders[key]
        batches = setup.data.training_in_order(setup.settings.train.evaluated_at_once)
        rows = [
            np.asarray(predict(state.params, state.objective_state, batch), np.float32)
            for batch in self._read_through(batches, setup.data.training)
        ]
        return np.concatenate(rows)[: setup.task.num_examples]

    def cache_features(self, phase: Phase) -> CachedFeatures:
        """Returns the features of all that is trained on, by the phase's frozen backbone and transforms."""
        setup, state, started = self.setup, self.state, time.monotonic()

        def compute(params: Any, objective_state: Any, batch: Batch) -> Any:
            prepared = phase.data.augment(jax.random.key(0), batch)  # draws nothing
            features = compute_features(setup.backbone, params, objective_state, prepared)
            return only(phase.features, features), batch["label"]

        computed = jax.jit(compute, out_shardings=setup.sharding)
        batches = phase.data.training_in_order(setup.settings.train.evaluated_at_once, train_line=True)
        rows = [
            jax.device_get(computed(state.params, state.objective_state, batch))
            for batch in self._read_through(batches, phase.data.training)
        ]
        whole = jax.tree.map(lambda *parts: np.concatenate(parts)[: setup.task.num_examples], *rows)
        if setup.first_process:
            shapes = ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(whole[0]))
            seconds = time.monotonic() - started
            print(f"features of the frozen backbone computed once: {shapes} in {seconds:.1f} s", flush=True)
        return CachedFeatures(*whole)

    # ---- stepping

    def advance(self) -> None:
        """Trains to the last step, one phase after the other.

        Raises:
          Interrupted: the run was asked to stop; nothing is saved yet.
          FloatingPointError: the loss is not finite.
        """
        for phase in self.setup.phases:
            if self.step < phase.stop:
                self._enter(phase)
                self._advance_phase(self.setup.compile_step(phase))

    def _enter(self, phase: Phase) -> None:
        """Makes a phase the running one; where it is just beginning, with a fresh optimizer."""
        self._check_finite()
        setup = self.setup
        if len(setup.phases) > 1 and setup.first_process:
            print(f"phase {phase.name}: steps {phase.start} to {phase.stop}", flush=True)
        if phase is not self.phase:
            opt_state = phase.tx.init(self.state.params)
            self.state = setup.copy(self.state._replace(opt_state=opt_state))
        self.phase, self.cached = phase, None
        if phase.features is not None:
            self.cached = self.cache_features(phase)
        elif phase.why_not_cached and setup.first_process:
            print(f"features of the frozen backbone are not cached: {phase.why_not_cached}", flush=True)

    def _advance_phase(self, compiled: Any) -> None:
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
        if self.cached is None:
            return self.phase.data.train_batches(settings.batch_size, settings.seed, self.order)
        return TrainBatches(
            self.cached,
            (),
            batch_size=settings.batch_size,
            seed=settings.seed,
            order=self.order,
            shard=self.setup.data.shard,
        )

    def _plan(self, epoch: int) -> None:
        """Lets the objective rearrange itself before an epoch; without an order of its own, the usual one."""
        self._check_finite()
        setup, state = self.setup, self.state
        num_examples = setup.task.num_examples
        rng = jax.random.fold_in(jax.random.fold_in(state.rng, epoch), setup.settings.train.total_steps)
        plan = setup.objective.plan_epoch(state.params, state.objective_state, epoch, self.embed, rng)
        order = setup.batches.order_of(epoch) if plan.order is None else np.asarray(plan.order, np.int64)
        if len(order) != num_examples or order.min() < 0 or order.max() >= num_examples:
            raise ValueError(f"plan_epoch's order is not {num_examples} indices in [0, {num_examples})")
        self.order = order
        opt_state = reset_optimizer(self.phase.tx, state.opt_state, plan.params, plan.reset)
        renewed = state._replace(
            params=plan.params, objective_state=plan.objective_state, opt_state=opt_state
        )
        # The step donates its input, and the plan may have kept buffers of the old state.
        self.state = setup.copy(renewed)
        if plan.metrics:
            self.writer.write_scalars(self.step, flatten(plan.metrics, "plan"))
            if setup.first_process:
                shown = "  ".join(f"{name} {value:.4g}" for name, value in plan.metrics.items())
                print(f"epoch {epoch} planned: {shown}", flush=True)

    def _span(self, compiled: Any, batches: Any, stop: int) -> None:
        setup = self.setup
        with iterate(batches, self.step, stop, **self.setup.data.reading) as iterator:
            self.clock.resume()
            while self.step < stop:
                asked = time.monotonic()
                batch = next(iterator)
                self.waited += time.monotonic() - asked
                note_bad_examples(batches.source, batch.pop("bad_examples"), self.bad_examples)
                placed = sharding.place({key: batch[key] for key in setup.spec}, setup.mesh)
                self._take(compiled, placed)
                self._after_step()
            self.clock.pause()

    def _take(self, compiled: Any, batch: Batch) -> None:
        """Takes one step, or leaves its batch out where the run went back because of it."""
        self.step += 1
        self.counted_steps += 1
        if self.step in self.incidents.left_out:
            self.state = self.state._replace(step=sharding.copy(self.state.step + 1, self.setup.sharding))
            return
        self.state, metrics = compiled(self.state, batch)
        self.pending.append((self.step, metrics))
        if len(self.pending) > STEPS_IN_FLIGHT:
            jax.block_until_ready(self.pending[-STEPS_IN_FLIGHT - 1])

    def _after_step(self) -> None:
        """What is due at this step: a line, an evaluation, a checkpoint, the end."""
        settings, step = self.setup.settings.train, self.step

        def due(every: int) -> bool:
            return bool(every) and step % every == 0

        last = step == settings.total_steps
        evaluates = due(settings.eval_every_steps) or last
        saves = evaluates or due(settings.checkpoint_every_steps)
        stops = self.stop.here()
        if saves or due(settings.log_every_steps) or stops:
            self._check_finite()
        if due(settings.log_every_steps) or last:
            self._log()
        if stops:
            raise Interrupted
        if saves:
            self.clock.pause()
            self.save(self._evaluate() if evaluates else None)
            self.clock.resume()

    # ---- telling

    def _check_finite(self) -> None:
        """Looks at the steps since the last time; before anything is saved, and before an order changes.

        Raises:
          NonFinite, RollBack: see train/nonfinite.py.
        """
        self.pending = jax.device_get(self.pending)
        for step, metrics in self.pending:
            if step <= self.checked:
                continue
            if nonfinite.is_finite(metrics):
                self.incidents.note_finite()
            else:
                self._note_nonfinite(step, float(metrics["loss"]))
        self.checked = self.step

    def _note_nonfinite(self, step: int, loss: float) -> None:
        leaf, batches = first_nonfinite(self.state), self._batches()
        epoch, position = divmod(step - 1, batches.steps_per_epoch)
        size, saved = batches.batch_size, self.checkpoints.steps()[-1:]
        self.incidents.note(
            {
                "step": step,
                "loss": str(loss),
                "first_bad_leaf": leaf,
                "found_at_step": self.step,
                "indices": batches.order_of(epoch)[position * size : (position + 1) * size].tolist(),
            },
            f"the {'state after' if math.isfinite(loss) else 'loss of'} step {step} is not finite; by step "
            f"{self.step} the first leaf of the state that holds a NaN or an infinity is {leaf or 'none'}. "
            "Try a lower optimizer.learning_rate, optimizer.clip_norm = 1.0 or optimizer.warmup_epochs; the "
            f"last checkpoint is {saved or 'none'}",
        )

    def _log(self) -> None:
        """Averages what is pending, prints a line and writes it."""
        setup = self.setup
        taken = [metrics for _, metrics in self.pending if nonfinite.is_finite(metrics)]
        means = {name: float(np.mean([m[name] for m in taken])) for name in taken[0]} if taken else {}
        means.pop(nonfinite.FLAG, None)
        if self.incidents.policy == "skip":
            means["skipped"] = len(self.pending) - len(taken)
        self.pending = []
        means["learning_rate"] = float(self.phase.schedule(self.step - 1 - self.phase.start))
        now = (self.counted_steps, self.clock.seconds(), self.waited)
        steps, seconds, waited = (new - old for new, old in zip(now, self._mark, strict=True))
        self._mark = now
        speed = steps * setup.settings.train.batch_size / max(seconds, 1e-9)
        epoch = self.step / setup.task.steps_per_epoch
        left = (setup.settings.train.total_steps - self.step) * seconds / max(steps, 1)
        if setup.first_process:
            line = progress_line(
                self.step,
                setup.settings.train.total_steps,
                epoch,
                means,
                examples_per_second=speed,
                seconds_left=left,
            )
            print(line, flush=True)
        extra = {"epoch": epoch, "examples_per_second": speed, "input_wait": waited / max(seconds, 1e-9)}
        self.writer.write_scalars(self.step, flatten(means | extra, "train"))

    def _evaluate(self) -> dict[str, float]:
        """Runs every evaluation, prints and writes its scalars, and returns them."""
        state, best = self.state, self.setup.settings.train.best_metric
        self.evaluation = {
            name: run(state.params, state.objective_state) for name, run in self.evaluators.items()
        }
        scalars: dict[str, float] = {}
        for name, metrics in self.evaluation.items():
            scalars |= flatten(metrics, name)
        if self.setup.first_process:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in scalars.items())
            print(f"evaluation at step {self.step}: {shown}", flush=True)
        self.writer.write_scalars(self.step, scalars)
        if best and best not in scalars:
            raise ValueError(
                f"config.train.best_metric = {best!r} is none of the evaluations' metrics: "
                + ", ".join(scalars)
            )
        return scalars

    def save(self, metrics: dict[str, float] | None = None, *, wait: bool = False) -> None:
        """Saves the state in the background; `wait` returns only when it is on disk."""
        self.checkpoints.save(self.state, metrics=metrics, order=self.order, wait=wait)

    def result(self) -> dict[str, Any]:
        """Returns what result.json holds, once the last step is done and on disk."""
        if self.evaluation is None:  # an earlier run came to the last step, but not to its result
            self.save(self._evaluate())
        self.save(wait=True)
        seconds = self.clock.seconds()
        return {
            "metrics": self.evaluation,
            "steps": self.step,
            "examples_per_second": self.counted_steps * self.setup.settings.train.batch_size / seconds
            if seconds
            else None,
            "input_wait": self.waited / seconds if seconds else None,
            "bad_examples": len(union(self.bad_examples)),
            "config": self.setup.resolved,
            "config_digest": compare.digest(self.setup.resolved),
            "state_digest": state_digest(self.state),
            **environment(),
        }


def train(setup: Setup, workdir: Path) -> dict[str, Any]:
    """Trains to the end, from the newest checkpoint where there is one, and writes result.json.

    Args:
      setup: of the configuration.
      workdir: exists.

    Returns:
      What result.json holds.

    Raises:
      Interrupted: SIGTERM or Ctrl-C came; the state was saved.
      FloatingPointError: the loss is not finite; names step and leaf.
    """
    started, settings = time.monotonic(), setup.settings.train
    incidents = Incidents(workdir, settings.on_nonfinite, write=setup.first_process)
    with (
        StopRequest() as stop,
        Checkpoints(
            workdir / "checkpoints",
            keep_last=settings.keep_checkpoints,
            best_metric=settings.best_metric,
            best_mode=settings.best_mode,
        ) as checkpoints,
        compilations.counted() as compiled,
    ):
        result = None
        while result is None:
            try:
                result = _go_on(setup, workdir, checkpoints, stop, incidents)
            except RollBack as back:
                logger.warning("GOING BACK to the newest checkpoint: %s", back)
    result |= {"compilations": compiled(), "wall_seconds": time.monotonic() - started}
    if setup.first_process:
        write_json(workdir / "result.json", result)
    return result


def restore(
    setup: Setup, checkpoints: Checkpoints, *, before: int | None = None
) -> tuple[TrainState, np.ndarray | None] | None:
    """Returns (state, order) of the newest readable checkpoint; see Checkpoints.restore_latest."""
    plans = setup.objective.plan_epoch is not None
    order = np.zeros(setup.task.num_examples, np.int64) if plans else None
    return checkpoints.restore_latest(setup.target, order, before=before)


def _go_on(
    setup: Setup, workdir: Path, checkpoints: Checkpoints, stop: StopRequest, incidents: Incidents
) -> dict[str, Any]:
    """Trains from the newest checkpoint to the end and returns the result, all but wall_seconds."""
    restored = restore(setup, checkpoints)
    state, order = restored or (setup.initial_state(), None)
    first_step, total = int(state.step), setup.settings.train.total_steps
    if restored and setup.first_process:
        print(f"resumed from the checkpoint of step {first_step}", flush=True)
    writer = MetricWriter(workdir, resume_step=first_step, active=setup.first_process)
    loop = Loop(setup, state, order, checkpoints, writer, stop, incidents)
    try:
        if first_step < total:
            loop.advance()
        return loop.result() | {"resumed_from_step": first_step}
    except Interrupted:
        loop.save(wait=True)
        raise Interrupted(
            f"stopped by {stop.reason} after step {loop.step} of {total}, which is saved in {workdir}"
        ) from None
    finally:
        writer.close()


def run(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Trains a configuration in a workdir; prints as it goes on, and a summary.

    Args:
      config: ConfigDict or dict with the sections of config/written.py.
      workdir: a folder, made where absent.

    Returns:
      What <workdir>/result.json holds.

    Raises:
      ValueError: a mistake in configuration, data or workdir, a workdir in use, or processes that differ;
        nothing but the lock was written then. Of several processes all raise it.
      Interrupted, FloatingPointError: see train.
    """
    workdir = Path(workdir)
    with contextlib.ExitStack() as held:
        with all_or_none():
            configuration = resolve(config)
            grown = workdirs.check(configuration, workdir)
            finished_before = (workdir / "result.json").exists() and not grown
            result = finished.read_result(workdir) if finished_before else None
            setup = None if result else _enter(configuration, workdir, held)
        require_agreement({"whether its workdir holds a finished run": setup is None})
        if setup is None:
            print(f"{workdir} holds a finished run of this configuration; nothing to do", flush=True)
        else:
            require_agreement(_facts(setup))
            if setup.first_process:
                workdirs.claim(
                    workdir, setup.configuration, setup.task, setup.class_names, setup.source_shape
                )
            result = train(setup, workdir)
    if jax.process_index() == 0:
        print(finished.summary(result, workdir), flush=True)
    return result


def _enter(configuration: Configuration, workdir: Path, held: contextlib.ExitStack) -> Setup:
    """Returns the setup; the first process holds the workdir's lock from here on."""
    setup = Setup(configuration)
    workdir.mkdir(parents=True, exist_ok=True)
    if setup.first_process:
        held.enter_context(workdirs.lock(workdir))
        # Another run may have begun since.
        if workdirs.check(configuration, workdir, setup.task.steps_per_epoch):
            setup.require_growth(workdirs.saved_length(workdir))
    return setup


def _facts(setup: Setup) -> dict[str, Any]:
    """Returns what every process must see alike."""
    found = environment()["versions"]
    return {
        **{f"config.{name}": value for name, value in compare.binding_fields(setup.resolved).items()},
        "examples to train on": setup.task.num_examples,
        **{f"examples of the split {name!r}": size for name, size in setup.evaluated_sizes.items()},
        "class names": setup.class_names,
        "class counts": setup.task.class_counts,
        **{f"version of {name}": found.get(name, "absent") for name in ("jax", "jaxlib", "flax", "optax")},
    }
