"""The run: from a configuration and a workdir to a trained, evaluated, checkpointed network; and its evaluation later on."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import platform
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imgcls_jax.data.pipeline import iterate
from imgcls_jax.objectives.base import Batch, Task
from imgcls_jax.train import experiment, sharding
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.experiment import Config, DataSide, TrainSettings
from imgcls_jax.train.optimizer import make_optimizer, make_schedule, reset_optimizer
from imgcls_jax.train.state import TrainState, first_nonfinite, state_digest
from imgcls_jax.train.step import make_init, make_train_step
from imgcls_jax.train.writer import Clock, MetricWriter, flatten, progress_line

logger = logging.getLogger(__name__)

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
STEPS_IN_FLIGHT = (
    2  # how far the host may run ahead of the device: more would only pile up batches in its memory
)


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""


class _StopRequest:
    """Turns SIGTERM and the first Ctrl-C into a flag that the loop reads between steps."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        self.signal = signal.Signals(number).name
        signal.signal(number, self._previous[number])


class Run:
    """One training run.

    Args:
      config: of experiment.plain.
      workdir: made where absent; one that another configuration trained in is refused.

    Raises:
      ValueError: a mistake in the configuration or the data, before the first step.
    """

    def __init__(self, config: Config, workdir: Path):
        self.config, self.workdir = config, workdir
        self.mesh = sharding.data_mesh()
        self.first_process = jax.process_index() == 0
        self.data = DataSide(config["data"], (jax.process_index(), jax.process_count()))
        batch_size = config["train"].get("batch_size")
        if not isinstance(batch_size, int):
            raise ValueError(f"config.train.batch_size is a whole number of examples; got {batch_size!r}")
        sharding.check_batch_size(batch_size, self.mesh)
        self.batches = self.data.train_batches(batch_size, config["train"].get("seed", 0))
        train = experiment.in_steps(config["train"], "train", self.batches.steps_per_epoch, batch_size)
        self.settings: TrainSettings = experiment.call(TrainSettings, "train", train)
        self.eval_batch_size = self.settings.eval_batch_size or batch_size
        sharding.check_batch_size(self.eval_batch_size, self.mesh, "train.eval_batch_size")
        if batch_size % (self.settings.accumulate_steps * self.mesh.size):
            raise ValueError(
                f"train.batch_size = {batch_size} does not divide into train.accumulate_steps = "
                f"{self.settings.accumulate_steps} parts on {self.mesh.size} devices"
            )
        self._build()
        _claim_workdir(config, workdir)
        self.bad_examples: set[tuple[str, int]] = set()
        self.stop = _StopRequest()

    def _build(self) -> None:
        """Builds task, objective, optimizer and evaluators; traces shapes only."""
        source = self.data.source(self.data.settings.train_split)
        sample = self.batches[0]
        spec = {
            key: jax.ShapeDtypeStruct(value.shape, value.dtype)
            for key, value in sample.items()
            if key != "bad_examples"
        }
        prepared = jax.eval_shape(self.data.augment, jax.eval_shape(lambda: jax.random.key(0)), spec)
        self.task = Task(
            num_classes=len(source.class_names),
            num_examples=len(source),
            steps_per_epoch=self.batches.steps_per_epoch,
            total_steps=self.settings.total_steps,
            image_shape=tuple(prepared["image"].shape[1:]),
        )
        self.class_names, self.source_shape = tuple(source.class_names), tuple(sample["image"].shape[1:])
        self.objective = experiment.make_objective(self.config, self.task)
        self.batch_keys = self.objective.batch_keys
        wanted = {key: _first_row(prepared[key]) for key in self.batch_keys}
        params = jax.eval_shape(lambda: self.objective.init(jax.random.key(0), jax.tree.map(_zeros, wanted)))[
            0
        ]
        self._build_optimizer(params)
        init = make_init(self.objective, self.tx, wanted)
        self.sharding = sharding.replicated(self.mesh)
        self.init = jax.jit(init, out_shardings=self.sharding)
        self.target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.sharding),
            jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0))),
        )
        self.evaluators = experiment.make_evaluators(
            self.config, self.data, self.objective, self.task, self.open_split
        )

    def _build_optimizer(self, params: Any) -> None:
        fields = experiment.in_steps(
            self.config["optimizer"], "optimizer", self.task.steps_per_epoch, self.settings.batch_size
        )
        names = (
            "learning_rate",
            "schedule",
            "warmup_steps",
            "decay_factor",
            "decay_every_steps",
            "decay_at_steps",
            "final_learning_rate",
        )
        self.schedule = experiment.call(
            make_schedule,
            "optimizer",
            {k: v for k, v in fields.items() if k in names},
            total_steps=self.settings.total_steps,
        )
        others = {k: v for k, v in fields.items() if k not in names}
        self.tx = experiment.call(make_optimizer, "optimizer", others, schedule=self.schedule, params=params)

    # -- the parts of a run -------------------------------------------------------------------------------------------

    def open_split(self, split: str) -> Iterator[Batch]:
        """Yields the placed batches of a split, every example once; ends the run where it was asked to stop."""
        batches = self.data.eval_batches(split, self.eval_batch_size, self.class_names)
        with iterate(batches, 0, len(batches), **self._reading()) as iterator:
            for batch in iterator:
                if self.stop.signal:
                    raise Interrupted
                self._note_bad(split, batch.pop("bad_examples"))
                yield sharding.place(batch, self.mesh)

    def _reading(self) -> dict[str, int]:
        settings = self.data.settings
        return {
            "num_threads": settings.num_threads,
            "num_workers": settings.num_workers,
            "prefetch": settings.prefetch_batches,
        }

    def _note_bad(self, split: str, indices: np.ndarray) -> None:
        for index in indices.tolist():
            if (split, index) not in self.bad_examples:
                self.bad_examples.add((split, index))
                logger.warning("skipped, cannot be read: %s", self.data.source(split).describe(index))

    def embed(self, state: TrainState, key: str) -> np.ndarray:
        """Returns predict's output of a key over the training split in index order, float32 [N, D], on every process."""
        predict = jax.jit(
            lambda params, carry, batch: self.objective.predict(params, carry, self.data.prepare(batch))[key],
            out_shardings=self.sharding,
        )
        rows = [
            np.asarray(predict(state.params, state.carry, batch), np.float32)
            for batch in self.open_split(self.data.settings.train_split)
        ]
        return np.concatenate(rows)[: self.task.num_examples]

    def evaluate(self, state: TrainState) -> dict[str, dict[str, Any]]:
        """Returns {evaluation's name: its metrics}."""
        return {name: evaluator(state.params, state.carry) for name, evaluator in self.evaluators.items()}

    def compile_step(self) -> Any:
        """Compiles the step; prints the parameter table, and FLOPs and memory by XLA's own analysis."""
        split = sharding.split_batch(self.mesh)
        rows = self.settings.batch_size
        sample = {
            key: jax.ShapeDtypeStruct((rows, *value.shape[1:]), value.dtype, sharding=split)
            for key, value in self.batches[0].items()
            if key in self.batch_keys
        }
        step = make_train_step(
            self.objective, self.tx, self.data.augment, accumulate_steps=self.settings.accumulate_steps
        )
        start = time.monotonic()
        compiled = (
            jax.jit(step, donate_argnums=0, out_shardings=self.sharding).lower(self.target, sample).compile()
        )
        if self.first_process:
            print(_overview(self.target.params, compiled, time.monotonic() - start), flush=True)
        return compiled

    # -- the run itself -----------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Trains to the end, resuming where a checkpoint stands, and returns what result.json holds.

        Raises:
          Interrupted: SIGTERM or Ctrl-C came; the state was saved.
          FloatingPointError: the loss is not finite; names step and leaf.
        """
        started = time.monotonic()
        settings = self.settings
        with (
            self.stop,
            Checkpoints(
                self.workdir / "checkpoints",
                keep_last=settings.keep_checkpoints,
                best_metric=settings.best_metric,
                best_mode=settings.best_mode,
            ) as checkpoints,
        ):
            plans = self.objective.plan_epoch is not None
            blank = np.zeros(self.task.num_examples, np.int64) if plans else None
            restored = checkpoints.restore_latest(self.target, blank)
            state, order = restored or (self.init(jax.random.key(settings.seed)), None)
            first_step = int(state.step)
            if first_step:
                print(f"resumed from the checkpoint of step {first_step}", flush=True)
            writer = MetricWriter(self.workdir, resume_step=first_step, active=self.first_process)
            progress = _Progress(self, state, order, checkpoints, writer)
            try:
                if first_step < settings.total_steps:
                    progress.advance(self.compile_step())
                result = progress.finish(first_step, started)
            except Interrupted:
                progress.save(wait=True)
                raise Interrupted(
                    f"stopped by {self.stop.signal} after step {progress.step} of {settings.total_steps}, "
                    f"which is saved in {self.workdir}"
                ) from None
            finally:
                writer.close()
        return result


class _Progress:
    """The moving parts of a run: the state, what was measured since the last line, the clock."""

    def __init__(
        self,
        run: Run,
        state: TrainState,
        order: np.ndarray | None,
        checkpoints: Checkpoints,
        writer: MetricWriter,
    ):
        self.run, self.state, self.order = run, state, order
        self.checkpoints, self.writer = checkpoints, writer
        self.step = int(state.step)
        self.pending: list[dict[str, jax.Array]] = []
        self.clock, self.waited = Clock(), 0.0
        self.clock.pause()
        self.counted_steps, self.evaluation = 0, None
        self._mark = (0, 0.0, 0.0)

    def advance(self, compiled: Any) -> None:
        """Trains to the last step, one span of unchanging order after the other."""
        run, total = self.run, self.run.settings.total_steps
        while self.step < total:
            stop = total
            batches = run.batches
            if run.objective.plan_epoch is not None:
                epoch, done = divmod(self.step, run.task.steps_per_epoch)
                stop = min(total, (epoch + 1) * run.task.steps_per_epoch)
                if done == 0:
                    self._plan(epoch)
                batches = run.data.train_batches(run.settings.batch_size, run.settings.seed, self.order)
            self._span(compiled, batches, stop)

    def _plan(self, epoch: int) -> None:
        """Lets the objective rearrange itself before an epoch; a plan without an order keeps the usual shuffle."""
        run, state = self.run, self.state
        rng = jax.random.fold_in(jax.random.fold_in(state.rng, epoch), run.settings.total_steps)
        plan = run.objective.plan_epoch(
            state.params, state.carry, epoch, lambda key: run.embed(state, key), rng
        )
        num_examples = run.task.num_examples
        if plan.order is None:
            self.order = run.batches.order_of(epoch)
        elif len(plan.order) != num_examples or min(plan.order) < 0 or max(plan.order) >= num_examples:
            raise ValueError(
                f"plan_epoch returned an order that is not {num_examples} indices in [0, {num_examples})"
            )
        else:
            self.order = np.asarray(plan.order, np.int64)
        opt_state = state.opt_state
        if plan.reset:
            opt_state = reset_optimizer(run.tx, opt_state, plan.params, plan.reset)
        renewed = state._replace(params=plan.params, carry=plan.carry, opt_state=opt_state)
        # A copy made by jit: the step donates its input, and the plan may have kept buffers of the old state.
        self.state = jax.jit(lambda tree: jax.tree.map(jax.numpy.copy, tree), out_shardings=run.sharding)(
            renewed
        )

    def _span(self, compiled: Any, batches: Any, stop: int) -> None:
        run = self.run
        with iterate(batches, self.step, stop, **run._reading()) as iterator:
            self.clock.resume()
            while self.step < stop:
                asked = time.monotonic()
                batch = next(iterator)
                self.waited += time.monotonic() - asked
                run._note_bad(run.data.settings.train_split, batch.pop("bad_examples"))
                placed = sharding.place({key: batch[key] for key in run.batch_keys}, run.mesh)
                self.state, metrics = compiled(self.state, placed)
                self.pending.append(metrics)
                self.step += 1
                self.counted_steps += 1
                if len(self.pending) > STEPS_IN_FLIGHT:
                    jax.block_until_ready(self.pending[-STEPS_IN_FLIGHT - 1])
                self._after_step()
            self.clock.pause()

    def _after_step(self) -> None:
        """What is due at this step: a line, an evaluation, a checkpoint, the end."""
        settings, step = self.run.settings, self.step

        def due(every: int) -> bool:
            return bool(every) and step % every == 0

        last = step == settings.total_steps
        evaluates = due(settings.eval_every_steps) or last
        saves = evaluates or due(settings.checkpoint_every_steps) or self.run.stop.signal is not None
        if saves or due(settings.log_every_steps):
            self._log(show=due(settings.log_every_steps) or last)
        if saves and not self.run.stop.signal:
            self.clock.pause()
            self.save(self._evaluate() if evaluates else None)
            self.clock.resume()
        if self.run.stop.signal:
            raise Interrupted

    def _log(self, *, show: bool) -> None:
        """Checks the pending metrics; where a line is due, averages, prints and writes them."""
        values = jax.device_get(self.pending)
        for step, metrics in enumerate(values, start=self.step - len(values) + 1):
            if not math.isfinite(metrics["loss"]):
                self._stop_at_nonfinite(step)
        if not (show and values):
            return
        means = {name: float(np.mean([metrics[name] for metrics in values])) for name in values[0]}
        means["learning_rate"] = float(self.run.schedule(self.step - 1))
        steps, seconds, waited = (
            now - then
            for now, then in zip(
                (self.counted_steps, self.clock.seconds(), self.waited), self._mark, strict=True
            )
        )
        self._mark = (self.counted_steps, self.clock.seconds(), self.waited)
        speed = steps * self.run.settings.batch_size / max(seconds, 1e-9)
        left = (self.run.settings.total_steps - self.step) * seconds / max(steps, 1)
        epoch = self.step / self.run.task.steps_per_epoch
        if self.run.first_process:
            print(
                progress_line(
                    self.step,
                    self.run.settings.total_steps,
                    epoch,
                    means,
                    examples_per_second=speed,
                    seconds_left=left,
                ),
                flush=True,
            )
        extra = {"epoch": epoch, "examples_per_second": speed, "input_wait": waited / max(seconds, 1e-9)}
        self.writer.write_scalars(self.step, flatten(means | extra, "train"))
        self.pending.clear()

    def _stop_at_nonfinite(self, step: int) -> None:
        leaf = first_nonfinite(self.state)
        where = (
            f"the first leaf of the state that holds one by step {self.step} is {leaf}"
            if leaf
            else "the params are finite"
        )
        raise FloatingPointError(
            f"the loss of step {step} is not finite; {where}. Try a lower optimizer.learning_rate, "
            "optimizer.clip_norm = 1.0 or optimizer.warmup_epochs; the last checkpoint is "
            f"{self.checkpoints.steps()[-1:] or 'none'}"
        )

    def _evaluate(self) -> dict[str, float]:
        self.evaluation = self.run.evaluate(self.state)
        scalars: dict[str, float] = {}
        for name, metrics in self.evaluation.items():
            scalars |= flatten(metrics, name)
        if self.run.first_process:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in scalars.items())
            print(f"evaluation at step {self.step}: {shown}", flush=True)
        self.writer.write_scalars(self.step, scalars)
        best = self.run.settings.best_metric
        if best and best not in scalars:
            raise ValueError(
                f"config.train.best_metric = {best!r} is none of the evaluations' metrics: {', '.join(scalars)}"
            )
        return scalars

    def save(self, metrics: dict[str, float] | None = None, *, wait: bool = False) -> None:
        """Saves the state in the background; `wait` returns only when it is on disk."""
        self.checkpoints.save(self.state, metrics=metrics, order=self.order, wait=wait)

    def finish(self, first_step: int, started: float) -> dict[str, Any]:
        """Writes result.json and returns what it holds."""
        if self.evaluation is None:  # the run had come to its end before, but not to its result
            self.save(self._evaluate())
        seconds = self.clock.seconds()
        result = {
            "metrics": self.evaluation,
            "steps": self.step,
            "resumed_from_step": first_step,
            "examples_per_second": self.counted_steps * self.run.settings.batch_size / seconds
            if seconds
            else None,
            "input_wait": self.waited / seconds if seconds else None,
            "wall_seconds": time.monotonic() - started,
            "bad_examples": len(self.run.bad_examples),
            "config": self.run.config,
            "config_digest": experiment.config_digest(self.run.config),
            "state_digest": state_digest(self.state),
            **environment(),
        }
        self.checkpoints.save(self.state, order=self.order, wait=True)
        if self.run.first_process:
            experiment.write_json(self.run.workdir / "result.json", result)
        return result


def _first_row(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Returns a leaf of batch size 2: initialisation reads shapes alone, and a small batch compiles faster."""
    return jax.ShapeDtypeStruct((2, *leaf.shape[1:]), leaf.dtype)


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.numpy.zeros(leaf.shape, leaf.dtype)


