"""BYOL and SimSiam: from one view of an image, predict what another network makes of the other view.

Grill et al., "Bootstrap Your Own Latent", arXiv:2006.07733 (2020): the other network is an average of the
first one's params, objective_state["target"]. Chen and He, "Exploring Simple Siamese Representation
Learning", arXiv:2011.10566 (2021): it is the first network itself (`target_decay` 0), whose gradient is
stopped there. Neither compares an image with others. Views are the lines of data.view_transforms; each view
passes by itself, so that BatchNorm sees one view of the batch. SimSiam's paper writes the loss as a negative
cosine; here it is BYOL's 2 - 2 cos, whose gradient is twice that.

params: those of contracts/embedder.py, and `predictor`.

objective_state: those of contracts/embedder.py, `predictor_stats`, and with a target_decay `target`, a copy
of the params backbone and projector, float32.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.contracts.embedder import NETWORK, Embedder, make_target, two_views
from imgcls_jax.contracts.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    keep_objective_state,
)
from imgcls_jax.layers.projector import Projector
from imgcls_jax.losses import l2_normalize, normalized_distance


def make(
    backbone: Any,
    task: Task,
    *,
    target_decay: float = 0.99,
    target_decay_rises: bool = True,
    projection_hidden: tuple[int, ...] = (4096,),
    projection_dim: int = 256,
    projection_norm: bool = False,
    prediction_hidden: int = 4096,
) -> Objective:
    """Returns the objective; predict gives the backbone's embedding. The defaults are BYOL's.

    Args:
      backbone: module of models/.
      task: total_steps is read.
      target_decay: of the average at the first step, in [0, 1); BYOL's is 0.996 for 1,000 epochs, 0.99 for
        300. 0 learns from the network itself, as SimSiam does.
      target_decay_rises: whether the decay rises to 1 at the last step.
      projection_hidden, projection_dim: widths of the projector's linear layers; SimSiam's are (2048, 2048)
        and 2048.
      projection_norm: whether BatchNorm follows the projector's last layer, as in SimSiam.
      prediction_hidden: width of the predictor's hidden layer; SimSiam's is 512.

    Raises:
      ValueError: a decay out of range; later, where a batch has not exactly two views.
    """
    target = make_target(target_decay, task, rises=target_decay_rises)
    projector = Projector((*projection_hidden, projection_dim), last_norm=projection_norm, last_bias=False)
    embedder = Embedder(backbone, projector)
    # SimSiam's predictor ends in a bias, BYOL's does not; a bias costs BYOL nothing but its own params.
    predictor = Projector((prediction_hidden, projection_dim), last_bias=not target_decay)
    learner = _BYOL(embedder, predictor, averaged=bool(target_decay))
    return Objective(
        batch_keys=("views",),
        init=learner.init,
        loss=learner.loss,
        predict=embedder.predict,
        after_update=target.after_update if target_decay else keep_objective_state,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _BYOL:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    embedder: Embedder
    predictor: Projector
    averaged: bool

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        rng, rng_predictor = jax.random.split(rng)
        params, objective_state = self.embedder.init(rng, two_views(batch, "byol")[0])
        width = self.embedder.projector.widths[-1]
        variables = self.predictor.init(rng_predictor, jnp.zeros((2, width)), train=False)
        params["predictor"] = variables["params"]
        objective_state["predictor_stats"] = variables["batch_stats"]
        if self.averaged:
            objective_state["target"] = {name: jax.tree.map(jnp.copy, params[name]) for name in NETWORK}
        return params, objective_state

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        views = two_views(batch, "byol")
        projected, objective_state = self.embedder.project_each(params, objective_state, views, rng)
        targets = projected
        if self.averaged:  # the target's statistics are those of the batch; its running ones are nobody's
            targets, _ = self.embedder.project_each(objective_state["target"], objective_state, views, rng)
        value, stats = jnp.float32(0), objective_state["predictor_stats"]
        for own, other in zip(projected, reversed(targets), strict=True):
            predicted, moved = self.predictor.apply(
                {"params": params["predictor"], "batch_stats": stats},
                own,
                train=True,
                mutable=["batch_stats"],
            )
            stats = moved["batch_stats"]
            value += jnp.mean(normalized_distance(predicted, jax.lax.stop_gradient(other)))
        return value, (objective_state | {"predictor_stats": stats}, {"spread": _spread(projected[0])})


def _spread(projected: jax.Array) -> jax.Array:
    """Returns the mean deviation of normalized projections times sqrt(D): about 1, and 0 on a collapse."""
    return jnp.mean(jnp.std(l2_normalize(projected), axis=0)) * projected.shape[1] ** 0.5
