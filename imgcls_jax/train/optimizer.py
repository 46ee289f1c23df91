"""Optimizers by optax name, and parameter groups by regular expression.

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
import optax.contrib

from imgcls_jax.config.resolve import MUON_PARAMS, PATTERNS, optax_function
from imgcls_jax.config.settings import OptimizerSettings
from imgcls_jax.train.schedule import Schedule

# Optimizers of optax that take a number as their learning rate, and no schedule.
TAKES_NUMBER = ("rprop", "sm3", "optimistic_adam")


def param_paths(params: Any) -> Any:
    """Returns a tree like params whose leaves are their own paths."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )


def make_optimizer(
    settings: OptimizerSettings, schedule: Schedule, params: Any
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer, whose update takes the loss as `value`.

    Args:
      settings: all but the fields of the schedule are read.
      schedule: the learning rate.
      params: tree with the shapes of what will be optimised.

    Raises:
      ValueError: an optimizer that is unknown or does not fit, a pattern that matches nothing or does not
        compile, or every parameter frozen.
    """
    groups, decays = settings.groups, settings.weight_decay or settings.l1
    paths = param_paths(params)
    decay_mask = _mask(paths, settings.decay_params, "decay_params") if decays else None
    fields = dict(settings.fields)
    trees = {}
    for field in PATTERNS.keys() & fields.keys():
        mask = _mask(paths, fields.pop(field), field)
        trees[PATTERNS[field][0]] = _as_matrices(params, mask) if field == MUON_PARAMS else mask
    labels = _group_labels(paths, groups)
    factors = dict(enumerate(factor for _, factor in groups)) | {len(groups): 1.0}
    if settings.layer_decay != 1:
        labels, factors = _by_depth(paths, labels, factors, settings.layer_decay)
    used = set(jax.tree.leaves(labels))
    make, rate = optax_function(settings.name), _rate(settings, schedule, 1.0)
    if all(factors[label] is None for label in used):
        raise ValueError("optimizer.groups freezes every parameter: nothing is left to train")
    trained = jax.tree.map(lambda label: factors[label] is not None, labels)
    _require_fit(settings, lambda: make(rate, **fields), paths, params, trained)
    transforms = {}
    for label in used:
        factor = factors[label]
        if factor is None:
            transforms[label] = optax.set_to_zero()
            continue
        chosen = _masked_to(decay_mask, labels, label)
        rate = _rate(settings, schedule, factor)
        own = {argument: _masked_to(tree, labels, label) for argument, tree in trees.items()}
        transforms[label] = _one_group(settings, rate, chosen, fields | own)
        if settings.l1:
            shrink = optax.masked(soft_threshold(rate, settings.l1), chosen)
            transforms[label] = optax.chain(transforms[label], shrink)
    tx = optax.partition(transforms, labels)
    if settings.clip_norm:
        tx = optax.chain(optax.masked(optax.clip_by_global_norm(settings.clip_norm), trained), tx)
    if settings.schedule == "plateau":
        tx = optax.chain(tx, _plateau(settings))
    return optax.with_extra_args_support(tx)


def _plateau(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Returns what scales the updates, the loss being `value`; its state has the scale."""
    return optax.contrib.reduce_on_plateau(
        factor=settings.decay_factor,
        patience=settings.patience,
        accumulation_size=settings.plateau_steps,
        min_scale=settings.final_learning_rate / settings.learning_rate,
    )


def plateau_scale(opt_state: Any) -> float:
    """Returns the factor on the learning rate by which "plateau" scaled the last updates; 1 without it."""
    kind = optax.contrib.ReduceLROnPlateauState
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return next((float(node.scale) for node in nodes if isinstance(node, kind)), 1.0)


def _require_fit(
    settings: OptimizerSettings,
    make: Callable[[], optax.GradientTransformation],
    paths: Any,
    params: Any,
    trained: Any,
) -> None:
    """Raises ValueError where the optimizer cannot be made, or not run with what a train step hands it.

    It is traced on a matrix, and then on the first parameter of each rank among those that are trained.
    """

    def one_step(params: Any) -> Any:
        tx = optax.with_extra_args_support(make())
        return tx.update(params, tx.init(params), params, value=jnp.float32(0))

    leaves = map(jax.tree.leaves, (paths, params, trained))
    of_rank: dict[int, tuple[str, tuple[int, ...]]] = {}
    for path, leaf, own in zip(*leaves, strict=True):
        if own:
            of_rank.setdefault(leaf.ndim, (path, leaf.shape))
    for path, shape in [("", (2, 2)), *of_rank.values()]:
        try:
            jax.eval_shape(one_step, {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)})
        except (TypeError, AttributeError, ValueError, IndexError) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            if path:
                raise ValueError(
                    f"config.optimizer.name = {settings.name!r} does not work with the parameter {path}, of "
                    f"shape {shape} ({said}): choose another optimizer, or freeze it by optimizer.groups = "
                    f"(({re.escape(path)!r}, None),)"
                ) from error
            raise ValueError(
                f"config.optimizer.name = {settings.name!r} does not work with this train step, which hands "
                "an optimizer the gradients, the params and the loss, or one of its fields does not fit: "
                f"{said}"
            ) from error


