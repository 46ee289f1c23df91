"""The mesh: one axis, "data", over every device of every process. The batch is split on it; the state is
whole on each device, or split as well (`train.parallel`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from imgcls_jax.data.datasets import IMAGES

AXIS = "data"
TEACHER = "teacher"  # the entry of a step's batch with a frozen network's variables
WHOLE = (TEACHER, IMAGES)  # the entries that are no rows
# Leaves of fewer numbers stay whole: biases, norms and the first convolutions, some hundredths of a network,
# for each of which a collective would take longer than the 256 KiB that it saves are worth.
MIN_SPLIT_SIZE = 2**16


def data_mesh() -> Mesh:
    """Returns the mesh of all devices, one axis "data"."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh, *, stacked: bool = False) -> NamedSharding:
    """Returns the sharding of a batch, its first axis over "data"; its second where they are stacked."""
    return NamedSharding(mesh, PartitionSpec(None, AXIS) if stacked else PartitionSpec(AXIS))


def split_leaf(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array split along its longest axis that divides over the devices.

    One of fewer than MIN_SPLIT_SIZE numbers, or without such an axis, is whole on each.
    """
    axes = [axis for axis, length in enumerate(shape) if length % mesh.size == 0]
    if math.prod(shape) < MIN_SPLIT_SIZE or not axes:
        return replicated(mesh)
    longest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, AXIS))


def of_state(state: Any, mesh: Mesh, *, split: bool) -> Any:
    """Returns the sharding of each leaf of a TrainState.

    Args:
      state: of arrays or shapes.
      mesh: of data_mesh.
      split: whether params, opt_state and the objective state's `ema` go by split_leaf; all else is whole
        everywhere.
    """

    def pieces(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: split_leaf(np.shape(leaf), mesh), tree)

    whole = jax.tree.map(lambda _: replicated(mesh), state)
    if not split:
        return whole
    ema = {"ema": pieces(state.objective_state["ema"])} if "ema" in state.objective_state else {}
    return whole._replace(
        params=pieces(state.params),
        opt_state=pieces(state.opt_state),
        objective_state=whole.objective_state | ema,
    )


def copy(tree: Any, shardings: Any) -> Any:
    """Copies a tree to where `shardings` has it; unlike device_put it shares no buffer, so the copy may be
    donated."""
    return jax.jit(lambda leaves: jax.tree.map(jnp.copy, leaves), out_shardings=shardings)(tree)


def per_replica(
    step: Callable[[Any, Any], Any], mesh: Mesh, batch: Mapping[str, Any] | None = None
) -> Callable[[Any, Any], Any]:
    """Returns a step (state, batch) -> (state, metrics) that each device takes on its own rows of the batch,
    as under pmap; what it returns must be the same on all.

    Args:
      step: as it is taken on one replica's rows.
      mesh: of data_mesh.
      batch: by its keys, where one of them is of WHOLE, which every device has whole.
    """
    whole, rows = PartitionSpec(), PartitionSpec(AXIS)
    of_batch = {key: whole if key in WHOLE else rows for key in batch} if batch else rows
    # check_vma would sum the gradients over the devices, which the step itself averages.
    return jax.shard_map(step, mesh=mesh, in_specs=(whole, of_batch), out_specs=whole, check_vma=False)


def check_batch_size(batch_size: int, mesh: Mesh, field: str = "train.batch_size") -> None:
    """Raises ValueError unless the global batch divides over the devices."""
    if batch_size < 1 or batch_size % mesh.size:
        above = rounded_up(max(batch_size, 1), mesh)
        near = " or ".join(str(size) for size in (above - mesh.size, above) if size > 0)
        raise ValueError(
            f"{field} counts the examples of all devices together and must be a positive multiple of their "
            f"number, {mesh.size}; got {batch_size}; the nearest is {near}"
        )


def rounded_up(batch_size: int, mesh: Mesh) -> int:
    """Returns the next multiple of the number of devices: what stands for the batches of an evaluation, whose
    padding counts for nothing."""
    return -(-batch_size // mesh.size) * mesh.size


def place(batch: dict[str, np.ndarray], mesh: Mesh, *, stacked: bool = False) -> dict[str, Any]:
    """Puts this process's slice of a batch, or of batches stacked in front, on its devices; the returned
    arrays are global."""
    sharding = split_batch(mesh, stacked=stacked)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)