def _claim_workdir(config: Config, workdir: Path) -> None:
    """Writes the configuration into a new workdir; refuses one that another configuration trained in."""
    path = workdir / "config.json"
    if path.exists():
        differing = experiment.differing_fields(experiment.read_json(path), config)
        if differing:
            raise ValueError(
                f"{workdir} belongs to a run of another configuration; choose another --workdir, or give back:\n  "
                + "\n  ".join(differing)
            )
    elif workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir {workdir} is a file")


def _overview(params: Any, compiled: Any, seconds: float) -> str:
    """Returns the parameter table, and what XLA says of the compiled step."""
    try:
        from clu import parameter_overview

        table = parameter_overview.get_parameter_overview(params, include_stats=False)
    except ModuleNotFoundError:
        table = f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters"
    flops = (compiled.cost_analysis() or {}).get("flops", float("nan"))
    memory = compiled.memory_analysis()
    mebibytes = {
        name: getattr(memory, f"{name}_size_in_bytes", 0) / 2**20 for name in ("argument", "output", "temp")
    }
    return (
        f"{table}\nstep: {flops / 1e9:.3f} GFLOP; memory by XLA: {mebibytes['argument']:.1f} MiB arguments, "
        f"{mebibytes['temp']:.1f} MiB temporaries; compiled in {seconds:.1f} s"
    )


