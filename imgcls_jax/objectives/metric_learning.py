"""Metric learning: classification whose embedding also serves to compare images of classes never learned.

The loss is a weighted sum of three terms of losses/metric_learning.py: the classes, with a margin on the
cosine (CosFace, arXiv:1801.09414; ArcFace, arXiv:1801.07698) or without; the centre loss (Wen et al., ECCV
2016); and the triplet loss (arXiv:1503.03832, arXiv:1703.07737) of embeddings of L2 norm 1. With a margin the
head is `Cosine`, else the linear one. `predict` returns the backbone's embedding, which `knn` and `retrieval`
compare by the cosine; the papers of the margins put a further linear layer and BatchNorm before it.

Triplets need several images of a class in a batch: `data.images_per_class`.

params: those of contracts/classifier.py.
objective_state: those of contracts/classifier.py, and with a center_weight
  centers: float32 [K, D], one a class, which start at 0.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.contracts.classifier import Classifier, make_classifier
from imgcls_jax.contracts.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    require_between,
    require_one_of,
)
from imgcls_jax.losses import (
    arcface,
    center_loss,
    cosface,
    l2_normalize,
    moved_centers,
    softmax_cross_entropy,
    triplet,
    zero_one,
)

MARGINS = {"cosface": 0.35, "arcface": 0.5, "softmax": 0.0}  # those of the papers
MININGS = ("hard", "all")
IN_PARTS = "triplets are formed of the images of a part alone, and the centers move after each part"


def make(
    backbone: Any,
    task: Task,
    *,
    loss: str = "cosface",
    margin: float | None = None,
    scale: float = 30.0,
    class_weight: float = 1.0,
    center_weight: float = 0.0,
    center_rate: float = 0.5,
    triplet_weight: float = 0.0,
    triplet_margin: float = 0.2,
    triplet_mining: str = "hard",
    ema_decay: float | None = None,
    ema_warmup: bool = True,
    ema_statistics: int = 0,
    dropout: float = 0.0,
) -> Objective:
    """Returns the objective.

    Args:
      backbone: module of models/.
      task: num_classes and axis_name are read.
      loss: of the classes: "cosface", "arcface", or "softmax" on the linear head.
      margin: of cosface, a difference of cosines, and of arcface, radians below pi / 2; None for the paper's,
        0.35 and 0.5. 0 leaves the softmax of scaled cosines. softmax has none.
      scale: of the cosines, positive. The papers have 64 for thousands of classes.
      class_weight: of that loss, >= 0; with 0 the logits are never trained.
      center_weight, center_rate: of the centre loss, >= 0, and how fast the centers follow, in [0, 1]. The
        paper has 0.003 and 0.5, for embeddings of any length.
      triplet_weight, triplet_margin, triplet_mining: of the triplet loss, >= 0; its margin, >= 0, between
        Euclidean distances, which lie in [0, 2]; "hard" or "all", as `triplet` has them.
      ema_decay, ema_warmup, ema_statistics, dropout: as `make_classifier` has them.

    Raises:
      ValueError: an unknown loss or mining, a number out of range, or no weight above 0.
    """
    require_one_of(tuple(MARGINS), loss=loss)
    require_one_of(MININGS, triplet_mining=triplet_mining)
    weights = dict(class_weight=class_weight, center_weight=center_weight, triplet_weight=triplet_weight)
    require_between(0, math.inf, triplet_margin=triplet_margin, **weights)
    require_between(0, 1, center_rate=center_rate)
    if not any(weights.values()):
        raise ValueError(
            "objective.class_weight, center_weight and triplet_weight are all 0: no loss is left"
        )
    margin = MARGINS[loss] if margin is None else margin
    if not 0 <= margin < (math.pi / 2 if loss == "arcface" else math.inf) or (margin and loss == "softmax"):
        raise ValueError(
            "objective.margin is at least 0, below pi / 2 for arcface, and none for softmax; got "
            f"{margin} for {loss}"
        )
    if not scale > 0:
        raise ValueError(f"objective.scale is positive; got {scale}")
    cosine: dict[str, Any] = {"head": "cosine", "head_fields": {"scale": scale}}
    classifier = make_classifier(
        backbone,
        task.num_classes,
        dropout=dropout,
        ema_decay=ema_decay,
        ema_warmup=ema_warmup,
        ema_statistics=ema_statistics,
        **({"head": "linear"} if loss == "softmax" else cosine),
    )
    learner = _MetricLearning(
        classifier,
        task,
        loss,
        margin,
        scale,
        class_weight,
        center_weight,
        center_rate,
        triplet_weight,
        triplet_margin,
        triplet_mining,
    )
    return Objective(
        batch_keys=("image", "label"),
        init=learner.init,
        loss=learner.loss,
        predict=classifier.predict,
        after_update=classifier.after_update,
        reads_pixels=False,
        in_parts=IN_PARTS if triplet_weight or center_weight else "",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _MetricLearning:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    classifier: Classifier
    task: Task
    name: str
    margin: float
    scale: float
    class_weight: float
    center_weight: float
    center_rate: float
    triplet_weight: float
    triplet_margin: float
    triplet_mining: str

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        params, objective_state = self.classifier.init(rng, batch["image"])
        if self.center_weight:
            predicted = jax.eval_shape(self.classifier.predict, params, objective_state, batch)
            shape = (self.task.num_classes, predicted["embedding"].shape[1])
            objective_state["centers"] = jnp.zeros(shape, jnp.float32)
        return params, objective_state

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        rng_backbone, rng_head = jax.random.split(rng)
        features, batch_stats = self.classifier.features(
            params, objective_state, batch["image"], train=True, rng=rng_backbone
        )
        logits = self.classifier.logits(params, objective_state, features, rng=rng_head)
        losses, moved = self.losses(logits, features.embedding, batch["label"], objective_state)
        metrics = {name: jnp.mean(values) for name, values in losses.items()}
        value = sum((getattr(self, f"{name}_weight") * mean for name, mean in metrics.items()), jnp.zeros(()))
        metrics = {f"{name}_loss": mean for name, mean in metrics.items()}
        metrics |= {"loss": value, "accuracy": 1 - jnp.mean(zero_one(logits, batch["label"]))}
        return value, (objective_state | moved | {"batch_stats": batch_stats}, metrics)

    def losses(
        self, logits: jax.Array, embedding: jax.Array, labels: jax.Array, objective_state: ObjectiveState
    ) -> tuple[dict[str, jax.Array], ObjectiveState]:
        """Returns each term that has a weight, float32 [B], and what it moves of the objective state."""
        losses, moved, axis_name = {}, {}, self.task.axis_name
        if self.class_weight:
            losses["class"] = self.class_losses(logits, labels)
        if self.center_weight:
            losses["center"] = center_loss(embedding, labels, objective_state["centers"])
            moved["centers"] = moved_centers(
                objective_state["centers"], embedding, labels, rate=self.center_rate, axis_name=axis_name
            )
        if self.triplet_weight:
            losses["triplet"] = triplet(
                l2_normalize(embedding),
                labels,
                margin=self.triplet_margin,
                mining=self.triplet_mining,
                axis_name=axis_name,
            )
        return losses, moved

    def class_losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns the loss of the classes, float32 [B]; logits are cosines times the scale, or linear."""
        if self.name == "softmax":
            return softmax_cross_entropy(logits, labels)
        margin_loss = {"cosface": cosface, "arcface": arcface}[self.name]
        return margin_loss(logits / self.scale, labels, margin=self.margin, scale=self.scale)
