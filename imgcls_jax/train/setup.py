"""What a run needs and no step changes, built from its configuration: data, task, objective, optimizer."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.config import compare
from imgcls_jax.config.field_types import require_at_least
from imgcls_jax.config.modules import find_module
from imgcls_jax.config.resolve import Configuration
from imgcls_jax.contracts.objective import Task
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.data.pipeline import TrainBatches
from imgcls_jax.train import build, contract, evaluation, nonfinite, sharding
from imgcls_jax.train.checkpoint import Checkpoints, differing_leaves
from imgcls_jax.train.features import with_cached_features
from imgcls_jax.train.phase import Phase, make_phases
from imgcls_jax.train.state import TrainState
from imgcls_jax.train.step import make_init, make_train_step
from imgcls_jax.weights import pretrained

# Schedules whose first steps are the same in a longer run.
FREE_OF_LENGTH = ("constant", "step")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


class Setup:
    """A configuration made concrete on the devices at hand.

    Args:
      configuration: of the run.
      data: instead of the configuration's own data side; tools/plan.py needs no data.

    Raises:
      ValueError: a mistake in the configuration or the data.
    """

    def __init__(self, configuration: Configuration, data: DataSide | None = None):
        self.configuration = configuration
        self.mesh = sharding.data_mesh()
        self.sharding = sharding.replicated(self.mesh)
        self.first_process = jax.process_index() == 0
        self.data = data or DataSide(configuration.data, (jax.process_index(), jax.process_count()))
        self.batches = self._read_batches()
        self.resolved = configuration.in_steps(self.batches.steps_per_epoch)
        self.settings = configuration.settings(self.batches.steps_per_epoch)
        self._check_sizes()
        self._build()

    def _read_batches(self) -> TrainBatches:
        batch_size = self.configuration.batch_size
        require_at_least("train", self.configuration, batch_size=1, seed=0)
        sharding.check_batch_size(batch_size, self.mesh)
        return self.data.train_batches(batch_size, self.configuration.seed)

    def _check_sizes(self) -> None:
        """Raises ValueError where a batch does not divide among devices and microbatches."""
        train, devices = self.settings.train, self.mesh.size
        sharding.check_batch_size(train.evaluated_at_once, self.mesh, "train.eval_batch_size")
        labeled = self.data.settings.labeled_batch_size
        for field, size in (("train.batch_size", train.batch_size), ("data.labeled_batch_size", labeled)):
            if size % (train.num_microbatches * devices):
                raise ValueError(
                    f"{field} = {size} does not divide into train.num_microbatches = "
                    f"{train.num_microbatches} parts on {devices} devices"
                )

    def _build(self) -> None:
        """Builds task, objective and phases; traces shapes only."""
        source = self.data.training
        sample = self.batches[0]
        spec = {key: _shapes(value) for key, value in sample.items() if key != "bad_examples"}
        self.class_names, self.source_shape = tuple(source.class_names), tuple(sample["image"].shape[1:])
        prepared = jax.eval_shape(self.data.augment, _shapes(jax.random.key(0)), spec)
        self.task = Task(
            num_classes=len(source.class_names),
            num_examples=len(source),
            steps_per_epoch=self.batches.steps_per_epoch,
            total_steps=sum(phase.total_steps for phase in self.settings.phases),
            image_shape=tuple(prepared["image"].shape[1:]),
            class_counts=self.data.class_counts,
            axis_name=sharding.AXIS if self.settings.train.parallel == "per_replica" else None,
        )
        backbone = self.backbone = build.make_backbone(self.settings.model)
        self.objective = build.make_objective(self.settings.objective, self.task, backbone)
        if "label" in self.objective.batch_keys and self.objective.multi_label != (sample["label"].ndim == 2):
            raise ValueError(
                f"config.data.source = {self.data.settings.source!r} gives an image "
                f"{'any number of labels' if sample['label'].ndim == 2 else 'one label'}, and "
                f"config.objective.name = {self.settings.objective.name!r} learns "
                f"{'any number of them' if self.objective.multi_label else 'one'}: change either"
            )
        self.spec = {key: spec[key] for key in self.data.placed(self.objective.batch_keys)}
        prepared = {key: prepared[key] for key in self.objective.batch_keys}
        # A batch of two is enough to initialise from, and compiles faster.
        small = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape[1:]), leaf.dtype), prepared)
        params, objective_state = contract.trace_init(self.objective, backbone, small)
        contract.check_training(
            self.objective, backbone, params, objective_state, prepared, self.task.axis_name
        )
        phases = make_phases(self.settings, self.data, self.task, backbone, params)
        init = make_init(self.objective, phases[0].tx, small)
        opt_state, rng = jax.eval_shape(phases[0].tx.init, params), jax.eval_shape(lambda: jax.random.key(0))
        self._state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, objective_state, opt_state, rng)
        self.init = jax.jit(init, out_shardings=self.shardings(self._state))
        self.phases = [
            with_cached_features(phase, self.settings, self.task, backbone, self._state, small)
            for phase in phases
        ]
        outputs = self._check_prediction(params, objective_state)
        self.evaluated_sizes = self._check_evaluations(outputs)

    def phase_of(self, step: int) -> Phase:
        """Returns the phase whose optimizer made the state of a step: the one of the step before it."""
        return next(phase for phase in self.phases if step <= phase.stop)

    def shardings(self, state: TrainState) -> TrainState:
        """Returns the sharding of each leaf of a state, by train.parallel."""
        return sharding.of_state(state, self.mesh, split=self.settings.train.parallel == "sharded")

    def copy(self, state: TrainState) -> TrainState:
        """Returns a state of buffers of its own, placed by train.parallel."""
        return sharding.copy(state, self.shardings(state))

    def _gathered(self, tree: Any) -> Any:
        """Asks for a traced tree whole on every device; otherwise XLA would carry the pieces of the params on
        into the activations, which are to lie as the batch does."""
        return jax.lax.with_sharding_constraint(tree, self.sharding)

    def target(self, step: int) -> TrainState:
        """Returns the state of a step, in shapes with shardings."""
        opt_state = jax.eval_shape(self.phase_of(step).tx.init, self._state.params)
        state = self._state._replace(opt_state=opt_state)
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            state,
            self.shardings(state),
        )

    def _check_prediction(self, params: Any, objective_state: Any) -> dict[str, Any]:
        """Traces the evaluation line and the prediction, so that images it cannot take are found now.

        Returns:
          What is predicted, in shapes.
        """
        split, rows = self.data.settings.train_split, jax.process_count()
        batch = self.data.eval_batches(split, rows, self.class_names)[0]
        shapes = {key: _shapes(value) for key, value in batch.items() if key != "bad_examples"}
        prepared = jax.eval_shape(self.data.prepare, shapes)
        try:
            return contract.trace_predict(self.objective, params, objective_state, prepared)
        except ValueError as error:
            shape = prepared["image"].shape[1:]
            if shape == self.task.image_shape:
                raise
            raise ValueError(
                f"config.data.eval_transforms makes images of shape {shape}, training sees "
                f"{self.task.image_shape}, and the network cannot take both: {error}"
            ) from error

    def _check_evaluations(self, outputs: dict[str, Any]) -> dict[str, int]:
        """Makes the evaluators and opens what they read, so that a mistake there is found now.

        Args:
          outputs: of the prediction.

        Returns:
          The number of examples of each split.
        """
        build.make_evaluators(self.settings.evals, self.predict, None, self.task)
        evaluation.check_evaluators(self.settings, self.objective, outputs)
        sizes = {}
        for field, split in build.evaluated_splits(self.settings.evals):
            try:
                batches = self.data.eval_batches(
                    split, self.settings.train.evaluated_at_once, self.class_names
                )
            except (OSError, ValueError) as error:
                raise ValueError(f"config.{field} = {split!r}: {error}") from error
            sizes[split] = len(batches.source)
        return sizes

    def facts(self) -> dict[str, Any]:
        """Returns what every process of a run must see alike."""
        found = environment()["versions"]
        versions = {name: found.get(name, "absent") for name in ("jax", "jaxlib", "flax", "optax")}
        return {
            **{f"config.{name}": value for name, value in compare.binding_fields(self.resolved).items()},
            "examples to train on": self.task.num_examples,
            **{f"examples of the split {name!r}": size for name, size in self.evaluated_sizes.items()},
            "class names": self.class_names,
            "class counts": self.task.class_counts,
            **{f"version of {name}": version for name, version in versions.items()},
        }

    def require_growth(self, steps: int) -> None:
        """Raises ValueError where the run is not the longer form of one that was to take `steps` steps."""
        schedule, objective = self.settings.phases[-1].optimizer.schedule, self.settings.objective.name
        reason = ""
        if schedule not in FREE_OF_LENGTH:
            reason = f"optimizer.schedule = {schedule!r} spreads over all of the run"
        elif self.objective.plan_epoch is not None or self._objective_reads_length():
            reason = f"the objective {objective!r} reads the length of the run"
        if reason:
            raise ValueError(
                f"the workdir's run has {steps} steps and cannot become one of {self.task.total_steps}: "
                f"{reason}, so what was trained is not its beginning. Choose another --workdir"
            )

    def _objective_reads_length(self) -> bool:
        """Whether the objective cannot be made without knowing the length of the run."""
        task = dataclasses.replace(self.task, total_steps=None)
        try:
            build.make_objective(self.settings.objective, task, self.backbone)
        except TypeError:
            return True
        return False

    def initial_state(self) -> TrainState:
        """Returns the state of step 0, with the weights that config.model.pretrained names.

        That is a file of weights (weights/pretrained.py), or the workdir of another run, whose backbone is
        taken.

        Raises:
          ValueError: the weights do not fit.
        """
        model = self.settings.model
        state, path = self.init(jax.random.key(self.settings.train.seed)), model.pretrained
        if not path:
            return state
        target = {"params": state.params, "batch_stats": state.objective_state.get("batch_stats", {})}
        if Path(path).is_dir():
            params, batch_stats, report = _from_workdir(Path(path), target, self.sharding)
        else:
            family = find_module("models", model.name)
            params, batch_stats, report = pretrained.load(path, family, model.variant, target)
        if self.first_process:
            print(f"pretrained weights from {path}: {report}", flush=True)
        params = state.params | params
        objective_state = {"batch_stats": batch_stats} if "batch_stats" in state.objective_state else {}
        objective_state |= {"ema": params} if "ema" in state.objective_state else {}
        loaded = state._replace(
            params=params,
            objective_state=state.objective_state | objective_state,
            opt_state=self.phases[0].tx.init(params),
        )
        return self.copy(loaded)

    def step_and_inputs(self, phase: Phase) -> tuple[Any, TrainState, Any]:
        """Returns a phase's step under jit, and the state and the batch that it takes, in shapes with
        shardings."""
        split = sharding.split_batch(self.mesh)

        def of_all_processes(leaf: Any, rows: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype, sharding=split)

        processes = jax.process_count()
        sample = jax.tree.map(lambda leaf: of_all_processes(leaf, leaf.shape[0] * processes), self.spec)
        if phase.features is not None:
            sample["image"] = jax.tree.map(
                lambda leaf: of_all_processes(leaf, self.settings.train.batch_size), phase.features
            )
        objective = phase.objective
        if self.settings.train.parallel == "sharded":
            loss = objective.loss
            objective = dataclasses.replace(
                objective, loss=lambda params, *inputs: loss(self._gathered(params), *inputs)
            )
        step = make_train_step(
            objective,
            phase.tx,
            phase.augment,
            num_microbatches=self.settings.train.num_microbatches,
            frozen=phase.frozen,
            axis_name=self.task.axis_name,
        )
        if self.task.axis_name is not None:
            step = sharding.per_replica(step, self.mesh)
        step = nonfinite.watch(step, self.settings.train.on_nonfinite)
        state = self.target(phase.stop)
        shardings = (self.shardings(state), self.sharding)
        return jax.jit(step, donate_argnums=0, out_shardings=shardings), state, sample

    def compile_step(self, phase: Phase) -> Any:
        """Compiles a phase's step; prints the parameter table, and FLOPs and memory by XLA's own analysis."""
        step, state, batch = self.step_and_inputs(phase)
        start = time.monotonic()
        compiled = step.lower(state, batch).compile()
        if self.first_process:
            print(_overview(state.params, compiled, time.monotonic() - start), flush=True)
        return compiled

    def predict(self, params: Any, objective_state: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Predicts a batch as a split is read: the device side of the evaluation line, then the objective."""
        params, objective_state = self._gathered((params, objective_state))
        return self.objective.predict(params, objective_state, self.data.prepare(batch))