def frozen_params(params: Any, groups: Sequence[tuple[str, float | None]]) -> Any:
    """Returns a tree like params of bools: whether `make_optimizer` with these groups freezes the leaf."""
    labels = _group_labels(param_paths(params), groups)
    return jax.tree.map(lambda label: label < len(groups) and groups[label][1] is None, labels)


def _one_group(
    settings: OptimizerSettings, rate: Schedule | float, decay_mask: Any, hyperparameters: Mapping[str, Any]
) -> optax.GradientTransformation:
    function, weight_decay = optax_function(settings.name), settings.weight_decay
    arguments = inspect.signature(function).parameters
    if "weight_decay" not in arguments:
        tx = function(rate, **hyperparameters)
        return optax.chain(optax.add_decayed_weights(weight_decay, decay_mask), tx) if weight_decay else tx
    # A decay of 0 is passed on too: optax's adamw would otherwise decay by a default of its own.
    own: dict[str, Any] = {"weight_decay": weight_decay}
    mask_name = next((name for name in ("weight_decay_mask", "mask") if name in arguments), None)
    if weight_decay and mask_name:
        own[mask_name] = decay_mask
    elif weight_decay and not all(jax.tree.leaves(decay_mask)):
        raise ValueError(
            f"optimizer.name = {settings.name!r} decays all params or none, and optimizer.decay_params "
            f"= {settings.decay_params!r} leaves some out: set decay_params to '.*', or weight_decay to 0"
        )
    return function(rate, **own, **hyperparameters)


def soft_threshold(rate: Schedule | float, l1: float) -> optax.GradientTransformation:
    """An L1 penalty apart from the gradient, after the optimizer's own step: a proximal step.

    Eq.: p <- sign(q) max(|q| - rate l1, 0), q being p after the optimizer's step; so small params become 0
    exactly. The gradient of the penalty would let them swing about 0.

    Args:
      rate: the learning rate, or step -> learning rate.
      l1: strength of the penalty, >= 0.
    """

    def init(params: Any) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(
        updates: Any, state: optax.ScaleByScheduleState, params: Any = None
    ) -> tuple[Any, optax.ScaleByScheduleState]:
        threshold = l1 * (rate(state.count) if callable(rate) else rate)

        def shrunk(param: jax.Array, change: jax.Array) -> jax.Array:
            moved = param + change
            return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - threshold, 0) - param

        changed = jax.tree.map(shrunk, params, updates)
        return changed, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _rate(settings: OptimizerSettings, schedule: Schedule, factor: float) -> Schedule | float:
    """Returns the learning rate as the optimizer takes it."""
    if settings.name in TAKES_NUMBER:
        if settings.schedule != "constant" or settings.warmup_steps or settings.cooldown_steps:
            raise ValueError(
                f"config.optimizer.name = {settings.name!r} takes one learning rate for the whole run: leave "
                "optimizer.schedule at 'constant', without a warm-up or cooldown"
            )
        return factor * settings.learning_rate
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


def _as_matrices(params: Any, mask: Any) -> Any:
    """Returns how muon sees a kernel as a matrix, its last axis being the outputs; None for the others."""

    def matrix(param: jax.Array, chosen: bool) -> Any:
        axes = tuple(range(param.ndim))
        return optax.contrib.MuonDimensionNumbers(axes[:-1], axes[-1:]) if chosen and axes[1:] else None

    return jax.tree.map(matrix, params, mask)


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


BLOCK = re.compile(r"(backbone/.*?(?:block|layer)s?[_.])(\d+)/.*")


def _by_depth(
    paths: Any, labels: Any, factors: Mapping[int, float | None], layer_decay: float
) -> tuple[Any, dict[int, float | None]]:
    """Splits every group by the block that a param belongs to.

    Returns:
      labels as of `_group_labels`, and the factor on the learning rate of each.

    Raises:
      ValueError: the backbone is no single row of numbered blocks.
    """
    found = [match for match in map(BLOCK.fullmatch, jax.tree.leaves(paths)) if match]
    rows = {match[1] for match in found}
    if len(rows) != 1:
        raise ValueError(
            "optimizer.layer_decay is for backbones that are one row of blocks, such as a ViT; this one has "
            f"{', '.join(sorted(rows)) or 'none'}: name the factors in optimizer.groups"
        )
    behind = max(int(match[2]) for match in found) + 2
    # What lies behind the blocks in a pre-norm transformer is its last norm and the attention that pools.
    last = re.compile(r"(?!backbone/).*|backbone/(?:.*[/.])?(?:ln|norm)/.*|backbone/attention_pool/.*")

    def depth(path: str) -> int:
        block = BLOCK.fullmatch(path)
        return int(block[2]) + 1 if block else behind if last.fullmatch(path) else 0

    depths = jax.tree.map(depth, paths)
    split = jax.tree.map(lambda label, at: label * (behind + 1) + at, labels, depths)
    scaled = {
        label * (behind + 1) + at: None if factor is None else factor * layer_decay ** (behind - at)
        for label, factor in factors.items()
        for at in range(behind + 1)
    }
    return split, scaled


def _masked_to(mask: Any, labels: Any, label: int) -> Any:
    """Returns the mask as optax.partition shows a group its leaves: other groups' become MaskedNode."""
    if mask is None:
        return None
    return jax.tree.map(lambda own, value: value if own == label else optax.MaskedNode(), labels, mask)


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
