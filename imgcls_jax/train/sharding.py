"""The mesh: one axis, "data", over every device of every process; the batch is split on it, the state is on
each."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh() -> Mesh:
    """Returns the mesh of all devices, one axis "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def copy(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree to every device; unlike device_put it shares no buffer, so the copy may be donated."""
    return jax.jit(lambda leaves: jax.tree.map(jnp.copy, leaves), out_shardings=replicated(mesh))(tree)


def check_batch_size(batch_size: int, mesh: Mesh, field: str = "train.batch_size") -> None:
    """Raises ValueError unless the global batch divides over the devices."""
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(
            f"{field} counts the examples of all devices together and must be a positive multiple of their "
            f"number, {mesh.size}; got {batch_size}"
        )


def place(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """Puts this process's slice of a batch on its devices; the returned arrays are global."""
    sharding = split_batch(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)
