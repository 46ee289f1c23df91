"""The training step, the only one: every algorithm runs through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from imgcls_jax.contracts.objective import Batch, Metrics, Objective
from imgcls_jax.train.sharding import WHOLE
from imgcls_jax.train.state import TrainState

Augment = Callable[[jax.Array, Batch], Batch]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


class Outcome(NamedTuple):
    """What the objective's loss says of a batch.

    Attributes:
      objective_state: as the loss left it.
      metrics: the objective's, with its "loss".
      grads: of the params.
    """

    objective_state: Any
    metrics: Metrics
    grads: Any


def make_train_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    augment: Augment,
    *,
    num_microbatches: int = 1,
    frozen: Any = None,
    axis_name: str | None = None,
    sam_radius: float = 0.0,
) -> Step:
    """Returns the pure function (state, batch) -> (state, metrics), the objective's with its "loss".

    Args:
      objective: the algorithm.
      tx: the optimizer.
      augment: (rng, batch) -> batch, the device-side part of the input pipeline.
      num_microbatches: a batch is worked through in so many equal parts and their gradients are averaged
        before the one optimizer step; the objective state (BatchNorm statistics, say) goes from part to part.
        `differences_in_parts` says what that changes.
      frozen: bool for every leaf of params; those that are True cost no backward pass and stay to the bit.
        None freezes nothing.
      axis_name: of the mapped axis, where the step sees one replica's rows of the batch: each replica draws
        numbers of its own, and gradients, metrics and objective_state are averaged before the one update.
        None where the batch is whole.
      sam_radius: above 0 the gradients are those at params + sam_radius g / |g|, g being the gradients at
        params over the whole batch (optimizer.sam_radius); metrics and objective_state stay those at params.
    """
    outcome = make_outcome(objective, num_microbatches=num_microbatches, frozen=frozen)
    update = make_update(objective, tx, frozen)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        if axis_name is not None:
            rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))
        rng_a, rng_l = jax.random.split(rng)
        batch = augment(rng_a, batch)
        if objective.divisors is not None:
            divisors = objective.divisors(state.objective_state, batch)
            if axis_name is not None:
                divisors = jax.lax.pmean(divisors, axis_name)
            batch |= {"divisors": jax.tree.map(lambda whole: whole / num_microbatches, divisors)}

        def at(params: Any) -> Outcome:
            objective_state, metrics, grads = outcome(state._replace(params=params), batch, rng_l)
            if axis_name is not None:
                objective_state = _shared_objective_state(axis_name, state.objective_state, objective_state)
                metrics, grads = jax.lax.pmean((metrics, grads), axis_name)
            return Outcome(objective_state, metrics, grads)

        found = at(state.params)
        if sam_radius:
            scale = sam_radius / jnp.maximum(optax.tree.norm(found.grads), 1e-12)
            moved = at(jax.tree.map(lambda param, g: param + scale * g, state.params, found.grads))
            found = found._replace(grads=moved.grads)
        return update(state, found)

    return train_step


def make_outcome(
    objective: Objective, *, num_microbatches: int, frozen: Any
) -> Callable[[TrainState, Batch, jax.Array], Outcome]:
    """Returns the pure function (state, prepared batch, rng) -> Outcome; arguments as of make_train_step."""
    grad = _grad_of_the_free(objective, frozen)

    def outcome(state: TrainState, batch: Batch, rng: jax.Array) -> Outcome:
        if num_microbatches > 1:
            return Outcome(*_accumulate(grad, num_microbatches, state, batch, rng))
        inputs = (state.objective_state, batch, rng, state.step)
        (value, (objective_state, metrics)), grads = grad(state.params, *inputs)
        return Outcome(objective_state, metrics | {"loss": value}, grads)

    return outcome


def make_update(
    objective: Objective, tx: optax.GradientTransformation, frozen: Any
) -> Callable[[TrainState, Outcome], tuple[TrainState, Metrics]]:
    """Returns the pure function (state, outcome of its batch) -> (state, metrics); arguments as of
    make_train_step."""
    tx = optax.with_extra_args_support(tx)

    def update(state: TrainState, found: Outcome) -> tuple[TrainState, Metrics]:
        objective_state, metrics, grads = found
        updates, opt_state = tx.update(grads, state.opt_state, state.params, value=metrics["loss"])
        params = objective.project(optax.apply_updates(state.params, updates))
        if frozen is not None:
            params = jax.tree.map(lambda old, new, held: old if held else new, state.params, params, frozen)
        objective_state = objective.after_update(params, objective_state, state.step)
        return TrainState(state.step + 1, params, objective_state, opt_state, state.rng), metrics

    return update


def _grad_of_the_free(objective: Objective, frozen: Any) -> Callable[..., Any]:
    """Returns value_and_grad of the loss, its gradients 0 where frozen."""
    if frozen is None:
        return jax.value_and_grad(objective.loss, has_aux=True)

    def value_and_grad(params: Any, *inputs: Any) -> Any:
        leaves, treedef = jax.tree.flatten(params)
        held = jax.tree.leaves(frozen)

        def loss(free: list[Any]) -> Any:
            merged = iter(free)
            whole = [leaf if stays else next(merged) for leaf, stays in zip(leaves, held, strict=True)]
            return objective.loss(jax.tree.unflatten(treedef, whole), *inputs)

        free = [leaf for leaf, stays in zip(leaves, held, strict=True) if not stays]
        value, free_grads = jax.value_and_grad(loss, has_aux=True)(free)
        grads = iter(free_grads)
        whole = [
            jnp.zeros_like(leaf) if stays else next(grads) for leaf, stays in zip(leaves, held, strict=True)
        ]
        return value, jax.tree.unflatten(treedef, whole)

    return value_and_grad


def _accumulate(
    grad: Callable[..., Any],
    parts: int,
    state: TrainState,
    batch: Batch,
    rng: jax.Array,
) -> tuple[Any, Metrics, Any]:
    """Averages gradients and metrics over `parts` strided parts of the batch, each spread over all
    devices."""

    def part_of(array: jax.Array) -> jax.Array:
        return jnp.moveaxis(array.reshape(array.shape[0] // parts, parts, *array.shape[1:]), 1, 0)

    shared = {"divisors": batch["divisors"]} if "divisors" in batch else {}

    def add_part(carry: Any, scanned: tuple[Batch, jax.Array]) -> tuple[Any, Metrics]:
        part, rng_part = scanned
        part |= shared
        objective_state, total = carry
        (value, (objective_state, metrics)), grads = grad(
            state.params, objective_state, part, rng_part, state.step
        )
        total = jax.tree.map(lambda t, g: t + g / parts, total, grads)
        return (objective_state, total), metrics | {"loss": value}

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    rows = {key: value for key, value in batch.items() if key not in shared}
    scanned = (jax.tree.map(part_of, rows), jax.random.split(rng, parts))
    (objective_state, grads), metrics = jax.lax.scan(add_part, (state.objective_state, zeros), scanned)
    return objective_state, jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics), grads


def make_train_steps(step: Step, shardings: TrainState) -> Step:
    """Returns (state, batches) -> (state, metrics): several steps, one after the other, in one program.

    Args:
      step: one of them.
      shardings: of the state, between two steps as well.

    Returns:
      A function of a state and a batch whose rows have one more axis in front, [S, B, ...]; what is no row
      (sharding.WHOLE) comes once. The metrics are [S].
    """

    def train_steps(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        beside = {key: value for key, value in batches.items() if key in WHOLE}
        rows = {key: value for key, value in batches.items() if key not in WHOLE}

        def one(state: TrainState, row: Batch) -> tuple[TrainState, Metrics]:
            state, metrics = step(state, row | beside)
            return jax.lax.with_sharding_constraint(state, shardings), metrics

        return jax.lax.scan(one, state, rows)

    return train_steps


def differences_in_parts(objective: Objective, objective_state: Any, parts: int) -> list[str]:
    """Returns what a step in parts (train.num_microbatches) does otherwise than one of the whole batch.

    That is a line of the objective's loss, and one of BatchNorm; draws of random numbers differ besides.
    """
    if parts == 1:
        return []
    lines = [objective.in_parts] if objective.in_parts else []
    if any(jax.tree.leaves(value) for name, value in objective_state.items() if name.endswith("_stats")):
        lines.append(
            f"BatchNorm takes its statistics from each part alone, and its running statistics move {parts} "
            "times a step"
        )
    return lines


def _shared_objective_state(axis_name: str, old: Any, new: Any) -> Any:
    """Makes one objective state of the replicas': the mean of floats; of whole numbers the largest, so that
    what is -1
    until a replica has seen it becomes known to all."""

    def shared(before: jax.Array, after: jax.Array) -> jax.Array:
        if after is before:  # such as an average of the params, which moves after the update
            return before
        if jnp.issubdtype(after.dtype, jnp.inexact):
            return before + jax.lax.pmean(after - before, axis_name)  # what no replica moved stays to the bit
        return jax.lax.pmax(after, axis_name)

    return jax.tree.map(shared, old, new)


def make_init(
    objective: Objective, tx: optax.GradientTransformation, batch: Batch
) -> Callable[[jax.Array], TrainState]:
    """Returns the pure function rng -> TrainState at step 0.

    Args:
      objective: the algorithm.
      tx: the optimizer.
      batch: what `augment` makes of a batch; only shapes and dtypes are read.
    """

    def init(rng: jax.Array) -> TrainState:
        rng_init, rng_train = jax.random.split(rng)
        sample = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch)
        params, objective_state = objective.init(rng_init, sample)
        return TrainState(jnp.int32(0), params, objective_state, tx.init(params), rng_train)

    return init
