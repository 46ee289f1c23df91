"""The training step by a fixed number of replicas (train.replicas): the same bits on more or fewer devices.

A device works through its replicas one after the other. Each has its own rows, BatchNorm statistics and
random numbers, as a device has with train.parallel = "per_replica". All are added in pairs: neighbors, then
neighboring pairs, and so on, first on each device, then between devices.

How XLA fuses operations decides how they round. So the part of one replica, the sums and the update are
programs of their own, and each holds the same computation on any number of devices. A program that held all
of it would be another one on each, and was seen to end in other bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from imgcls_jax.contracts.objective import Batch, Metrics, Objective
from imgcls_jax.train.phase import Phase
from imgcls_jax.train.sharding import AXIS, WHOLE
from imgcls_jax.train.state import TrainState
from imgcls_jax.train.step import Augment, Outcome, Step

Update = Callable[[TrainState, Outcome], tuple[TrainState, Metrics]]


def check(objective: Objective, phases: list[Phase], params: Any, objective_state: Any, batch: Batch) -> None:
    """Raises ValueError where an objective or an optimizer needs more than one replica at a time.

    Args:
      objective, phases: of the run.
      params, objective_state, batch: shapes, as the objective sees them.
    """
    why = ""
    if objective.divisors is not None:
        why = "the loss divides by a sum over the examples of all replicas (as class weights do)"
    elif objective.plan_epoch is not None:
        why = "the objective plans epochs from embeddings, which round otherwise on other devices"
    elif any(phase.sam_radius for phase in phases):
        why = "optimizer.sam_radius takes the gradients of all replicas twice a step"
    else:
        step = jax.ShapeDtypeStruct((), jnp.int32)
        try:
            jax.eval_shape(objective.loss, params, objective_state, batch, jax.random.key(0), step)
            jax.eval_shape(objective.after_update, params, objective_state, step)
        except NameError:  # of the axis of devices, over which no replica is mapped
            why = "the loss compares the examples of all replicas"
    if why:
        raise ValueError(
            "config.train.replicas takes one replica after the other, which does not go with this "
            f"configuration: {why}; leave train.replicas at 0"
        )


def make_replica(
    augment: Augment, outcome: Callable[[TrainState, Batch, jax.Array], Outcome]
) -> Callable[[TrainState, jax.Array, Batch], Outcome]:
    """Returns the pure function (state, number of the replica, its rows) -> Outcome.

    Its objective_state is what is to be added to floats; integers as the loss left them; and None for what
    the loss did not touch.
    """

    def moved(before: jax.Array, after: jax.Array) -> jax.Array | None:
        if after is before:
            return None
        return after - before if _is_float(after) else after

    def replica(state: TrainState, number: jax.Array, rows: Batch) -> Outcome:
        rng = jax.random.fold_in(jax.random.fold_in(state.rng, state.step), number)
        rng_a, rng_l = jax.random.split(rng)
        objective_state, metrics, grads = outcome(state, augment(rng_a, rows), rng_l)
        objective_state = jax.tree.map(moved, state.objective_state, objective_state)
        return Outcome(objective_state, jax.tree.map(jnp.float32, metrics), grads)

    return replica


def of_total(update: Update, replicas: int) -> Update:
    """Returns the update by what all replicas' outcomes add up to."""

    def shared(before: jax.Array, total: jax.Array | None) -> jax.Array:
        if total is None:
            return before
        return before + total / replicas if _is_float(total) else total

    def updated(state: TrainState, total: Outcome) -> tuple[TrainState, Metrics]:
        metrics, grads = jax.tree.map(lambda leaf: leaf / replicas, (total.metrics, total.grads))
        return update(
            state, Outcome(jax.tree.map(shared, state.objective_state, total.objective_state), metrics, grads)
        )

    return updated


def by_replicas(
    replica: Callable[[TrainState, jax.Array, Batch], Outcome],
    update: Update,
    mesh: Mesh,
    replicas: int,
) -> Step:
    """Returns a step (state, batch) -> (state, metrics) that runs several programs; it is not to be jitted.

    Args:
      replica: of make_replica.
      update: of of_total, jitted.
      mesh: of data_mesh; its size divides `replicas`, and both are powers of two.
      replicas: over all devices.
    """
    own = replicas // mesh.size
    whole, split = PartitionSpec(), PartitionSpec(AXIS)

    def program(function: Any, inputs: Any, outputs: Any) -> Any:
        return jax.jit(
            jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
        )

    def cut(rows: Batch) -> list[tuple[jax.Array, Batch]]:
        """Returns (number [1], rows) of each of a device's replicas."""
        parts = jax.tree.map(lambda leaf: leaf.reshape(own, -1, *leaf.shape[1:]), rows)
        first = jax.lax.axis_index(AXIS) * own
        return [
            (jnp.reshape(first + k, 1), jax.tree.map(lambda leaf, k=k: leaf[k], parts)) for k in range(own)
        ]

    def alone(state: TrainState, number: jax.Array, rows: Batch, beside: Batch) -> Outcome:
        return jax.tree.map(lambda leaf: leaf[None], replica(state, number[0], {**rows, **beside}))

    def over_devices(total: Outcome) -> Outcome:
        total, distance = jax.tree.map(lambda leaf: leaf[0], total), 1
        while distance < mesh.size:
            pairs = [(device, device ^ distance) for device in range(mesh.size)]
            total = added(total, jax.lax.ppermute(total, AXIS, pairs))
            distance *= 2
        return total

    cut_rows = program(cut, split, split)
    take = program(alone, (whole, split, split, whole), split)
    add = jax.jit(added, donate_argnums=0)
    share = program(over_devices, split, whole)

    def total_of(state: TrainState, parts: list[tuple[jax.Array, Batch]], beside: Batch) -> Outcome:
        if len(parts) == 1:
            return take(state, *parts[0], beside)
        half = len(parts) // 2
        return add(total_of(state, parts[:half], beside), total_of(state, parts[half:], beside))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rows = {key: own_rows for key, own_rows in batch.items() if key not in WHOLE}
        beside = {key: entry for key, entry in batch.items() if key in WHOLE}
        return update(state, share(total_of(state, cut_rows(rows), beside)))

    return step


def added(one: Outcome, other: Outcome) -> Outcome:
    """Returns the sum of two outcomes; of integers the larger, so that what is -1 until a replica has seen it
    becomes known to all."""
    return jax.tree.map(lambda a, b: a + b if _is_float(a) else jnp.maximum(a, b), one, other)


def _is_float(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
