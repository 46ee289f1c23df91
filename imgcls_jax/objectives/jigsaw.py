"""Labels for free: in which order do the pieces of an image come.

Noroozi and Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles",
arXiv:1603.09246 (2016). An image is cut into grid x grid cells; of each cell a patch is taken at a random
place, so that its borders tell nothing; the patches are shuffled by one of a fixed set of permutations, which
the network names. One trunk sees each patch, a linear layer of `patch_dim` with BatchNorm and ReLU follows,
and a linear head reads the patches in their shown order. Each patch is normalized by itself, so that a common
shade tells nothing. The permutations are far apart: each next one has the largest mean Hamming distance to
those already taken.

Difference: the authors train an AlexNet of their own on gray or colored patches; grayscale is a matter of
data.train_transforms here.

params: those of contracts/embedder.py, and `head`, {"kernel": float32 [grid^2 patch_dim, P], "bias": [P]}.

objective_state: those of contracts/embedder.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.contracts.embedder import Embedder
from imgcls_jax.contracts.objective import Batch, Metrics, Objective, ObjectiveState, Params, Task
from imgcls_jax.layers.projector import Projector
from imgcls_jax.losses import softmax_cross_entropy, zero_one


def make(
    backbone: Any,
    task: Task,
    *,
    grid: int = 3,
    patch: int = 64,
    num_permutations: int = 100,
    permutation_seed: int = 0,
    patch_dim: int = 1000,
) -> Objective:
    """Returns the objective; predict gives the backbone's embedding of the whole image.

    Args:
      backbone: module of models/, for images of both sizes, the patch's and the whole one's.
      task: image_shape is read.
      grid: cells along each side, 2 or 3.
      patch: side of a patch in pixels, at most that of a cell.
      num_permutations: P, at most (grid^2)!.
      permutation_seed: of the first permutation.
      patch_dim: width of each patch's linear layer.

    Raises:
      ValueError: a grid, patch or number that does not fit, or a backbone whose params depend on the size of
        the images.
    """
    cell = min(task.image_shape[:2]) // max(grid, 1)
    if grid not in (2, 3) or not 0 < patch <= cell:
        raise ValueError(
            "objective.grid is 2 or 3, and objective.patch at most a cell of the image; got "
            f"{grid} and {patch}, of images of {task.image_shape[0]} x {task.image_shape[1]}"
        )
    require_any_size(backbone, task, patch)
    permutations = far_permutations(grid**2, num_permutations, permutation_seed)
    embedder = Embedder(backbone, Projector((patch_dim,), last_norm=True))
    learner = _Jigsaw(embedder, nn.Dense(num_permutations), permutations, grid, patch)
    return Objective(batch_keys=("image",), init=learner.init, loss=learner.loss, predict=embedder.predict)


def require_any_size(backbone: Any, task: Task, patch: int) -> None:
    """Raises ValueError where the params for a patch are others than those for a whole image."""
    channels = task.image_shape[2]

    def shapes(height: int, width: int) -> Any:
        images = jax.ShapeDtypeStruct((2, height, width, channels), jnp.float32)
        return jax.eval_shape(lambda x: backbone.init(jax.random.key(0), x, train=False), images)["params"]

    try:
        small, whole = shapes(patch, patch), shapes(*task.image_shape[:2])
    except ValueError as error:
        raise ValueError(
            f"jigsaw's trunk sees patches of {patch} pixels, which {type(backbone).__name__} does not take: "
            f"{error}"
        ) from error
    if jax.tree.map(jnp.shape, small) != jax.tree.map(jnp.shape, whole):
        raise ValueError(
            f"jigsaw's trunk sees patches of {patch} pixels and later whole images, and the params of "
            f"{type(backbone).__name__} depend on the size: take a network with global pooling, such as a "
            "ResNet"
        )


def far_permutations(length: int, count: int, seed: int) -> np.ndarray:
    """Chooses permutations one by one, each with the largest mean Hamming distance to those before it.

    Args:
      length: M, of each permutation, at most 9.
      count: P, at most M!.
      seed: draws the first one; of equals the first in lexicographic order is taken.

    Returns:
      int64 [P, M], distinct rows.

    Raises:
      ValueError: count is not in [2, M!].
    """
    if not 2 <= count <= math.factorial(length):
        raise ValueError(
            f"objective.num_permutations lies in [2, {math.factorial(length)}], the orders of {length} "
            f"cells; got {count}"
        )
    candidates = np.array(list(itertools.permutations(range(length))), np.int8)
    chosen = [int(np.random.default_rng(seed).integers(len(candidates)))]
    distance = np.zeros(len(candidates), np.int64)
    for _ in range(count - 1):
        distance += np.sum(candidates != candidates[chosen[-1]], axis=1)
        distance[chosen] = -1
        chosen.append(int(np.argmax(distance)))
    return candidates[chosen].astype(np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class _Jigsaw:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    embedder: Embedder
    head: nn.Module
    permutations: np.ndarray
    grid: int
    patch: int

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        rng, rng_head = jax.random.split(rng)
        images = batch["image"][:, : self.patch, : self.patch]
        params, objective_state = self.embedder.init(rng, images)
        width = self.grid**2 * self.embedder.projector.widths[-1]
        params["head"] = self.head.init(rng_head, jnp.zeros((1, width)))["params"]
        return params, objective_state

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        rng_cut, rng_order, rng_network = jax.random.split(rng, 3)
        patches = cut_patches(rng_cut, batch["image"], self.grid, self.patch)  # [B, M, P, P, C]
        rows, cells = patches.shape[:2]
        labels = jax.random.randint(rng_order, (rows,), 0, len(self.permutations))
        order = jnp.asarray(self.permutations)[labels]  # [B, M]
        shown = jnp.take_along_axis(patches, order[:, :, None, None, None], axis=1)
        projected, objective_state = self.embedder.project(
            params, objective_state, shown.reshape(-1, *shown.shape[2:]), rng_network
        )
        kernel, bias = params["head"]["kernel"], params["head"]["bias"]
        logits = nn.relu(projected).reshape(rows, -1) @ kernel + bias
        metrics = {"accuracy": 1 - jnp.mean(zero_one(logits, labels))}
        return jnp.mean(softmax_cross_entropy(logits, labels)), (objective_state, metrics)


def cut_patches(rng: jax.Array, images: jax.Array, grid: int, patch: int) -> jax.Array:
    """Cuts a patch at a random place of every cell, and normalizes each to mean 0 and deviation 1.

    Args:
      rng: key.
      images: float [B, H, W, C].
      grid: cells along each side.
      patch: side of a patch.

    Returns:
      float32 [B, grid^2, patch, patch, C], cells row by row.
    """
    rows, height, width, channels = images.shape
    free = jnp.array([height // grid - patch + 1, width // grid - patch + 1])
    corners = jax.random.randint(rng, (rows, grid**2, 2), 0, free)
    places = np.stack(np.divmod(np.arange(grid**2), grid), axis=1) * np.array([height // grid, width // grid])

    def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (patch, patch, channels))

    patches = jax.vmap(jax.vmap(cut, (None, 0)))(jnp.asarray(images, jnp.float32), corners + places)
    mean = jnp.mean(patches, axis=(2, 3, 4), keepdims=True)
    deviation = jnp.std(patches, axis=(2, 3, 4), keepdims=True)
    return (patches - mean) / (deviation + 1e-5)
