"""The phases of a run: spans of steps, each with its own optimizer, frozen params and transforms.

Most runs have one. Transfer learning has two or more: the head alone on a frozen trunk, then all of it. The
section `phases` of a configuration holds one section a phase, run in the order of their names: how long
(total_epochs, _steps or _examples), and the fields of `optimizer`, and train_transforms, that differ in it. A
phase starts with a fresh optimizer, whose schedule counts from the phase's first step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from imgcls_jax.config.settings import Settings
from imgcls_jax.contracts.objective import Batch, Objective, Task, apply_backbone
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.layers.frozen import Frozen, Precomputed
from imgcls_jax.train import build
from imgcls_jax.train.optimizer import Schedule, frozen_params, make_optimizer, make_schedule


@dataclasses.dataclass(frozen=True)
class Phase:
    """One span of steps.

    Attributes:
      name: of its section.
      start, stop: its steps, from start up to stop - 1.
      data: the data side, with the phase's transforms.
      objective: its backbone holds what is frozen.
      schedule: learning rate, of steps since start.
      tx: the optimizer.
      frozen: bool for every leaf of params; None where nothing is.
      features: shapes of what a backbone frozen whole returns for one batch, None where a loss does not read
        it; None where features are not cached.
      why_not_cached: for the log, where the backbone is frozen whole and its features are not cached.
    """

    name: str
    start: int
    stop: int
    data: DataSide
    objective: Objective
    schedule: Schedule
    tx: optax.GradientTransformation
    frozen: Any = None
    features: Any = None
    why_not_cached: str = ""

    def augment(self, rng: jax.Array, batch: Batch) -> Batch:
        """The device side of the phase's input; cached features come as they are."""
        return batch if self.features is not None else self.data.augment(rng, batch)


def make_phases(settings: Settings, data: DataSide, task: Task, backbone: Any, params: Any) -> list[Phase]:
    """Builds the phases of a run, one that lasts for all of it where the configuration has none.

    Args:
      settings, data, task, backbone: of the run.
      params: shapes.

    Raises:
      ValueError: a mistake in the sections phases or optimizer.
    """
    phases: list[Phase] = []
    for own in settings.phases:
        start = phases[-1].stop if phases else 0
        schedule = make_schedule(own.optimizer, own.total_steps)
        frozen = frozen_params(params, own.optimizer.groups)
        held = (
            backbone if not any(jax.tree.leaves(frozen["backbone"])) else Frozen(backbone, frozen["backbone"])
        )
        same = own.train_transforms == settings.data.train_transforms
        phases.append(
            Phase(
                name=own.name,
                start=start,
                stop=start + own.total_steps,
                data=data if same else data.with_train_transforms(own.section, own.train_transforms),
                objective=build.make_objective(settings.objective, task, held),
                schedule=schedule,
                tx=make_optimizer(own.optimizer, schedule, params),
                frozen=frozen if any(jax.tree.leaves(frozen)) else None,
            )
        )
    return phases


# ---- features computed once


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
    if phase.data.settings.on_bad_example != "raise":
        return dataclasses.replace(phase, why_not_cached="data.on_bad_example is not 'raise'")
    precomputed = Precomputed(backbone)
    objective = build.make_objective(settings.objective, task, precomputed)
    compute = functools.partial(compute_features, backbone)
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


def compute_features(backbone: Any, params: Any, objective_state: Any, batch: Batch) -> Any:
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


def only(wanted: Any, features: Any) -> Any:
    """Returns features with None where `wanted`, of the same form, has None."""
    return jax.tree.map(
        lambda keep, leaf: None if keep is None else leaf, wanted, features, is_leaf=lambda leaf: leaf is None
    )


class CachedFeatures:
    """The features of all that is trained on, as a source for the input pipeline.

    Args:
      features: Features of arrays [N, ...].
      labels: int32 [N].
    """

    def __init__(self, features: Any, labels: np.ndarray):
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Returns {"image": Features of arrays [B, ...], "label": int32 [B]}."""
        return {
            "image": jax.tree.map(lambda leaf: leaf[indices], self.features),
            "label": self.labels[indices],
        }