def environment() -> dict[str, Any]:
    """Returns versions and devices, for result.json."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "versions": versions,
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
    }


def run(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Trains a configuration in a workdir, from its newest checkpoint where it has one.

    Args:
      config: ConfigDict or dict with the sections of train/experiment.py.
      workdir: a folder.

    Returns:
      What <workdir>/result.json holds.

    Raises:
      ValueError: a mistake in configuration, data or workdir.
      Interrupted, FloatingPointError: see Run.train.
    """
    config, workdir = experiment.plain(config), Path(workdir)
    finished = workdir / "result.json"
    if finished.exists() and not experiment.differing_fields(
        experiment.read_json(workdir / "config.json"), config
    ):
        print(f"{workdir} holds a finished run of this configuration; nothing to do", flush=True)
        result = experiment.read_json(finished)
        print(summary(result, workdir), flush=True)
        return result
    training = Run(config, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if training.first_process:
        experiment.write_json(workdir / "config.json", config)
        experiment.save_task(workdir, training.task, training.class_names, training.source_shape)
    result = training.train()
    if training.first_process:
        print(summary(result, workdir), flush=True)
    return result


def summary(result: dict[str, Any], workdir: Path) -> str:
    """Returns a few lines on a finished run."""
    lines = [
        f"finished: {result['steps']} steps in {result['wall_seconds']:.1f} s"
        + (f", {result['examples_per_second']:,.0f} examples/s" if result["examples_per_second"] else "")
    ]
    for name, metrics in result["metrics"].items():
        scalars = {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
        lines.append(f"{name}: " + "  ".join(f"{key} {value:.5g}" for key, value in scalars.items()))
    if result["bad_examples"]:
        lines.append(f"{result['bad_examples']} images could not be read and were left out")
    return "\n".join(
        [*lines, f"state {result['state_digest'][:16]}", f"all of it: {workdir / 'result.json'}"]
    )
