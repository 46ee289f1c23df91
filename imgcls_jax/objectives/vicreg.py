"""VICReg: two views agree, while every dimension varies over the batch and repeats no other.

Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
arXiv:2105.04906 (2022). Nothing is compared with other images, and no network is averaged. Views are the two
lines of data.view_transforms; each passes by itself, as the authors' do.

params, objective_state: those of contracts/embedder.py.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.contracts.embedder import Embedder, two_views
from imgcls_jax.contracts.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    require_between,
)
from imgcls_jax.layers.projector import Projector
from imgcls_jax.losses import covariance_penalty, variance_hinge


def make(
    backbone: Any,
    task: Task,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    projection_widths: tuple[int, ...] = (8192, 8192, 8192),
) -> Objective:
    """Returns the objective; predict gives the backbone's embedding.

    Args:
      backbone: module of models/.
      task: axis_name is read.
      invariance, variance, covariance: weights of the three terms, >= 0 (lambda, mu and nu of eq. 6).
      projection_widths: of the projector's linear layers.

    Raises:
      ValueError: a negative weight; later, where a batch has not exactly two views.
    """
    require_between(0, math.inf, invariance=invariance, variance=variance, covariance=covariance)
    embedder = Embedder(backbone, Projector(projection_widths, last_bias=False))
    learner = _VICReg(embedder, invariance, variance, covariance, task.axis_name)
    return Objective(
        batch_keys=("views",),
        init=lambda rng, batch: embedder.init(rng, two_views(batch, "vicreg")[0]),
        loss=learner.loss,
        predict=embedder.predict,
        in_parts="this is another loss: variance and covariance are those of each part",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _VICReg:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    embedder: Embedder
    invariance: float
    variance: float
    covariance: float
    axis_name: str | None

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        views = two_views(batch, "vicreg")
        projected, objective_state = self.embedder.project_each(params, objective_state, views, rng)
        apart = jnp.mean((projected[0] - projected[1]) ** 2)
        hinges = [jnp.mean(variance_hinge(one, axis_name=self.axis_name)) for one in projected]
        repeated = [jnp.mean(covariance_penalty(one, axis_name=self.axis_name)) for one in projected]
        # The authors' code halves the sum of the hinges, and not that of the covariances.
        terms = {
            "invariance": apart,
            "variance": (hinges[0] + hinges[1]) / 2,
            "covariance": repeated[0] + repeated[1],
        }
        value = (
            self.invariance * terms["invariance"]
            + self.variance * terms["variance"]
            + self.covariance * terms["covariance"]
        )
        return value, (objective_state, terms)
