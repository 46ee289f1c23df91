"""Features of a backbone that is frozen whole: computed once, then read in place of the images."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from imgcls_jax.config.settings import Settings
from imgcls_jax.contracts.backbone import apply_backbone
from imgcls_jax.contracts.objective import Batch, Objective, Task
from imgcls_jax.data.pipeline import EvalBatches, TrainBatches
from imgcls_jax.layers.frozen import Precomputed
from imgcls_jax.train import build, sharding
from imgcls_jax.train.phase import Phase


def with_cached_features(
    phase: Phase, settings: Settings, task: Task, backbone: Any, state: Any, prepared: Batch
) -> Phase:
    """Returns the phase with `features` and the objective that reads them, where that changes no result.

    That is where the backbone is frozen whole, no transform of the phase is random, and the objective does
    nothing with images but hand them to the backbone.

    Args:
      phase: as made.
      settings, task, backbone: of the run.
      state: TrainState of shapes.
      prepared: shapes of a batch as the objective sees it.
    """
    if phase.frozen is None or not all(jax.tree.leaves(phase.frozen["backbone"])):
        return phase
    drawn = phase.data.random_train_operations
    if drawn:
        return dataclasses.replace(phase, why_not_cached=f"{', '.join(drawn)} of train_transforms draws anew")
    if phase.objective.reads_pixels or {"views", "labeled"} & set(phase.objective.batch_keys):
        return dataclasses.replace(phase, why_not_cached="the objective reads the images themselves")
    if phase.data.settings.augmentation_repeats > 1:
        return dataclasses.replace(phase, why_not_cached="data.augmentation_repeats orders the images")
    if settings.train.replicas:
        return dataclasses.replace(phase, why_not_cached="on other devices they round otherwise")
    if phase.data.settings.on_bad_example != "raise":
        return dataclasses.replace(phase, why_not_cached="data.on_bad_example is not 'raise'")
    precomputed = Precomputed(backbone)
    objective = build.make_objective(settings.objective, task, precomputed)
    compute = functools.partial(_compute, backbone)
    features = jax.eval_shape(compute, state.params, state.objective_state, prepared)
    batch = {key: prepared[key] for key in objective.batch_keys} | {"image": features}
    features = _read_leaves(objective, state, batch)
    rows = jax.tree.leaves(features)[0].shape[0]
    size = (
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(features)) / rows * task.num_examples
    )
    if size > settings.train.feature_cache_gib * 2**30:
        return dataclasses.replace(
            phase,
            why_not_cached=f"they would take {size / 2**30:.1f} GiB, more than train.feature_cache_gib",
        )
    return dataclasses.replace(phase, objective=objective, features=features)


def _compute(backbone: Any, params: Any, objective_state: Any, batch: Batch) -> Any:
    """Returns the backbone's Features of a batch's images, in evaluation mode."""
    stats = objective_state.get("batch_stats", {})
    return apply_backbone(backbone, params["backbone"], stats, batch["image"], train=False)[0]


def _read_leaves(objective: Objective, state: Any, batch: Batch) -> Any:
    """Returns batch["image"], Features of shapes, with None for what the loss never reads."""
    inputs = (state.params, state.objective_state, batch, state.rng, state.step)
    jaxpr = jax.make_jaxpr(objective.loss)(*inputs).jaxpr
    read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
    is_read = jax.tree.unflatten(jax.tree.structure(inputs), [id(v) in read for v in jaxpr.invars])
    return jax.tree.map(lambda leaf, used: leaf if used else None, batch["image"], is_read[2]["image"])


def _only(wanted: Any, features: Any) -> Any:
    """Returns features with None where `wanted`, of the same form, has None."""
    return jax.tree.map(
        lambda keep, leaf: None if keep is None else leaf, wanted, features, is_leaf=lambda leaf: leaf is None
    )


class CachedFeatures:
    """The features of all that is trained on, as a source for the input pipeline.

    Args:
      features: Features of arrays [N, ...].
      columns: what else a batch has of each example, [N, ...], "label" among them.
      groups: as of TrainBatches.
      shard: (process index, number of processes).
    """

    def __init__(
        self,
        features: Any,
        columns: Mapping[str, np.ndarray],
        groups: tuple[np.ndarray, int] | None = None,
        shard: tuple[int, int] = (0, 1),
    ):
        self.features, self.columns, self.groups, self.shard = features, columns, groups, shard
        self.labels = columns["label"]
        self.class_names: tuple[str, ...] = ()  # no message names a class

    def train_batches(self, batch_size: int, seed: int, order: Any = None) -> TrainBatches:
        """Returns the batches to train on."""
        return TrainBatches(
            self,
            (),
            batch_size=batch_size,
            seed=seed,
            groups=self.groups,
            order=order,
            shard=self.shard,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.gather(index)

    def describe(self, index: int) -> str:
        return f"the cached features of example {index}"

    def gather(self, indices: Any) -> dict[str, Any]:
        """Returns {"image": Features of arrays [B, ...], "label": int32 [B], and the other columns}."""
        return jax.tree.map(lambda leaf: leaf[indices], {"image": self.features, **self.columns})


def cache_features(
    phase: Phase,
    backbone: Any,
    state: Any,
    read: Callable[[EvalBatches, Any, str], Iterable[Batch]],
    *,
    batch_size: int,
) -> CachedFeatures | None:
    """Computes the features of all that is trained on, by the phase's transforms; None where they are not
    cached.

    Args:
      phase: of with_cached_features.
      backbone: of the run.
      state: TrainState, whose params and statistics the backbone takes.
      read: (batches, source, what is done) -> the batches on the devices, as Splits.read.
      batch_size: examples at a time.
    """
    told = jax.process_index() == 0
    if phase.features is None:
        if phase.why_not_cached and told:
            print(f"features of the frozen backbone are not cached: {phase.why_not_cached}", flush=True)
        return None

    def compute(params: Any, objective_state: Any, batch: Batch) -> Any:
        prepared = phase.data.augment(jax.random.key(0), batch)  # draws nothing
        features = _only(phase.features, _compute(backbone, params, objective_state, prepared))
        return features, {key: batch[key] for key in kept}

    kept = {"label", *phase.objective.batch_keys} - {"image", "index"}
    started = time.monotonic()
    computed = jax.jit(compute, out_shardings=sharding.replicated(sharding.data_mesh()))
    source = phase.data.training
    rows = [
        jax.device_get(computed(state.params, state.objective_state, batch))
        for batch in read(
            phase.data.training_in_order(batch_size, train_line=True), source, "caching features"
        )
    ]
    features, columns = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(source)], *rows)
    if told:
        shapes = ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(features))
        seconds = time.monotonic() - started
        print(f"features of the frozen backbone computed once: {shapes} in {seconds:.1f} s", flush=True)
    return CachedFeatures(features, columns, phase.data.groups(), phase.data.shard)
