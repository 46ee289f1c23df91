"""SimCLR: two random views of an image agree, and differ from those of all other images.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", arXiv:2002.05709 (2020);
the projector of three layers is that of version 2, arXiv:2006.10029. Views are the lines of
data.view_transforms; BatchNorm sees both views of the whole batch together, over all devices, and so does the
loss. Differences: the loss is the paper's mean over the 2B views, half of the sum that the released code
minimizes; there is no classifier trained beside (evaluators/linear_probe.py measures the same afterwards).

objective_state:
  batch_stats: the backbone's running statistics, float32, {} where it has none.
  projector_stats: {"bn1": {"mean", "var"}, ...}, float32 [width of that layer], the projector's.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.contracts.backbone import apply_backbone, init_backbone
from imgcls_jax.contracts.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    require_between,
)
from imgcls_jax.losses import nt_xent


class Projector(nn.Module):
    """An MLP from the embedding to where the loss compares: linear layers without bias, each with BatchNorm.

    ReLU follows all but the last, whose BatchNorm has no offset. The hidden layers are as wide as the input.

    Attributes:
      layers: number of linear layers.
      dim: of the output.
      std: of the normal distribution that kernels are drawn from; 0 for LeCun's.
    """

    layers: int
    dim: int
    std: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Args: x float [B, D]; train: BatchNorm uses the batch. Returns: float32 [B, dim]."""
        x, hidden = x.astype(jnp.float32), x.shape[-1]
        kernel_init = nn.initializers.normal(self.std) if self.std else nn.initializers.lecun_normal()
        for layer in range(1, self.layers + 1):
            last = layer == self.layers
            width = self.dim if last else hidden
            x = nn.Dense(width, use_bias=False, kernel_init=kernel_init, name=f"fc{layer}")(x)
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                use_bias=not last,
                name=f"bn{layer}",
            )(x)
            x = x if last else nn.relu(x)
        return x


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
    projector = Projector(projection_layers, projection_dim, projector_std)
    learner = _SimCLR(backbone, projector, temperature, task.axis_name)
    return Objective(
        batch_keys=("views",),
        init=learner.init,
        loss=learner.loss,
        predict=learner.predict,
        in_parts=(
            "this is another loss: the images that a view must differ from are those of its own part; a "
            "smaller train.batch_size says the same openly"
        ),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _SimCLR:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    backbone: Any
    projector: Projector
    temperature: float
    axis_name: str | None

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        rng_backbone, rng_projector = jax.random.split(rng)
        params, batch_stats, features = init_backbone(self.backbone, rng_backbone, _two_views(batch)[0])
        variables = self.projector.init(rng_projector, features.embedding, train=False)
        return (
            {"backbone": params, "projector": variables["params"]},
            {"batch_stats": batch_stats, "projector_stats": variables["batch_stats"]},
        )

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        # Side by side, not one after the other: a batch split over devices stays where it is.
        images = jnp.stack(_two_views(batch), axis=1)  # [B, 2, H, W, C]
        features, batch_stats = apply_backbone(
            self.backbone,
            params["backbone"],
            objective_state["batch_stats"],
            images.reshape(-1, *images.shape[2:]),
            train=True,
            rng=rng,
        )
        projected, moved = self.projector.apply(
            {"params": params["projector"], "batch_stats": objective_state["projector_stats"]},
            features.embedding,
            train=True,
            mutable=["batch_stats"],
        )
        projected = projected.reshape(-1, 2, self.projector.dim)
        losses = nt_xent(
            projected[:, 0], projected[:, 1], temperature=self.temperature, axis_name=self.axis_name
        )
        value = jnp.mean(losses)
        objective_state = {"batch_stats": batch_stats, "projector_stats": moved["batch_stats"]}
        return value, (objective_state, {"loss": value})

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        features, _ = apply_backbone(
            self.backbone, params["backbone"], objective_state["batch_stats"], batch["image"], train=False
        )
        return {"embedding": features.embedding}


def _two_views(batch: Batch) -> tuple[jax.Array, jax.Array]:
    views = batch["views"]
    if len(views) != 2 or views[0].shape != views[1].shape:
        raise ValueError(
            "simclr compares two views of one size: give config.data.view_transforms two lines that end in "
            f"one; got {[view.shape for view in views]}"
        )
    return views
