"""Whether a run may become longer: only where what was trained is the beginning of the longer run."""

from __future__ import annotations

import dataclasses
from typing import Any

from imgcls_jax.train import build
from imgcls_jax.train.setup import Setup

# Schedules whose first steps are the same in a longer run.
FREE_OF_LENGTH = ("constant", "step", "plateau", "reciprocal_sqrt")


def require_growth(setup: Setup, steps: int) -> None:
    """Raises ValueError where the run is not the longer form of one that was to take `steps` steps."""
    optimizer, objective = setup.settings.phases[-1].optimizer, setup.settings.objective.name
    reason = ""
    if optimizer.schedule not in FREE_OF_LENGTH:
        reason = f"optimizer.schedule = {optimizer.schedule!r} spreads over all of the run"
    elif optimizer.cooldown_steps:
        reason = "optimizer.cooldown_steps counts from the end of the run"
    elif setup.objective.plan_epoch is not None or _objective_reads_length(setup):
        reason = f"the objective {objective!r} reads the length of the run"
    if reason:
        raise ValueError(
            f"the workdir's run has {steps} steps and cannot become one of {setup.task.total_steps}: "
            f"{reason}, so what was trained is not its beginning. Choose another --workdir; there "
            "--config.train.resume_from goes on from a checkpoint of this one"
        )


def require_data_growth(setup: Setup) -> None:
    """Raises ValueError where more images would make another run of what was trained."""
    data, objective = setup.settings.data, setup.settings.objective.name
    fields = {
        "labels_per_class": data.labels_per_class,
        "imbalance_factor": data.imbalance_factor != 1,
        "folds": data.folds,
    }
    reason = next(
        (f"data.{name} draws other images from more" for name, is_set in fields.items() if is_set), ""
    )
    if setup.objective.plan_epoch is not None:
        reason = f"the objective {objective!r} remembers every image by its number"
    if reason:
        raise ValueError(
            f"the data have grown, which this run cannot take: {reason}. Choose another --workdir"
        )


def _objective_reads_length(setup: Setup) -> bool:
    """Whether the objective cannot be made without knowing the length of the run."""
    unknown: Any = None
    task = dataclasses.replace(setup.task, total_steps=unknown)
    try:
        build.make_objective(setup.settings.objective, task, setup.backbone)
    except ValueError:
        return True
    return False
