"""The state of a run: all that a resumed run needs, and its fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


class TrainState(NamedTuple):
    """What the step maps to its successor.

    Attributes:
      step: int32 scalar, optimizer steps done.
      params, objective_state: the objective's (contracts/objective.py).
      opt_state: the optimizer's.
      rng: typed key, never changed; each step folds its number into it.
    """

    step: jax.Array
    params: Any
    objective_state: Any
    opt_state: Any
    rng: jax.Array


def _raw(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _on_host(leaf: jax.Array) -> np.ndarray:
    """Returns an array whole; all processes call it together for one that lies in pieces on them."""
    if getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)


def state_digest(state: TrainState) -> str:
    """Returns the SHA-256, in hex, over params, objective_state, opt_state and rng: path, dtype, shape and
    bytes of
    every leaf.

    The order is that of the fields, and within each the tree's own (sorted keys).
    """
    return tree_digest([state.params, state.objective_state, state.opt_state, state.rng])


def tree_digest(tree: Any) -> str:
    """Returns the SHA-256, in hex, over path, dtype, shape and bytes of every leaf of a tree."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = _on_host(_raw(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _leaf_checksum(leaf: jax.Array) -> jax.Array:
    bits = _raw(leaf)
    if bits.dtype == jnp.bool_:
        bits = bits.astype(jnp.uint8)
    unsigned = jnp.dtype(f"uint{8 * bits.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(bits, unsigned).ravel().astype(jnp.uint32)
    odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    return jnp.sum(bits * odd, dtype=jnp.uint32)


@jax.jit
def leaf_checksums(tree: Any) -> jax.Array:
    """Returns uint32 [leaves]: of each leaf a position-weighted sum, modulo 2^32, of all its bits; any single
    changed word changes it.

    It runs where the arrays are, so that a checkpoint can be verified without a copy to the host.
    """
    return jnp.stack([jnp.uint32(0), *map(_leaf_checksum, jax.tree.leaves(tree))])[1:]


def combined(checksums: Iterable[int]) -> int:
    """Returns the checksum of a tree, from those of its leaves in order."""
    total = 0
    for one in checksums:
        total = (total * 1000003 + int(one)) % 2**32
    return total


def checksum(tree: Any) -> int:
    """Returns the checksum, below 2^32, of all bits of a tree."""
    return combined(np.asarray(leaf_checksums(tree)).tolist())


def first_nonfinite(state: TrainState) -> str | None:
    """Returns the path of the first leaf of params or objective_state that holds a NaN or an infinity; None
    where none
    does."""
    for name, tree in (("params", state.params), ("objective_state", state.objective_state)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not bool(jnp.all(jnp.isfinite(leaf))):
                return f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
    return None
