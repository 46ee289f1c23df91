"""SimCLR: two random views of an image agree, and differ from those of all other images.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", arXiv:2002.05709 (2020);
the projector of three layers is that of version 2, arXiv:2006.10029. Views are the lines of
data.view_transforms; BatchNorm sees both views of the whole batch together, over all devices, and so does the
loss. Differences: the loss is the paper's mean over the 2B views, half of the sum that the released code
minimizes; there is no classifier trained beside (evaluators/linear_probe.py measures the same afterwards).

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
from imgcls_jax.losses import nt_xent


def make(
    backbone: Any,
    task: Task,
    *,
    temperature: float = 0.1,
    projection_layers: int = 2,
    projection_dim: int = 128,
    projector_std: float = 0.0,
) -> Objective:
    """Returns the objective; predict gives the backbone's embedding, not the projection.

    Args:
      backbone: module of models/.
      task: axis_name is read.
      temperature: divides the cosines, positive; the paper's is 0.1 for ImageNet, 0.5 for CIFAR-10.
      projection_layers: of the projector, at least 1; 2 in the paper, 3 in version 2.
      projection_dim: at least 1.
      projector_std: of the normal distribution that the projector's kernels are drawn from; the authors' is
        0.01. 0 for LeCun's.

    Raises:
      ValueError: a hyper-parameter out of range; later, where a batch has not exactly two views.
    """
    if not temperature > 0:
        raise ValueError(f"objective.temperature must be positive; got {temperature}")
    if projection_layers < 1 or projection_dim < 1:
        raise ValueError(
            "objective.projection_layers and projection_dim must be at least 1; got "
            f"{projection_layers} and {projection_dim}"
        )
    require_between(0, math.inf, projector_std=projector_std)
    widths = (0,) * (projection_layers - 1) + (projection_dim,)
    embedder = Embedder(backbone, Projector(widths, last_norm=True, kernel_std=projector_std))
    learner = _SimCLR(embedder, temperature, task.axis_name)
    return Objective(
        batch_keys=("views",),
        init=learner.init,
        loss=learner.loss,
        predict=embedder.predict,
        in_parts=(
            "this is another loss: the images that a view must differ from are those of its own part; a "
            "smaller train.batch_size says the same openly"
        ),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _SimCLR:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    embedder: Embedder
    temperature: float
    axis_name: str | None

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        return self.embedder.init(rng, two_views(batch, "simclr")[0])

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        # Side by side, not one after the other: a batch split over devices stays where it is.
        images = jnp.stack(two_views(batch, "simclr"), axis=1)  # [B, 2, H, W, C]
        images = images.reshape(-1, *images.shape[2:])
        projected, objective_state = self.embedder.project(params, objective_state, images, rng)
        projected = projected.reshape(-1, 2, projected.shape[-1])
        losses = nt_xent(
            projected[:, 0], projected[:, 1], temperature=self.temperature, axis_name=self.axis_name
        )
        value = jnp.mean(losses)
        return value, (objective_state, {"loss": value})
