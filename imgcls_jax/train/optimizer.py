"""Optimizers by optax name, learning-rate schedules, and parameter groups by regular expression.

A parameter's path joins its keys with slashes: "backbone/conv1/kernel". Patterns are matched against the
whole path.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from imgcls_jax.config.resolve import TRUST_PARAMS, optax_function
from imgcls_jax.config.settings import OptimizerSettings

Schedule = Callable[[int | jax.Array], Any]


def make_schedule(settings: OptimizerSettings, total_steps: int) -> Schedule:
    """Returns the learning rate as a function of the optimizer step.

    Args:
      settings: its fields from learning_rate to final_learning_rate are read.
      total_steps: of the run or phase, warm-up included.

    Raises:
      ValueError: an unknown schedule, or "step" without exactly one of its two forms.
    """
    rate, warmup_steps = settings.learning_rate, settings.warmup_steps
    steps = max(total_steps - warmup_steps, 1)
    if settings.schedule == "constant":
        main = optax.constant_schedule(rate)
    elif settings.schedule == "step":
        main = _step_decay(settings, total_steps)
    elif settings.schedule == "cosine":
        alpha = settings.final_learning_rate / rate if rate else 0.0
        main = optax.cosine_decay_schedule(rate, steps, alpha=alpha)
    elif settings.schedule == "cosine_7_16":

        def main(step: int | jax.Array) -> jax.Array:
            return rate * jnp.cos(7 / 16 * jnp.pi * step / steps)

    else:
        raise ValueError(
            "optimizer.schedule is one of 'constant', 'step', 'cosine', 'cosine_7_16'; got "
            f"{settings.schedule!r}"
        )
    if not warmup_steps:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup_steps), main], [warmup_steps])


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


def param_paths(params: Any) -> Any:
    """Returns a tree like params whose leaves are their own paths."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )


def make_optimizer(
    settings: OptimizerSettings, schedule: Schedule, params: Any
) -> optax.GradientTransformation:
    """Returns the optimizer.

    Args:
      settings: all but the fields of the schedule are read.
      schedule: the learning rate.
      params: tree with the shapes of what will be optimised (read for its paths only).

    Raises:
      ValueError: an unknown optimizer, a pattern that matches nothing or does not compile, or every parameter
        frozen.
    """
    function, groups, weight_decay = optax_function(settings.name), settings.groups, settings.weight_decay
    paths = param_paths(params)
    decay_mask = _mask(paths, settings.decay_params, "decay_params") if weight_decay else None
    fields = dict(settings.fields)
    trust = fields.pop(TRUST_PARAMS, None)
    trust_mask = None if trust is None else _mask(paths, trust, TRUST_PARAMS)
    labels = _group_labels(paths, groups)
    factors = dict(enumerate(factor for _, factor in groups)) | {len(groups): 1.0}
    used = set(jax.tree.leaves(labels))
    if all(factors[label] is None for label in used):
        raise ValueError("optimizer.groups freezes every parameter: nothing is left to train")
    transforms = {}
    for label in used:
        factor = factors[label]
        if factor is None:
            transforms[label] = optax.set_to_zero()
            continue
        chosen = _masked_to(decay_mask, labels, label)
        scaled = _scaled(schedule, factor)
        own = {} if trust_mask is None else {"trust_ratio_mask": _masked_to(trust_mask, labels, label)}
        transforms[label] = _one_group(function, scaled, weight_decay, chosen, fields | own)
    tx = optax.partition(transforms, labels)
    if settings.clip_norm:
        trainable = jax.tree.map(lambda label: factors[label] is not None, labels)
        tx = optax.chain(optax.masked(optax.clip_by_global_norm(settings.clip_norm), trainable), tx)
    return tx


def frozen_params(params: Any, groups: Sequence[tuple[str, float | None]]) -> Any:
    """Returns a tree like params of bools: whether `make_optimizer` with these groups freezes the leaf."""
    labels = _group_labels(param_paths(params), groups)
    return jax.tree.map(lambda label: label < len(groups) and groups[label][1] is None, labels)


def _one_group(
    function: Callable[..., Any],
    schedule: Schedule,
    weight_decay: float,
    decay_mask: Any,
    hyperparameters: Mapping[str, Any],
) -> optax.GradientTransformation:
    arguments = inspect.signature(function).parameters
    if "weight_decay" in arguments:
        # A decay of 0 is passed on too: optax's adamw would otherwise decay by a default of its own.
        mask_name = "weight_decay_mask" if "weight_decay_mask" in arguments else "mask"
        own = {"weight_decay": weight_decay} | ({mask_name: decay_mask} if weight_decay else {})
        return function(schedule, **own, **hyperparameters)
    tx = function(schedule, **hyperparameters)
    return optax.chain(optax.add_decayed_weights(weight_decay, decay_mask), tx) if weight_decay else tx


def _scaled(schedule: Schedule, factor: float) -> Schedule:
    return schedule if factor == 1.0 else lambda step: factor * schedule(step)


def _compiled(pattern: str, field: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{field}: {pattern!r} is not a regular expression: {error}") from error


def _mask(paths: Any, pattern: str, field: str) -> Any:
    compiled = _compiled(pattern, f"optimizer.{field}")
    mask = jax.tree.map(lambda path: compiled.fullmatch(path) is not None, paths)
    if not any(jax.tree.leaves(mask)):
        raise ValueError(
            f"optimizer.{field} = {pattern!r} matches no parameter; the first are "
            f"{jax.tree.leaves(paths)[:4]}"
        )
    return mask


def _group_labels(paths: Any, groups: Sequence[tuple[str, float | None]]) -> Any:
    """Returns a tree of group numbers; len(groups) stands for what no pattern matches."""
    patterns = [_compiled(pattern, "optimizer.groups") for pattern, _ in groups]
    for pattern in patterns:
        if not any(pattern.fullmatch(path) for path in jax.tree.leaves(paths)):
            raise ValueError(
                f"optimizer.groups: {pattern.pattern!r} matches no parameter; the first are "
                f"{jax.tree.leaves(paths)[:4]}"
            )
    return jax.tree.map(
        lambda path: next((i for i, p in enumerate(patterns) if p.fullmatch(path)), len(patterns)), paths
    )


def _masked_to(mask: Any, labels: Any, label: int) -> Any:
    """Returns the mask as optax.partition shows a group its leaves: other groups' become MaskedNode."""
    if mask is None:
        return None
    return jax.tree.map(lambda decays, own: decays if own == label else optax.MaskedNode(), mask, labels)


def reset_optimizer(
    tx: optax.GradientTransformation, opt_state: Any, params: Any, prefixes: Sequence[str]
) -> Any:
    """Restarts the optimizer's memory of some params.

    Args:
      tx: the optimizer.
      opt_state: its state.
      params: as the next step will see them.
      prefixes: of param paths: "head" restarts all below params["head"].

    Returns:
      opt_state with the leaves that belong to those params as `tx.init(params)` makes them.
    """

    def pick(path: tuple[Any, ...], old: jax.Array, new: jax.Array) -> jax.Array:
        keys = [
            entry.key
            for entry in path
            if isinstance(entry, jax.tree_util.DictKey) and isinstance(entry.key, str)
        ]
        own = "/".join(keys)  # the state's copies of a param sit below that param's own keys
        return new if any(own == prefix or own.startswith(f"{prefix}/") for prefix in prefixes) else old

    return jax.tree_util.tree_map_with_path(pick, opt_state, tx.init(params))