def _from_workdir(
    workdir: Path, target: dict[str, Any], where: jax.sharding.Sharding
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Returns params {"backbone"}, batch_stats and a report of a trained workdir's latest checkpoint."""
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step, params, objective_state = checkpoints.restore_for_prediction("latest", where)
    backbone = objective_state.get("ema", params)["backbone"]
    differing = differing_leaves(
        {"backbone": backbone, "batch_stats": objective_state.get("batch_stats", {})},
        {"backbone": target["params"]["backbone"], "batch_stats": target["batch_stats"]},
    )
    if differing:
        raise ValueError(
            f"config.model.pretrained: {workdir} holds another backbone: {'; '.join(differing[:3])}"
        )
    return {"backbone": backbone}, objective_state.get("batch_stats", {}), f"backbone of step {step}"


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _overview(params: Any, compiled: Any, seconds: float) -> str:
    """Returns the parameter table, and what XLA says of the compiled step."""
    try:
        from clu import parameter_overview

        table = parameter_overview.get_parameter_overview(params, include_stats=False)
    except ModuleNotFoundError:
        table = f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters"
    flops = (compiled.cost_analysis() or {}).get("flops", float("nan"))
    memory = compiled.memory_analysis()
    mebibytes = {name: getattr(memory, f"{name}_size_in_bytes", 0) / 2**20 for name in ("argument", "temp")}
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
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "processes": jax.process_count(),
        },
    }
