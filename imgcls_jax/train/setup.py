"""What a run needs and no step changes, built from its configuration: data, task, objective, optimizer."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from imgcls_jax.config import compare
from imgcls_jax.config.configuration import Configuration
from imgcls_jax.config.field_types import require_at_least
from imgcls_jax.contracts.evaluator import SplitFacts
from imgcls_jax.contracts.objective import Task
from imgcls_jax.data.contents import Contents, files
from imgcls_jax.data.datasets import IMAGES, DataSide
from imgcls_jax.data.pipeline import TrainBatches
from imgcls_jax.data.source import class_counts
from imgcls_jax.runtime.environment import environment
from imgcls_jax.train import build, contract, evaluation, replicas, sharding
from imgcls_jax.train.features import with_cached_features
from imgcls_jax.train.phase import Phase, make_phases
from imgcls_jax.train.state import TrainState
from imgcls_jax.train.step import make_init
from imgcls_jax.train.teacher import Seen, TeacherNetwork, levels, open_teacher


class Setup:
    """A configuration made concrete on the devices at hand.

    Args:
      configuration: of the run.
      data: instead of the configuration's own data side; tools/plan.py needs no data.
      mesh: of the devices to build the step for; None for those at hand.

    Raises:
      ValueError: a mistake in the configuration or the data.
    """

    def __init__(self, configuration: Configuration, data: DataSide | None = None, mesh: Mesh | None = None):
        self.configuration = configuration
        self.mesh = mesh or sharding.data_mesh()
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
        """Raises ValueError where a batch does not divide among devices, or replicas, and microbatches."""
        train, devices = self.settings.train, self.mesh.size
        if train.replicas % devices:
            raise ValueError(
                f"config.train.replicas = {train.replicas} cannot be shared out evenly over {devices} "
                "devices: use 1, 2, 4, ... devices, at most one a replica"
            )
        shares = train.replicas or devices
        self.evaluated_at_once = sharding.rounded_up(train.evaluated_at_once, self.mesh)
        labeled = self.data.settings.labeled_batch_size
        for field, size in (("train.batch_size", train.batch_size), ("data.labeled_batch_size", labeled)):
            if size % (train.num_microbatches * shares):
                each = f"each of {shares} replicas" if train.replicas else f"{devices} devices"
                raise ValueError(
                    f"{field} = {size} does not divide into train.num_microbatches = "
                    f"{train.num_microbatches} parts on {each}"
                )

    def _build(self) -> None:
        """Builds task, objective and phases; traces shapes only."""
        source = self.data.training
        sample = self.batches[0]
        spec = {key: _shapes(value) for key, value in sample.items() if key != "bad_examples"}
        self._multi_label = sample["label"].ndim == 2
        self.class_names, self.source_shape = tuple(source.class_names), tuple(sample["image"].shape[1:])
        prepared = jax.eval_shape(self.data.augment, _shapes(jax.random.key(0)), spec)
        self.task = Task(
            num_classes=len(source.class_names),
            num_examples=len(source),
            steps_per_epoch=self.batches.steps_per_epoch,
            total_steps=sum(phase.total_steps for phase in self.settings.phases),
            image_shape=tuple(prepared["image"].shape[1:]),
            class_counts=self.data.class_counts,
            signatures=self._signatures(),
            axis_name=sharding.AXIS if self.settings.train.parallel == "per_replica" else None,
        )
        backbone = self.backbone = build.make_backbone(self.settings.model)
        self.objective = build.make_objective(self.settings.objective, self.task, backbone)
        if "label" in self.objective.batch_keys and self.objective.multi_label != self._multi_label:
            raise ValueError(
                f"config.data.source = {self.data.settings.source!r} gives an image "
                f"{'any number of labels' if self._multi_label else 'one label'}, and "
                f"config.objective.name = {self.settings.objective.name!r} learns "
                f"{'any number of them' if self.objective.multi_label else 'one'}: change either"
            )
        placed = self.data.placed([key for key in self.objective.batch_keys if key != sharding.TEACHER])
        lacking = [key for key in placed if key not in spec]
        if lacking:
            raise ValueError(
                f"config.objective.name = {self.settings.objective.name!r} reads {', '.join(lacking)} of "
                f"each example, which config.data.source = {self.data.settings.source!r} does not give as it "
                f"is set: it gives {', '.join(spec)}"
            )
        self.spec = {key: spec[key] for key in placed}
        self._index = spec["index"]
        self.teacher = self._teacher()
        if self.teacher is not None:
            rows = (*prepared["image"].shape[:1], self.task.num_classes)
            prepared |= {sharding.TEACHER: jax.ShapeDtypeStruct(rows, jnp.float32)}
        prepared = {key: prepared[key] for key in self.objective.batch_keys}
        # A batch of two is enough to initialise from, and compiles faster.
        small = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape[1:]), leaf.dtype), prepared)
        params, objective_state = contract.trace_init(self.objective, backbone, small)
        contract.check_training(
            self.objective, backbone, params, objective_state, prepared, self.task.axis_name
        )
        phases = make_phases(self.settings, self.data, self.task, backbone, params, self.teacher)
        if self.settings.train.replicas:
            replicas.check(self.objective, phases, params, objective_state, prepared)
        self.draw = make_init(self.objective, phases[0].tx, small)
        opt_state, rng = jax.eval_shape(phases[0].tx.init, params), jax.eval_shape(lambda: jax.random.key(0))
        step: Any = jax.ShapeDtypeStruct((), jnp.int32)  # in place of the array
        self._state = TrainState(step, params, objective_state, opt_state, rng)
        # It runs once, so it is worth less of LLVM's time; the values keep their bits.
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        options = {"xla_backend_optimization_level": 1} if on_cpu else None
        self.init = jax.jit(self.draw, out_shardings=self.shardings(self._state), compiler_options=options)
        self.phases = [
            with_cached_features(phase, self.settings, self.task, backbone, self._state, small)
            for phase in phases
        ]
        outputs = self._check_prediction(params, objective_state)
        self.evaluated_sizes = self._check_evaluations(outputs)

    def _signatures(self) -> tuple[tuple[float, ...], ...]:
        """Returns the classes' signatures; () where there are none."""
        found = self.data.signatures
        return () if found is None else tuple(map(tuple, found.tolist()))

    def _teacher(self) -> TeacherNetwork | None:
        """Returns the trained network that the objective learns from, its variables not read yet."""
        if self.objective.teacher is None:
            return None
        seen = Seen(
            self.class_names,
            self.task.image_shape,
            levels(self.data.settings.eval_transforms, self.source_shape),
        )
        return open_teacher(self.objective.teacher, seen, sharding.replicated(sharding.data_mesh()))

    def rows_of(self, phase: Phase) -> dict[str, Any]:
        """Returns the rows of a batch that this process puts on its devices in a phase, in shapes."""
        if not self._keeps_images(phase):
            return self.spec
        rows = {key: value for key, value in self.spec.items() if key != "image"} | {"index": self._index}
        if "labeled" in rows:
            labeled = {key: value for key, value in rows["labeled"].items() if key != "image"}
            rows["labeled"] = labeled
        return rows

    def beside_rows(self, phase: Phase) -> dict[str, Any]:
        """Returns what the step's batch has beside its rows: the variables of a teacher, all images."""
        beside = {} if self.teacher is None else {sharding.TEACHER: self.teacher.variables}
        return beside | ({IMAGES: self._images} if self._keeps_images(phase) else {})

    def shapes_beside_rows(self, phase: Phase) -> dict[str, Any]:
        """Returns the same in shapes; no image is read."""
        beside = {} if self.teacher is None else {sharding.TEACHER: _shapes(self.teacher.variables)}
        return beside | ({IMAGES: self._shape_of_images} if self._keeps_images(phase) else {})

    def _keeps_images(self, phase: Phase) -> bool:
        return self.data.settings.on_device and phase.features is None

    @functools.cached_property
    def _images(self) -> jax.Array:
        """All training images on every device; data.on_device."""
        return jax.device_put(self.data.train_images(), sharding.replicated(sharding.data_mesh()))

    @property
    def _shape_of_images(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.task.num_examples, *self.source_shape), jnp.uint8)

    def phase_of(self, step: int) -> Phase:
        """Returns the phase whose optimizer made the state of a step: the one of the step before it."""
        return next(phase for phase in self.phases if step <= phase.stop)

    def shardings(self, state: TrainState) -> TrainState:
        """Returns the sharding of each leaf of a state, by train.parallel."""
        return sharding.of_state(state, self.mesh, split=self.settings.train.parallel == "sharded")

    def copy(self, state: TrainState) -> TrainState:
        """Returns a state of buffers of its own, placed by train.parallel."""
        return sharding.copy(state, self.shardings(state))

    def gathered(self, tree: Any) -> Any:
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
        facts = {}
        for field, split in build.evaluated_splits(self.settings.evals):
            try:
                batches = self.data.eval_batches(split, self.evaluated_at_once, self.class_names)
            except (OSError, ValueError) as error:
                raise ValueError(f"config.{field} = {split!r}: {error}") from error
            source = batches.source
            several = self._multi_label if source.labels is None else source.labels.ndim == 2
            counts = () if several else class_counts(source)
            names, own_files = tuple(source.class_names), functools.partial(files, self.data.source(split))
            facts[split] = SplitFacts(split, len(source), names, counts, several, own_files)
        evaluation.check_data(self.settings.evals, facts, self.task)
        return {split: own.num_examples for split, own in facts.items()}

    @functools.cached_property
    def contents(self) -> dict[str, Contents]:
        """What each split of the run holds."""
        return self.data.contents([self.data.settings.train_split, *self.evaluated_sizes])

    def describe_data(self) -> tuple[list[str], list[str]]:
        """Returns what to say of the data at the start of a run: (lines, warnings)."""
        lines = [self.data.rule(split) for split in self.contents]
        lines[1:1] = filter(None, [self.data.training_rule()])
        warnings = [self.data.normalization_warning(self.source_shape[-1])]
        for split in self.evaluated_sizes:
            shared = self.data.shared_with_training(split)
            if shared:
                warnings.append(
                    f"{shared} of {self.evaluated_sizes[split]} images of the split {split!r} are trained "
                    "on, too: what is measured on them tells nothing of others"
                )
        return lines, [warning for warning in warnings if warning]

    def facts(self) -> dict[str, Any]:
        """Returns what every process of a run must see alike."""
        found = environment()["versions"]
        versions = {name: found.get(name, "absent") for name in ("jax", "jaxlib", "flax", "optax")}
        return {
            "examples to train on": self.task.num_examples,
            **{f"examples of the split {name!r}": size for name, size in self.evaluated_sizes.items()},
            **{f"digest of the split {name!r}": own.digest for name, own in self.contents.items()},
            "class names": self.class_names,
            "class counts": self.task.class_counts,
            "digest of the signatures": hashlib.sha256(repr(self.task.signatures).encode()).hexdigest(),
            **({} if self.teacher is None else {"digest of the teacher": self.teacher.digest}),
            **{f"config.{name}": value for name, value in compare.binding_fields(self.resolved).items()},
            **{f"version of {name}": version for name, version in versions.items()},
        }

    def predict(self, params: Any, objective_state: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Predicts a batch as a split is read: the device side of the evaluation line, then the objective."""
        params, objective_state = self.gathered((params, objective_state))
        return self.objective.predict(params, objective_state, self.data.prepare(batch))


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
