"""The phases of a run: spans of steps, each with its own optimizer, frozen params and transforms.

Most runs have one. Transfer learning has two or more: the head alone on a frozen trunk, then all of it. The
section `phases` of a configuration holds one section a phase, run in the order of their names: how long
(total_epochs, _steps or _examples), and the fields of `optimizer`, and train_transforms, that differ in it. A
phase starts with a fresh optimizer, whose schedule counts from the phase's first step.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax

from imgcls_jax.config.settings import Settings
from imgcls_jax.contracts.objective import Batch, Objective, Task
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.layers.frozen import Frozen
from imgcls_jax.train import build
from imgcls_jax.train.optimizer import frozen_params, make_optimizer
from imgcls_jax.train.schedule import Schedule, make_schedule
from imgcls_jax.train.sharding import TEACHER
from imgcls_jax.train.teacher import TeacherNetwork


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
      sam_radius: of `make_train_step`.
      features: shapes of what a backbone frozen whole returns for one batch, None where a loss does not read
        it; None where features are not cached.
      teacher: the frozen network whose logits a batch gets; None for none.
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
    sam_radius: float = 0.0
    features: Any = None
    teacher: TeacherNetwork | None = None
    why_not_cached: str = ""

    def augment(self, rng: jax.Array, batch: Batch) -> Batch:
        """The device side of the phase's input; cached features come as they are."""
        if self.features is not None:
            return batch
        if self.teacher is None:
            return self.data.augment(rng, batch)
        rows = {key: value for key, value in batch.items() if key != TEACHER}
        augmented = self.data.augment(rng, rows)
        return augmented | {TEACHER: self.teacher.logits(batch[TEACHER], augmented["image"])}


def make_phases(
    settings: Settings,
    data: DataSide,
    task: Task,
    backbone: Any,
    params: Any,
    teacher: TeacherNetwork | None = None,
) -> list[Phase]:
    """Builds the phases of a run, one that lasts for all of it where the configuration has none.

    Args:
      settings, data, task, backbone, teacher: of the run.
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
                sam_radius=own.optimizer.sam_radius,
                teacher=teacher,
            )
        )
    return phases
