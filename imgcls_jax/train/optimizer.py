"""Optimizers by optax name, learning-rate schedules, and parameter groups by regular expression.

A parameter's path joins its keys with slashes: "backbone/conv1/kernel". Patterns are matched against the
whole path.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from imgcls_jax.config.field_types import did_you_mean, fits

Schedule = Callable[[int | jax.Array], Any]


def make_schedule(
    learning_rate: float,
    *,
    total_steps: int,
    schedule: str = "constant",
    warmup_steps: int = 0,
    decay_factor: float = 0.1,
    decay_every_steps: int = 0,
    decay_at_steps: Sequence[int] = (),
    final_learning_rate: float = 0.0,
) -> Schedule:
    """Returns the learning rate as a function of the optimizer step.

    Args:
      learning_rate: the peak.
      total_steps: of the run, warm-up included.
      schedule: "constant"; "step": times decay_factor at every multiple of decay_every_steps, or at
        decay_at_steps; "cosine": from the end of the warm-up down to final_learning_rate at total_steps;
        "cosine_7_16": times cos(7 pi t / 16) as t goes from 0, at the end of the warm-up, to 1.
      warmup_steps: linear rise from 0 at step 0 to the peak; steps of a decay are counted from step 0 all the
        same.
      decay_factor, decay_every_steps, decay_at_steps: of "step".
      final_learning_rate: of "cosine".

    Raises:
      ValueError: an unknown schedule, or "step" without exactly one of its two forms.
    """
    if learning_rate < 0 or warmup_steps < 0:
        raise ValueError(
            "optimizer.learning_rate and optimizer.warmup_epochs (or _steps) are not negative; got "
            f"{learning_rate} and {warmup_steps} steps"
        )
    if schedule == "constant":
        main = optax.constant_schedule(learning_rate)
    elif schedule == "step":
        main = _step_decay(
            learning_rate, decay_factor, decay_every_steps, decay_at_steps, total_steps, warmup_steps
        )
    elif schedule == "cosine":
        steps = max(total_steps - warmup_steps, 1)
        alpha = final_learning_rate / learning_rate if learning_rate else 0.0
        main = optax.cosine_decay_schedule(learning_rate, steps, alpha=alpha)
    elif schedule == "cosine_7_16":
        steps = max(total_steps - warmup_steps, 1)

        def main(step: int | jax.Array) -> jax.Array:
            return learning_rate * jnp.cos(7 / 16 * jnp.pi * step / steps)

    else:
        raise ValueError(
            f"optimizer.schedule is one of 'constant', 'step', 'cosine', 'cosine_7_16'; got {schedule!r}"
        )
    if not warmup_steps:
        return main
    return optax.join_schedules(
        [optax.linear_schedule(0.0, learning_rate, warmup_steps), main], [warmup_steps]
    )


def _step_decay(
    learning_rate: float, factor: float, every: int, at: Sequence[int], total: int, warmup: int
) -> Schedule:
    if bool(every) == bool(len(at)):
        raise ValueError(
            "optimizer.schedule = 'step' needs one of optimizer.decay_every_epochs (or _steps) and "
            f"optimizer.decay_at_epochs (or _steps); got {every} and {tuple(at)} steps"
        )
    boundaries = range(every, total, every) if every else at
    return optax.piecewise_constant_schedule(
        learning_rate, {max(int(b) - warmup, 0): factor for b in boundaries}
    )


def param_paths(params: Any) -> Any:
    """Returns a tree like params whose leaves are their own paths."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )


def make_optimizer(
    name: str,
    schedule: Schedule,
    params: Any,
    *,
    weight_decay: float = 0.0,
    decay_params: str = r".*/kernel",
    clip_norm: float = 0.0,
    groups: Sequence[tuple[str, float | None]] = (),
    **hyperparameters: Any,
) -> optax.GradientTransformation:
    """Returns the optimizer.

    Args:
      name: of a function of optax or optax.contrib: "sgd", "adamw", "lars", "lamb", "lion", "rmsprop",
        "muon", ...
      schedule: the learning rate.
      params: tree with the shapes of what will be optimised (read for its paths only).
      weight_decay: >= 0. Optimizers with a decay of their own (adamw, lamb, lars, lion, ...) receive it; for
        the others it is added to the gradient, as PyTorch's SGD does.
      decay_params: pattern of the params that decay; the default leaves out biases and norm layers.
      clip_norm: largest global norm of the gradients of all params that are not frozen; 0 for no clipping.
      groups: (pattern, factor) pairs; the first pattern that matches a path sets the factor on the learning
        rate; None freezes: no update and no optimizer memory. What no pattern matches has factor 1.
      **hyperparameters: of the optax function (momentum=0.9, nesterov=True, b1=..., ...).

    Raises:
      ValueError: an unknown optimizer or hyper-parameter, a pattern that matches nothing or does not compile,
        or every parameter frozen.
    """
    function = _optax_function(name, hyperparameters)
    if weight_decay < 0 or clip_norm < 0:
        raise ValueError(
            "optimizer.weight_decay and optimizer.clip_norm are not negative; got "
            f"{weight_decay} and {clip_norm}"
        )
    paths = param_paths(params)
    decay_mask = _decay_mask(paths, decay_params) if weight_decay else None
    labels = _group_labels(paths, groups)
    factors = dict(enumerate(factor for _, factor in groups)) | {len(groups): 1.0}
    used = set(jax.tree.leaves(labels))
    if all(factors[label] is None for label in used):
        raise ValueError("optimizer.groups freezes every parameter: nothing is left to train")
    transforms = {}
    for label in used:
        if factors[label] is None:
            transforms[label] = optax.set_to_zero()
            continue
        chosen = _masked_to(decay_mask, labels, label)
        transforms[label] = _one_group(
            function, _scaled(schedule, factors[label]), weight_decay, chosen, hyperparameters
        )
    tx = optax.partition(transforms, labels)
    if clip_norm:
        trainable = jax.tree.map(lambda label: factors[label] is not None, labels)
        tx = optax.chain(optax.masked(optax.clip_by_global_norm(clip_norm), trainable), tx)
    return tx


def frozen_params(params: Any, groups: Sequence[tuple[str, float | None]]) -> Any:
    """Returns a tree like params of bools: whether `make_optimizer` with these groups freezes the leaf."""
    labels = _group_labels(param_paths(params), groups)
    return jax.tree.map(lambda label: label < len(groups) and groups[label][1] is None, labels)


def _optax_function(
    name: str, hyperparameters: dict[str, Any]
) -> Callable[..., optax.GradientTransformation]:
    function = getattr(optax, name, None) or getattr(optax.contrib, name, None)
    signature = inspect.signature(function) if inspect.isfunction(function) else None
    if signature is None or "learning_rate" not in signature.parameters:
        raise ValueError(
            f"optimizer.name is the name of an optimizer in optax, such as 'sgd' or 'adamw'; got {name!r}"
        )
    unknown = set(hyperparameters) - set(signature.parameters)
    if unknown:
        field = sorted(unknown)[0]
        own = [*inspect.signature(make_schedule).parameters, *inspect.signature(make_optimizer).parameters]
        hint = did_you_mean(field, [*own, *signature.parameters])
        raise ValueError(
            f"optimizer.{field}: neither a field of the section nor an argument of optax's {name}, which "
            f"takes {', '.join(signature.parameters)}{hint and '; '}{hint}"
        )
    for field, value in hyperparameters.items():
        if not field.endswith("dtype") and not fits(value, float | bool | None):
            raise ValueError(f"optimizer.{field} is a number, or True or False; got {value!r}")
    return function


def _one_group(
    function: Callable[..., Any],
    schedule: Schedule,
    weight_decay: float,
    decay_mask: Any,
    hyperparameters: dict[str, Any],
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


def _decay_mask(paths: Any, pattern: str) -> Any:
    compiled = _compiled(pattern, "optimizer.decay_params")
    mask = jax.tree.map(lambda path: compiled.fullmatch(path) is not None, paths)
    if not any(jax.tree.leaves(mask)):
        raise ValueError(
            f"optimizer.decay_params = {pattern!r} matches no parameter; the first are "
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
