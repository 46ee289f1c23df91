"""The phases of a run: spans of steps, each with its own optimizer, frozen params and transforms.

Most runs have one. Transfer learning has two or more: the head alone on a frozen trunk, then all of it. The
section `phases` of a configuration holds one section a phase, run in the order of their names: how long
(total_epochs, _steps or _examples), and the fields of `optimizer`, and train_transforms, that differ in it. A
phase starts with a fresh optimizer, whose schedule counts from the phase's first step.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax
import optax

from imgcls_jax.contracts.objective import Batch, Objective, Task
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.layers.frozen import Frozen
from imgcls_jax.train import experiment
from imgcls_jax.train.experiment import Config
from imgcls_jax.train.optimizer import Schedule, frozen_params, make_optimizer, make_schedule

MAIN = "main"  # the one phase of a run without the section


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


def read_spans(
    config: Config, steps_per_epoch: int, batch_size: int
) -> list[tuple[str, int, dict[str, Any]]]:
    """Returns (name, steps, other fields with durations in steps) of each section of `phases`.

    Raises:
      ValueError: a phase without its length, or the length of the run given besides.
    """
    sections = config.get("phases") or {}
    spans = []
    for name in sorted(sections):
        fields = experiment.in_steps(sections[name], f"phases.{name}", steps_per_epoch, batch_size)
        steps = fields.pop("total_steps", 0)
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(
                f"config.phases.{name} needs its length, at least one step: total_epochs, total_steps or "
                "total_examples"
            )
        spans.append((name, steps, fields))
    given = [field for field in config["train"] if field.startswith("total_") and config["train"][field]]
    if spans and given:
        raise ValueError(
            f"config.train.{given[0]}: with config.phases a run is as long as its phases; set it to 0"
        )
    return spans


def make_phases(
    config: Config,
    data: DataSide,
    task: Task,
    backbone: Any,
    params: Any,
    batch_size: int,
) -> list[Phase]:
    """Builds the phases of a run, one that lasts for all of it where the configuration has none.

    Args:
      config: of the run.
      data, task, backbone: of the run.
      params: shapes.
      batch_size: of a step.

    Raises:
      ValueError: a mistake in the sections phases or optimizer.
    """
    spans = read_spans(config, task.steps_per_epoch, batch_size)
    phases, start = [], 0
    for name, steps, fields in spans or [(MAIN, task.total_steps, {})]:
        section = f"phases.{name}" if spans else "optimizer"
        line = fields.pop("train_transforms", None)
        settings = (
            experiment.in_steps(config["optimizer"], "optimizer", task.steps_per_epoch, batch_size) | fields
        )
        schedule, tx = _optimizer(section, settings, steps, params)
        frozen = frozen_params(params, settings.get("groups", ()))
        held = (
            backbone if not any(jax.tree.leaves(frozen["backbone"])) else Frozen(backbone, frozen["backbone"])
        )
        phases.append(
            Phase(
                name=name,
                start=start,
                stop=start + steps,
                data=data if line is None else data.with_train_transforms(section, line),
                objective=experiment.make_objective(config, task, held),
                schedule=schedule,
                tx=tx,
                frozen=frozen if any(jax.tree.leaves(frozen)) else None,
            )
        )
        start += steps
    return phases


def _optimizer(
    section: str, settings: dict[str, Any], steps: int, params: Any
) -> tuple[Schedule, optax.GradientTransformation]:
    names = inspect.signature(make_schedule).parameters
    of_schedule = {key: value for key, value in settings.items() if key in names}
    others = {key: value for key, value in settings.items() if key not in names}
    schedule = experiment.call(make_schedule, section, of_schedule, total_steps=steps)
    return schedule, experiment.call(make_optimizer, section, others, schedule=schedule, params=params)
