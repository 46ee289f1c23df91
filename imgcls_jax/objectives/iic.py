"""Invariant Information Clustering: classes found without labels, as the clusters on which an image and its
transform agree (Ji, Henriques, Vedaldi 2019, arXiv:1807.06653).

A backbone carries two heads: one with as many clusters as there are classes, and an auxiliary one with
several times as many. Each has several sub-heads, whose losses are averaged. Whole epochs train one head or
the other. `views[0]` is an image, lightly transformed at most, and every further view is a transform of it;
each of those makes a pair with views[0] (the authors' repeated data loaders).

Differences: BatchNorm keeps running statistics and uses them to predict; the authors' networks for MNIST and
CIFAR use the batch's own. The sub-head with the lowest running mean of its loss answers. That mean covers
about an epoch, and every step updates it for both heads; the authors take the loss of the last epoch. Epochs
are shuffled unless `shuffled` is False: their code takes the images in the order of the files.

objective_state:
  batch_stats: the backbone's running statistics, float32, {} where it has none.
  subhead_loss: {"clusters", "overclusters"}: float32 [S], the running mean of each sub-head's loss, in nats.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.contracts.backbone import apply_backbone, init_backbone
from imgcls_jax.contracts.objective import (
    Batch,
    EpochPlan,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    require_between,
)
from imgcls_jax.layers import heads
from imgcls_jax.losses import mutual_information_loss


def make(
    backbone: Any,
    task: Task,
    *,
    num_clusters: int = 0,
    num_overclusters: int = 0,
    num_subheads: int = 5,
    marginal_weight: float = 1.0,
    head_epochs: Sequence[int] = (1, 1),
    overclusters_first: bool = False,
    head_std: float = 0.0,
    shuffled: bool = True,
) -> Objective:
    """Returns the objective.

    Args:
      backbone: module of models/.
      task: steps_per_epoch and axis_name are read, and num_classes where num_clusters is 0.
      num_clusters: K, at least 2; 0 for the number of classes.
      num_overclusters: of the auxiliary head, at least 2; 0 for five times K.
      num_subheads: S, of each head.
      marginal_weight: lambda of the loss, at least 0; above 1 it asks for evener clusters.
      head_epochs: how many epochs in a row belong to the clusters' head and how many to the auxiliary one;
        (1, 0) leaves the auxiliary one out.
      overclusters_first: whether the run begins with the auxiliary head's epochs.
      head_std: of the normal distribution that the heads are drawn from, biases 0; the authors' is 0.01. 0
        for PyTorch's usual initializer.
      shuffled: False takes the examples of every epoch in their own order, the same ones together, as the
        authors do. The batch dimension is fixed, so the examples after the last whole batch are not trained
        on then; the authors' last batch is smaller.

    Raises:
      ValueError: a number is out of range.
    """
    num_clusters = num_clusters or task.num_classes
    sizes = {"clusters": num_clusters, "overclusters": num_overclusters or 5 * num_clusters}
    if min(*sizes.values()) < 2 or num_subheads < 1:
        raise ValueError(
            "objective.num_clusters and num_overclusters are at least 2 and num_subheads at least 1; got "
            f"{num_clusters}, {num_overclusters} and {num_subheads}"
        )
    require_between(0, math.inf, marginal_weight=marginal_weight, head_std=head_std)
    if len(head_epochs) != 2 or min(head_epochs) < 0 or head_epochs[0] < 1:
        raise ValueError(
            "objective.head_epochs holds two numbers of epochs, at least one for the clusters' head; got "
            f"{tuple(head_epochs)}"
        )
    layers = {name: heads.Linear(size) for name, size in sizes.items()}
    learner = _IIC(
        backbone,
        layers,
        task,
        num_subheads,
        marginal_weight,
        tuple(head_epochs),
        overclusters_first,
        head_std,
    )
    return Objective(
        batch_keys=("views",),
        init=learner.init,
        loss=learner.loss,
        predict=learner.predict,
        plan_epoch=None if shuffled else functools.partial(_in_order, task.num_examples),
        in_parts=(
            "this is another loss: the joint distribution of the clusters is estimated from each part alone, "
            "which overstates the mutual information; a smaller train.batch_size says the same openly"
        ),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _IIC:
    """The algorithm; the attributes are arguments of `make`, or made of them.

    Attributes:
      layers: {"clusters", "overclusters"}: the linear layer of a sub-head of each head.
    """

    backbone: Any
    layers: dict[str, Any]
    task: Task
    num_subheads: int
    marginal_weight: float
    head_epochs: tuple[int, ...]
    overclusters_first: bool
    head_std: float

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        rng_backbone, *rng_heads = jax.random.split(rng, 1 + len(self.layers))
        params, batch_stats, features = init_backbone(self.backbone, rng_backbone, batch["views"][0])
        params = {"backbone": params}
        for rng_head, (name, layer) in zip(rng_heads, self.layers.items(), strict=True):
            params[name] = jax.vmap(
                lambda rng, layer=layer: layer.init(rng, features.embedding, train=False)["params"]
            )(jax.random.split(rng_head, self.num_subheads))
            if self.head_std:
                kernel = params[name]["classifier"]["kernel"]
                drawn = self.head_std * jax.random.normal(rng_head, kernel.shape, kernel.dtype)
                params[name] = {"classifier": {"kernel": drawn, "bias": jnp.zeros(drawn.shape[::2])}}
        losses = {name: jnp.zeros(self.num_subheads) for name in self.layers}
        return params, {"batch_stats": batch_stats, "subhead_loss": losses}

    def subheads(self, params: Params, name: str, embedding: jax.Array) -> jax.Array:
        """Returns the logits of a head's sub-heads, float32 [S, B, K]."""
        layer = self.layers[name]
        return jax.vmap(lambda own: layer.apply({"params": own}, embedding, train=False))(params[name])

    def trains_overclusters(self, step: jax.Array) -> jax.Array:
        """Returns bool, whether the step's epoch belongs to the auxiliary head."""
        own_epochs, auxiliary_epochs = self.head_epochs
        epoch = step // self.task.steps_per_epoch % (own_epochs + auxiliary_epochs)
        return epoch < auxiliary_epochs if self.overclusters_first else epoch >= own_epochs

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        first, others = _pairs(batch["views"])
        rng_first, rng_others = jax.random.split(rng)
        run = functools.partial(apply_backbone, self.backbone, params["backbone"], train=True)
        features, batch_stats = run(objective_state["batch_stats"], first, rng=rng_first)
        transformed, batch_stats = run(batch_stats, others, rng=rng_others)
        losses = {}
        for name in self.layers:
            own = jax.nn.softmax(self.subheads(params, name, features.embedding))  # [S, B, K]
            theirs = jax.nn.softmax(self.subheads(params, name, transformed.embedding))  # [S, V * B, K]
            theirs = jnp.mean(theirs.reshape(self.num_subheads, -1, *own.shape[1:]), axis=1)
            losses[name] = mutual_information_loss(
                own, theirs, marginal_weight=self.marginal_weight, axis_name=self.task.axis_name
            )  # [S]
        means = {name: jnp.mean(values) for name, values in losses.items()}
        value = jnp.where(self.trains_overclusters(step), means["overclusters"], means["clusters"])
        running = jax.tree.map(
            lambda mean, new: mean + (jax.lax.stop_gradient(new) - mean) / self.task.steps_per_epoch,
            objective_state["subhead_loss"],
            losses,
        )
        metrics = {"loss": value} | {f"{name}_loss": mean for name, mean in means.items()}
        return value, (objective_state | {"batch_stats": batch_stats, "subhead_loss": running}, metrics)

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        features, _ = apply_backbone(
            self.backbone, params["backbone"], objective_state["batch_stats"], batch["image"], train=False
        )
        logits = {name: self.subheads(params, name, features.embedding) for name in self.layers}
        best = {
            name: values[jnp.argmin(objective_state["subhead_loss"][name])] for name, values in logits.items()
        }
        return {
            "logits": best["clusters"],
            "subhead_logits": jnp.moveaxis(logits["clusters"], 0, 1),
            "overcluster_logits": best["overclusters"],
            "embedding": features.embedding,
        }


def _in_order(num_examples: int, params: Params, objective_state: ObjectiveState, *_: Any) -> EpochPlan:
    """Plans an epoch in the order of the examples."""
    return EpochPlan(params, objective_state, np.arange(num_examples))


def _pairs(views: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns the first view [B, H, W, C] and all others in a row [(V - 1) B, H, W, C].

    Raises:
      ValueError: there is no second view.
    """
    if len(views) < 2:
        raise ValueError(
            "IIC compares an image with its transforms: data.view_transforms needs two lines or more, the "
            f"plain one first; got {len(views)}"
        )
    return views[0], jnp.concatenate(views[1:])
