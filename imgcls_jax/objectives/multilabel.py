"""Multi-label classification, each label on its own: sigmoid cross-entropy with weights for rare labels,
focal or asymmetric loss (Lin et al. 2017, arXiv:1708.02002; Ridnik et al. 2020, arXiv:2009.14119).

params, objective_state: those of contracts/classifier.py.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
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
from imgcls_jax.losses import sigmoid_asymmetric, sigmoid_cross_entropy, sigmoid_focal

LOSSES = ("cross_entropy", "focal", "asymmetric")


def make(
    backbone: Any,
    task: Task,
    *,
    loss: str = "cross_entropy",
    positive_weights: Sequence[float] | str = (),
    alpha: float = 0.25,
    gamma: float = 2.0,
    positive_gamma: float = 0.0,
    negative_gamma: float = 4.0,
    shift: float = 0.05,
    dropout: float = 0.0,
    ema_decay: float | None = None,
    ema_warmup: bool = True,
    ema_statistics: int = 0,
    head: str = "",
    head_fields: Mapping[str, Any] | None = None,
) -> Objective:
    """Returns the objective; batch["label"] is int32 [B, K] of 0 and 1.

    Args:
      backbone: module of models/.
      task: num_classes K, num_examples and class_counts are read.
      loss: "cross_entropy", "focal" or "asymmetric".
      positive_weights: of cross_entropy, K numbers > 0 on the terms of the labels that apply; "balanced" for
        the negatives over the positives of each label in the training split; () for 1.
      alpha, gamma: of focal, as `sigmoid_focal` has them.
      positive_gamma, negative_gamma, shift: of asymmetric, as `sigmoid_asymmetric` has them.
      dropout, ema_decay, ema_warmup, ema_statistics, head, head_fields: as `make_classifier` has them.

    Raises:
      ValueError: an unknown loss, weights that do not fit, or a number out of range.
    """
    require_one_of(LOSSES, loss=loss)
    require_between(0, 1, alpha=alpha)
    require_between(0, math.inf, gamma=gamma, positive_gamma=positive_gamma, negative_gamma=negative_gamma)
    if not 0 <= shift < 1:
        raise ValueError(f"objective.shift lies in [0, 1); got {shift}")
    weights = _positive_weights(positive_weights, task)
    classifier = make_classifier(
        backbone,
        task.num_classes,
        dropout=dropout,
        head=head,
        head_fields=head_fields,
        ema_decay=ema_decay,
        ema_warmup=ema_warmup,
        ema_statistics=ema_statistics,
    )
    if loss == "focal":
        losses = functools.partial(sigmoid_focal, alpha=alpha, gamma=gamma)
    elif loss == "asymmetric":
        losses = functools.partial(
            sigmoid_asymmetric, positive_gamma=positive_gamma, negative_gamma=negative_gamma, shift=shift
        )
    else:
        losses = functools.partial(sigmoid_cross_entropy, positive_weight=weights)
    learner = _MultiLabel(classifier, losses)
    return Objective(
        batch_keys=("image", "label"),
        init=lambda rng, batch: classifier.init(rng, batch["image"]),
        loss=learner.loss,
        predict=learner.predict,
        after_update=classifier.after_update,
        reads_pixels=False,
        multi_label=True,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _MultiLabel:
    """The algorithm.

    Attributes:
      classifier: the network.
      losses: logits float [B, K], targets [B, K] of 0 and 1 -> float32 [B], summed over the labels.
    """

    classifier: Classifier
    losses: Callable[[jax.Array, jax.Array], jax.Array]

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        rng_backbone, rng_head = jax.random.split(rng)
        features, batch_stats = self.classifier.features(
            params, objective_state, batch["image"], train=True, rng=rng_backbone
        )
        logits = self.classifier.logits(params, objective_state, features, rng=rng_head)
        value = jnp.mean(self.losses(logits, batch["label"]))
        hits = (logits > 0) == (batch["label"] > 0)
        metrics = {"loss": value, "label_accuracy": jnp.mean(hits.astype(jnp.float32))}
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        outputs = self.classifier.predict(params, objective_state, batch)
        return outputs | {"probabilities": jax.nn.sigmoid(outputs["logits"])}


def _positive_weights(weights: Sequence[float] | str, task: Task) -> jax.Array | float:
    if isinstance(weights, str) and weights == "balanced":
        if not task.class_counts or min(task.class_counts) == 0:
            raise ValueError(
                'objective.positive_weights = "balanced" needs examples of every label, and a source that '
                f"counts them without reading every example; the counts are {task.class_counts or 'unknown'}"
            )
        counts = jnp.asarray(task.class_counts, jnp.float32)
        return (task.num_examples - counts) / counts
    if isinstance(weights, str) or len(weights) not in (0, task.num_classes) or any(w <= 0 for w in weights):
        raise ValueError(
            f'objective.positive_weights is "balanced" or {task.num_classes} positive numbers, one a label; '
            f"got {weights!r}"
        )
    return jnp.asarray(weights, jnp.float32) if len(weights) else 1.0
