"""Supervised classification with softmax cross-entropy.

A backbone with auxiliary classifiers (GoogLeNet, Inception v3) has a linear head on each while it trains;
their losses are added with the backbone's own `aux_weight`. Options: label smoothing, class weights
(PyTorch's reduction: the weighted sum over the sum of weights), mixup and CutMix, and an exponential moving
  average of the params, which then serves prediction.

objective_state:
  batch_stats: the backbone's running statistics, float32, {} where it has none.
  head_state: what the head keeps and does not train, {} for most: the projections of compact bilinear
    pooling.
  ema: a copy of params, float32; only with ema_decay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from imgcls_jax.contracts.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    apply_backbone,
    init_backbone,
    keep_objective_state,
    require_between,
)
from imgcls_jax.layers import heads
from imgcls_jax.losses import (
    class_weighted_mean,
    cutmix,
    effective_number_weights,
    inverse_frequency_weights,
    mixup,
    smooth_labels,
    softmax_cross_entropy,
    softmax_focal,
    zero_one,
)


def make(
    backbone: Any,
    task: Task,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | str | None = None,
    effective_beta: float = 0.999,
    focal_gamma: float = 0.0,
    logit_adjustment: float = 0.0,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    ema_decay: float | None = None,
    dropout: float = 0.0,
    head: str = "",
    head_fields: Mapping[str, Any] | None = None,
) -> Objective:
    """Returns the objective.

    Args:
      backbone: module with the contract of models/.
      task: num_classes and class_counts are read.
      label_smoothing: epsilon in [0, 1].
      class_weights: K numbers >= 0; "inverse_frequency" or "effective_number" for those functions of losses/
        on the training split's class sizes; None or () weighs all classes alike.
      effective_beta: of "effective_number", in [0, 1).
      focal_gamma: of the focal loss, which takes the cross-entropy's place where it is positive.
      logit_adjustment: tau >= 0; tau times the logarithm of each class's share of the training split is
        added to its logit while training (Menon et al. 2021, arXiv:2007.07314, equation 10); 0 for none.
      mixup_alpha, cutmix_alpha: 0 switches each off; with both on, each batch draws one of the two.
      ema_decay: in (0, 1), e.g. 0.999; None or 0 keeps no average.
      dropout: probability, before the final linear layer.
      head: class of layers/heads.py in snake case ("linear", "bilinear", ...); "" for the backbone's own.
      head_fields: attributes of that class, such as {"projection": "tensor_sketch", "dim": 8192}.

    Raises:
      ValueError: class_weights does not have one non-negative number a class, or a number is out of range.
    """
    require_between(0, 1, label_smoothing=label_smoothing, dropout=dropout)
    require_between(0, math.inf, focal_gamma=focal_gamma, logit_adjustment=logit_adjustment)
    require_between(0, math.inf, mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha)
    if not 0 <= effective_beta < 1:
        raise ValueError(f"objective.effective_beta lies in [0, 1); got {effective_beta}")
    weights = _class_weights(class_weights, task, effective_beta)
    adjustment = _logit_adjustment(logit_adjustment, task)
    if focal_gamma and (label_smoothing or mixup_alpha or cutmix_alpha):
        raise ValueError("objective.focal_gamma takes classes: leave out label_smoothing, mixup and cutmix")
    if ema_decay and not 0 < ema_decay < 1:
        raise ValueError(f"objective.ema_decay lies in (0, 1), or 0 for none; got {ema_decay}")
    classifier = heads.build(
        head or getattr(backbone, "head", "linear"), task.num_classes, dropout=dropout, **(head_fields or {})
    )
    auxiliary = heads.Linear(task.num_classes)

    def init(rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        rng_backbone, rng_head = jax.random.split(rng)
        params, batch_stats, features = init_backbone(backbone, rng_backbone, batch["image"])
        head_state = dict(classifier.init(rng_head, getattr(features, classifier.reads), train=False))
        params = {"backbone": params, "head": head_state.pop("params")}
        for number, aux in enumerate(features.aux):
            rng_aux = jax.random.fold_in(rng_head, number)
            params[f"aux_head_{number}"] = auxiliary.init(rng_aux, aux, train=False)["params"]
        objective_state = {"batch_stats": batch_stats, "head_state": head_state}
        if ema_decay:
            objective_state["ema"] = jax.tree.map(jnp.copy, params)
        return params, objective_state

    def targets_of(batch: Batch, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns images and what the loss compares with: labels, or probabilities where an option needs
        them."""
        images, targets = batch["image"], batch["label"]
        if label_smoothing or mixup_alpha or cutmix_alpha:
            targets = smooth_labels(targets, num_classes=task.num_classes, epsilon=label_smoothing)
        return mix(rng, images, targets, mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha)

    def classify(
        head_params: Params, objective_state: ObjectiveState, features: Any, **options: Any
    ) -> jax.Array:
        variables = {"params": head_params, **objective_state["head_state"]}
        return classifier.apply(variables, getattr(features, classifier.reads), **options)

    def mean_loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
        logits = logits + adjustment
        if focal_gamma:
            losses = softmax_focal(logits, targets, gamma=focal_gamma, class_weights=weights)
        else:
            losses = softmax_cross_entropy(logits, targets, class_weights=weights)
        if weights is None:
            return jnp.mean(losses)
        return class_weighted_mean(losses, targets, class_weights=weights)

    def loss(
        params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        rng_mix, rng_backbone, rng_head = jax.random.split(rng, 3)
        images, targets = targets_of(batch, rng_mix)
        features, batch_stats = apply_backbone(
            backbone, params["backbone"], objective_state["batch_stats"], images, train=True, rng=rng_backbone
        )
        logits = classify(params["head"], objective_state, features, train=True, rngs={"dropout": rng_head})
        value = mean_loss(logits, targets)
        for number, aux in enumerate(features.aux):
            aux_logits = auxiliary.apply({"params": params[f"aux_head_{number}"]}, aux, train=False)
            value += backbone.aux_weight * mean_loss(aux_logits, targets)
        metrics = {"loss": value, "accuracy": 1 - jnp.mean(zero_one(logits, batch["label"]))}
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)

    def predict(params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        params = objective_state.get("ema", params)
        features, _ = apply_backbone(
            backbone, params["backbone"], objective_state["batch_stats"], batch["image"], train=False
        )
        logits = classify(params["head"], objective_state, features, train=False)
        return {"logits": logits, "embedding": features.embedding}

    def move_ema(params: Params, objective_state: ObjectiveState, step: jax.Array) -> ObjectiveState:
        del step
        return objective_state | {
            "ema": optax.incremental_update(params, objective_state["ema"], 1 - ema_decay)
        }

    return Objective(
        batch_keys=("image", "label"),
        init=init,
        loss=loss,
        predict=predict,
        after_update=move_ema if ema_decay else keep_objective_state,
        reads_pixels=bool(mixup_alpha or cutmix_alpha),
    )


def mix(
    rng: jax.Array, images: jax.Array, targets: jax.Array, *, mixup_alpha: float, cutmix_alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Applies mixup, CutMix, one of the two drawn with equal chance, or neither.

    Args:
      rng: key.
      images: float [B, H, W, C].
      targets: float [B, K] where an alpha is positive.
      mixup_alpha, cutmix_alpha: >= 0, 0 for off.

    Returns:
      images and targets, shaped as they came.
    """
    if not (mixup_alpha or cutmix_alpha):
        return images, targets
    rng_choice, rng_mix = jax.random.split(rng)
    if not cutmix_alpha:
        return mixup(rng_mix, images, targets, alpha=mixup_alpha)
    if not mixup_alpha:
        return cutmix(rng_mix, images, targets, alpha=cutmix_alpha)
    return jax.lax.cond(
        jax.random.bernoulli(rng_choice),
        lambda: mixup(rng_mix, images, targets, alpha=mixup_alpha),
        lambda: cutmix(rng_mix, images, targets, alpha=cutmix_alpha),
    )


def _class_sizes(task: Task, field: str) -> jax.Array:
    if not task.class_counts or min(task.class_counts) == 0:
        raise ValueError(
            f"objective.{field} needs the size of each class, at least one: the source does not tell it "
            "without reading every example, or a class is empty"
        )
    return jnp.asarray(task.class_counts, jnp.float32)


def _logit_adjustment(tau: float, task: Task) -> jax.Array | float:
    if not tau:
        return 0.0
    sizes = _class_sizes(task, "logit_adjustment")
    return tau * jnp.log(sizes / jnp.sum(sizes))


def _class_weights(
    class_weights: Sequence[float] | str | None, task: Task, effective_beta: float
) -> jax.Array | None:
    num_classes = task.num_classes
    if class_weights is None or len(class_weights) == 0:
        return None
    if isinstance(class_weights, str):
        if class_weights == "inverse_frequency":
            return inverse_frequency_weights(_class_sizes(task, "class_weights"))
        if class_weights == "effective_number":
            return effective_number_weights(_class_sizes(task, "class_weights"), beta=effective_beta)
        raise ValueError(
            'objective.class_weights is "inverse_frequency", "effective_number" or a number a class; '
            f"got {class_weights!r}"
        )
    if len(class_weights) != num_classes or min(class_weights) < 0:
        raise ValueError(
            f"objective.class_weights needs {num_classes} numbers >= 0, one a class; "
            f"got {len(class_weights)}: {tuple(class_weights)}"
        )
    return jnp.asarray(class_weights, jnp.float32)
