"""A backbone with a projector: what objectives that compare views of an image train.

params:
  backbone, projector: of the two modules.

objective_state:
  batch_stats: the backbone's running statistics, float32, {} where it has none.
  projector_stats: the projector's, {"bn1": {"mean", "var"}, ...}, float32 [width of that layer].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from imgcls_jax.contracts.backbone import apply_backbone, init_backbone
from imgcls_jax.contracts.objective import Batch, ObjectiveState, Params, Task
from imgcls_jax.layers.projector import Projector

NETWORK = ("backbone", "projector")


@dataclasses.dataclass(frozen=True, eq=False)
class Embedder:
    """Backbone and projector.

    Attributes:
      backbone: module of models/.
      projector: from the embedding to where the loss compares.
    """

    backbone: Any
    projector: Projector

    def init(self, rng: jax.Array, images: jax.Array) -> tuple[Params, ObjectiveState]:
        """Returns params and objective_state. Args: rng key; images float [B, H, W, C]."""
        rng_backbone, rng_projector = jax.random.split(rng)
        params, batch_stats, features = init_backbone(self.backbone, rng_backbone, images)
        variables = self.projector.init(rng_projector, features.embedding, train=False)
        return (
            {"backbone": params, "projector": variables["params"]},
            {"batch_stats": batch_stats, "projector_stats": variables.get("batch_stats", {})},
        )

    def project(
        self, params: Params, objective_state: ObjectiveState, images: jax.Array, rng: jax.Array
    ) -> tuple[jax.Array, ObjectiveState]:
        """Projects images, with the statistics of the batch.

        Args:
          params, objective_state: of `init`; other keys are not read.
          images: float [B, H, W, C].
          rng: for dropout and stochastic depth.

        Returns:
          float32 [B, D], and objective_state with the statistics as the images moved them.
        """
        features, batch_stats = apply_backbone(
            self.backbone, params["backbone"], objective_state["batch_stats"], images, train=True, rng=rng
        )
        projected, moved = self.projector.apply(
            {"params": params["projector"], "batch_stats": objective_state["projector_stats"]},
            features.embedding,
            train=True,
            mutable=["batch_stats"],
        )
        stats = {"batch_stats": batch_stats, "projector_stats": moved.get("batch_stats", {})}
        return projected, objective_state | stats

    def project_each(
        self, params: Params, objective_state: ObjectiveState, views: Sequence[jax.Array], rng: jax.Array
    ) -> tuple[list[jax.Array], ObjectiveState]:
        """Projects one view after the other, each with its own statistics; as `project` otherwise."""
        projections = []
        for number, view in enumerate(views):
            projected, objective_state = self.project(
                params, objective_state, view, jax.random.fold_in(rng, number)
            )
            projections.append(projected)
        return projections, objective_state

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        """Returns {"embedding": float [B, D]}, the backbone's, not the projection."""
        features, _ = apply_backbone(
            self.backbone, params["backbone"], objective_state["batch_stats"], batch["image"], train=False
        )
        return {"embedding": features.embedding}


def two_views(batch: Batch, objective: str) -> tuple[jax.Array, jax.Array]:
    """Returns the two views of a batch; raises ValueError where there are not two of one size."""
    views = batch["views"]
    if len(views) != 2 or views[0].shape != views[1].shape:
        raise ValueError(
            f"{objective} compares two views of one size: give config.data.view_transforms two lines that "
            f"end in one; got {[view.shape for view in views]}"
        )
    return views


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """An average of params that an objective keeps as objective_state["target"] and learns from.

    Eq.: target <- d_k target + (1 - d_k) params, d_k = 1 - (1 - d) (cos(pi k / K) + 1) / 2 at step k of K, as
    BYOL has it (Grill et al. 2020, arXiv:2006.07733, section 3.2).

    Attributes:
      decay: d, in [0, 1).
      total_steps: K, or 0 for the constant decay d.
    """

    decay: float
    total_steps: float

    def after_update(
        self, params: Params, objective_state: ObjectiveState, step: jax.Array
    ) -> ObjectiveState:
        """Moves the average of the params that it has."""
        share = jnp.float32(1 - self.decay)
        if self.total_steps:
            share *= (jnp.cos(math.pi * step / self.total_steps) + 1) / 2
        own = {name: params[name] for name in objective_state["target"]}
        return objective_state | {"target": optax.incremental_update(own, objective_state["target"], share)}


def make_target(decay: float, task: Task, *, rises: bool) -> Target:
    """Returns the average.

    Args:
      decay: at the first step, in [0, 1).
      task: total_steps is read.
      rises: whether the decay rises to 1 at the last step.

    Raises:
      ValueError: the decay is out of range.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"objective.target_decay lies in [0, 1); got {decay}")
    return Target(decay, float(task.total_steps) if rises else 0.0)
