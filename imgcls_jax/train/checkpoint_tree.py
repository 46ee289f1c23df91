"""The tree of arrays in a checkpoint: its checksums, its shapes, and how it differs from another."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imgcls_jax.runtime.buckets import bytes_in, is_bucket
from imgcls_jax.train.state import TrainState, leaf_checksums

Tree = Any
OBJECTIVE_STATE = "carry"  # the name of TrainState.objective_state in files
# The bytes in memory of a checkpoint's arrays against those of its files: Orbax compresses, but no weights.
MAX_BYTES_PER_FILE_BYTE, FREE_BYTES = 64, 2**28


def to_tree(state: TrainState, order: np.ndarray | None) -> Tree:
    """Returns the state as nested dicts of plain arrays; typed keys become their words."""
    rng: Any = state.rng
    if isinstance(rng, jax.ShapeDtypeStruct):
        rng = jax.eval_shape(jax.random.key_data, rng)
        rng = jax.ShapeDtypeStruct(rng.shape, rng.dtype, sharding=state.step.sharding)
    else:
        rng = jax.random.key_data(rng)
    tree = state._asdict() | {"rng": rng}
    tree[OBJECTIVE_STATE] = tree.pop("objective_state")
    return tree if order is None else tree | {"order": order}


def from_tree(tree: Tree) -> tuple[TrainState, np.ndarray | None]:
    """Returns (state, order) of what `to_tree` made."""
    order = tree.pop("order", None)
    rng = jax.random.wrap_key_data(tree.pop("rng"))
    objective_state = tree.pop(OBJECTIVE_STATE) or {}  # Orbax restores an empty dict as None
    state = TrainState(rng=rng, objective_state=objective_state, **tree)
    return state, None if order is None else np.asarray(order)


def part_checksums(tree: Tree) -> dict[str, Sequence[int]]:
    """Returns the checksums of the leaves of each part of a tree, in the order of all its leaves."""
    found = np.asarray(leaf_checksums(tree))
    parts: dict[str, Sequence[int]] = {}
    start = 0
    for name in sorted(tree):
        count = len(jax.tree.leaves(tree[name]))
        parts[name] = found[start : start + count].tolist()
        start += count
    return parts


def shapes_digest(part: Tree) -> str:
    """Returns a digest of path, dtype and shape of all leaves; a flipped bit may make floats integers."""
    lines = [
        f"{_path(path)} {np.dtype(leaf.dtype)} {tuple(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(part)
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def in_saved_order(part: Tree) -> Iterator[Any]:
    """Yields leaves as they were in a state, whose named tuples of optax come back as dicts."""
    orders = {
        frozenset(kind._fields): kind._fields
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "optax"
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
    }

    def walk(node: Tree) -> Iterator[Any]:
        if isinstance(node, dict):
            for key in orders.get(frozenset(node), sorted(node)):
                yield from walk(node[key])
        elif isinstance(node, (list, tuple)):
            for inner in node:
                yield from walk(inner)
        elif node is not None:
            yield node

    return walk(part)


def require_held(tree: Tree, folder: Path) -> None:
    """Raises ValueError where the arrays that a tree describes are far larger than the files of a folder."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    arrays = [leaf for leaf in leaves if hasattr(leaf, "shape")]
    claimed = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in arrays)
    if is_bucket(folder):
        held = bytes_in(folder)
    else:
        held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if claimed > FREE_BYTES + MAX_BYTES_PER_FILE_BYTE * held:
        raise ValueError(f"its arrays claim {claimed} bytes, far more than the {held} of its files")


def differing_leaves(saved: Tree, wanted: Tree) -> list[str]:
    """Returns one line a leaf whose presence or shape differs."""

    def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
        return {_path(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}

    saved, wanted = shapes(saved), shapes(wanted)
    return [
        f"{path}: saved {saved.get(path, 'nothing')}, wanted {wanted.get(path, 'nothing')}"
        for path in sorted(saved.keys() | wanted.keys())
        if saved.get(path) != wanted.get(path)
    ]


def _path(path: tuple[Any, ...]) -> str:
    """Returns a path that is the same whether containers came back as tuples, lists, named tuples or
    dicts."""
    names = [
        str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry)))) for entry in path
    ]
    return "/".join(names)
