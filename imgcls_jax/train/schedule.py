"""Learning-rate schedules.

The rate rises linearly over warmup_steps, follows `optimizer.schedule`, and over the last cooldown_steps
falls linearly to final_learning_rate. "constant" with a cooldown is known as warmup-stable-decay (Hu et al.,
"MiniCPM", arXiv:2404.06395, 2024), "reciprocal_sqrt" with one as the schedule of Zhai et al. ("Scaling Vision
Transformers", arXiv:2106.04560, 2022).

"plateau" lowers the rate where the training loss stops falling, as PyTorch's ReduceLROnPlateau does with a
measured loss. Which steps those are is known from the run alone: the schedule is constant there, and the
optimizer scales its updates (optimizer.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from imgcls_jax.config.settings import OptimizerSettings

Schedule = Callable[[int | jax.Array], Any]
SCHEDULES = (
    "constant",
    "step",
    "cosine",
    "cosine_7_16",
    "exponential",
    "polynomial",
    "plateau",
    "reciprocal_sqrt",
)

# Optimizers of optax that estimate their learning rate from the steps taken: a scale behind their back would
# make the estimate wrong.
OWN_RATE = ("dadapt_adamw", "momo", "momo_adam", "prodigy", "rprop")


def make_schedule(settings: OptimizerSettings, total_steps: int) -> Schedule:
    """Returns the learning rate as a function of the optimizer step.

    Args:
      settings: its fields from learning_rate to cooldown_steps are read.
      total_steps: of the run or phase, warm-up and cooldown included.

    Raises:
      ValueError: an unknown schedule, "step" without exactly one of its two forms, or a warm-up and a
        cooldown that do not fit into the run.
    """
    _require_plateau(settings)
    cooldown_steps = settings.cooldown_steps if total_steps else 0  # a run of no steps evaluates alone
    if cooldown_steps and settings.warmup_steps + cooldown_steps > total_steps:
        raise ValueError(
            "optimizer.warmup_steps and optimizer.cooldown_steps are at most the run together; got "
            f"{settings.warmup_steps} and {cooldown_steps} of {total_steps} steps"
        )
    rate, warmup_steps = settings.learning_rate, settings.warmup_steps
    schedule = _course(settings, total_steps)
    if warmup_steps:
        schedule = optax.join_schedules(
            [optax.linear_schedule(0.0, rate, warmup_steps), schedule], [warmup_steps]
        )
    if cooldown_steps:
        start = total_steps - cooldown_steps
        fall = optax.linear_schedule(schedule(start), settings.final_learning_rate, cooldown_steps)
        schedule = optax.join_schedules([schedule, fall], [start])
    return schedule


def _course(settings: OptimizerSettings, total_steps: int) -> Schedule:
    """Returns the rate as a function of the steps since the end of the warm-up."""
    rate, final = settings.learning_rate, settings.final_learning_rate
    steps = max(total_steps - settings.warmup_steps, 1)
    if settings.schedule in ("constant", "plateau"):
        return optax.constant_schedule(rate)
    if settings.schedule == "step":
        return _step_decay(settings, total_steps)
    if settings.schedule == "cosine":
        return optax.cosine_decay_schedule(rate, steps, alpha=final / rate if rate else 0.0)
    if settings.schedule == "exponential":
        if not (rate and final):
            raise ValueError(
                "optimizer.schedule = 'exponential' goes from optimizer.learning_rate to "
                f"optimizer.final_learning_rate, both above 0; got {rate} and {final}"
            )
        return lambda step: rate * jnp.exp(math.log(final / rate) * step / steps)
    if settings.schedule == "polynomial":
        return optax.polynomial_schedule(rate, final, settings.decay_power, steps)
    if settings.schedule == "cosine_7_16":
        return lambda step: rate * jnp.cos(7 / 16 * jnp.pi * step / steps)
    if settings.schedule == "reciprocal_sqrt":
        timescale = settings.timescale_steps or settings.warmup_steps
        if not timescale:
            raise ValueError(
                "optimizer.schedule = 'reciprocal_sqrt' needs optimizer.timescale_steps (or _epochs), or a "
                "warm-up"
            )
        start = settings.warmup_steps
        return lambda step: rate * jnp.sqrt(timescale / jnp.maximum(step + start, timescale))
    raise ValueError(f"optimizer.schedule is one of {', '.join(SCHEDULES)}; got {settings.schedule!r}")


def _require_plateau(settings: OptimizerSettings) -> None:
    """Raises ValueError where the fields of "plateau" are idle or out of range, or it makes no sense."""
    if settings.schedule != "plateau":
        if settings.plateau_steps:
            raise ValueError(
                "optimizer.plateau_epochs (or _steps) is of optimizer.schedule = 'plateau'; it is "
                f"{settings.schedule!r}"
            )
        return
    if not settings.plateau_steps:
        raise ValueError(
            "optimizer.schedule = 'plateau' needs optimizer.plateau_epochs (or _steps), over which the loss "
            "is averaged, such as 1.0 epoch"
        )
    if not 0 < settings.decay_factor < 1:
        raise ValueError(
            "optimizer.schedule = 'plateau' lowers the rate by optimizer.decay_factor, in (0, 1); got "
            f"{settings.decay_factor}"
        )
    if not settings.final_learning_rate <= settings.learning_rate or not settings.learning_rate:
        raise ValueError(
            "optimizer.schedule = 'plateau' goes from optimizer.learning_rate, above 0, down to "
            f"optimizer.final_learning_rate; got {settings.learning_rate} and {settings.final_learning_rate}"
        )
    if settings.cooldown_steps or settings.l1:
        field = "cooldown_steps" if settings.cooldown_steps else "l1"
        raise ValueError(
            f"optimizer.{field} needs a learning rate that is known beforehand, and that of "
            "optimizer.schedule = 'plateau' follows the loss: leave one of the two out"
        )
    if settings.name in OWN_RATE:
        raise ValueError(
            f"optimizer.name = {settings.name!r} finds its own step length: leave optimizer.schedule at "
            "'constant', or take 'sgd' or 'adamw' with 'plateau'"
        )


def _step_decay(settings: OptimizerSettings, total_steps: int) -> Schedule:
    every, at = settings.decay_every_steps, settings.decay_at_steps
    if bool(every) == bool(len(at)):
        raise ValueError(
            "optimizer.schedule = 'step' needs one of optimizer.decay_every_epochs (or _steps) and "
            f"optimizer.decay_at_epochs (or _steps); got {every} and {tuple(at)} steps"
        )
    boundaries = range(every, total_steps, every) if every else at
    return optax.piecewise_constant_schedule(
        settings.learning_rate,
        {max(int(b) - settings.warmup_steps, 0): settings.decay_factor for b in boundaries},
    )
