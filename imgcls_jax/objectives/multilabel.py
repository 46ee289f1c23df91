"""Multi-label classification, each label on its own: sigmoid cross-entropy or focal loss (Lin et al. 2017,
arXiv:1708.02002), with weights for rare labels.

objective_state: that of `supervised`: batch_stats, head_state, and ema with ema_decay.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.contracts.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    apply_backbone,
    require_between,
)
from imgcls_jax.layers import heads
from imgcls_jax.losses import sigmoid_cross_entropy, sigmoid_focal
from imgcls_jax.objectives import supervised

LOSSES = ("cross_entropy", "focal")


def make(
    backbone: Any,
    task: Task,
    *,
    loss: str = "cross_entropy",
    positive_weights: Sequence[float] | str = (),
    alpha: float = 0.25,
    gamma: float = 2.0,
    dropout: float = 0.0,
    ema_decay: float | None = None,
    head: str = "",
    head_fields: Mapping[str, Any] | None = None,
) -> Objective:
    """Returns the objective; batch["label"] is int32 [B, K] of 0 and 1.

    Args:
      backbone: module with the contract of models/.
      task: num_classes K, num_examples and class_counts are read.
      loss: "cross_entropy" or "focal".
      positive_weights: of cross_entropy, K numbers > 0 on the terms of the labels that apply; "balanced" for
        the negatives over the positives of each label in the training split; () for 1.
      alpha, gamma: of focal, as `sigmoid_focal` has them.
      dropout: probability, before the final linear layer.
      ema_decay: in (0, 1), of the weights that predict; None or 0 for the trained ones themselves.
      head, head_fields: as `supervised` has them.

    Raises:
      ValueError: an unknown loss, weights that do not fit, or a number out of range.
    """
    if loss not in LOSSES:
        raise ValueError(f"objective.loss is one of {', '.join(LOSSES)}; got {loss!r}")
    require_between(0, 1, alpha=alpha)
    require_between(0, math.inf, gamma=gamma)
    weights = _positive_weights(positive_weights, task)
    plain = supervised.make(
        backbone, task, dropout=dropout, ema_decay=ema_decay, head=head, head_fields=head_fields
    )
    classifier = heads.build(
        head or getattr(backbone, "head", "linear"), task.num_classes, dropout=dropout, **(head_fields or {})
    )

    def values(logits: jax.Array, targets: jax.Array) -> jax.Array:
        if loss == "focal":
            return sigmoid_focal(logits, targets, alpha=alpha, gamma=gamma)
        return sigmoid_cross_entropy(logits, targets, positive_weight=weights)

    def mean_loss(
        params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        rng_backbone, rng_head = jax.random.split(rng)
        features, batch_stats = apply_backbone(
            backbone,
            params["backbone"],
            objective_state["batch_stats"],
            batch["image"],
            train=True,
            rng=rng_backbone,
        )
        variables = {"params": params["head"], **objective_state["head_state"]}
        logits = classifier.apply(
            variables, getattr(features, classifier.reads), train=True, rngs={"dropout": rng_head}
        )
        value = jnp.mean(values(logits, batch["label"]))
        hits = (logits > 0) == (batch["label"] > 0)
        metrics = {"loss": value, "label_accuracy": jnp.mean(hits.astype(jnp.float32))}
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)

    def predict(params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        outputs = plain.predict(params, objective_state, batch)
        return outputs | {"probabilities": jax.nn.sigmoid(outputs["logits"])}

    return dataclasses.replace(plain, loss=mean_loss, predict=predict, multi_label=True, reads_pixels=False)


def _positive_weights(weights: Sequence[float] | str, task: Task) -> jax.Array | float:
    if isinstance(weights, str) and weights == "balanced":
        if not task.class_counts or min(task.class_counts) == 0:
            raise ValueError(
                'objective.positive_weights = "balanced" needs a source that tells labels without reading '
                f"every example, with examples of every label; it has {task.class_counts or 'no counts'}"
            )
        counts = jnp.asarray(task.class_counts, jnp.float32)
        return (task.num_examples - counts) / counts
    if isinstance(weights, str) or len(weights) not in (0, task.num_classes) or any(w <= 0 for w in weights):
        raise ValueError(
            f'objective.positive_weights is "balanced" or {task.num_classes} positive numbers, one a label; '
            f"got {weights!r}"
        )
    return jnp.asarray(weights, jnp.float32) if len(weights) else 1.0
