"""Supervised classification: softmax cross-entropy, one sigmoid a class, or hinge losses.

A backbone with auxiliary classifiers (GoogLeNet, Inception v3) has a linear head on each while it trains;
each of their losses counts the backbone's own `aux_weight` times. Options: label smoothing, class weights
(PyTorch's reduction: the weighted sum over the sum of the labels' weights, that of the whole batch whatever
its parts and replicas), the focal loss, logit adjustment, mixup and CutMix, and an exponential moving average
of the params, which then serves prediction; and AugMix's consistency of an image and two views of it.

params, objective_state: those of contracts/classifier.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.contracts.classifier import Classifier, make_classifier
from imgcls_jax.contracts.embedder import two_views
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
    cutmix,
    effective_number_weights,
    inverse_frequency_weights,
    jensen_shannon,
    mean_over,
    mixup,
    multiclass_hinge,
    sigmoid_cross_entropy,
    smooth_labels,
    softmax_cross_entropy,
    softmax_focal,
    squared_hinge,
    zero_one,
)

LOSSES = ("cross_entropy", "binary_cross_entropy", "hinge", "squared_hinge")
USED_BY = {
    "class_weights": ("cross_entropy",),
    "focal_gamma": ("cross_entropy",),
    "logit_adjustment": ("cross_entropy",),
    "label_smoothing": ("cross_entropy", "binary_cross_entropy"),
    "mixup_alpha": ("cross_entropy", "binary_cross_entropy"),
    "cutmix_alpha": ("cross_entropy", "binary_cross_entropy"),
    "target_threshold": ("binary_cross_entropy",),
    "js_weight": ("cross_entropy",),
}
MIXED_IN_PARTS = "images are mixed with others of their own part, and each part draws its own coefficients"


def make(
    backbone: Any,
    task: Task,
    *,
    loss: str = "cross_entropy",
    target_threshold: float | None = None,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | str | None = None,
    effective_beta: float = 0.999,
    focal_gamma: float = 0.0,
    logit_adjustment: float = 0.0,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    js_weight: float = 0.0,
    ema_decay: float | None = None,
    ema_warmup: bool = True,
    ema_statistics: int = 0,
    dropout: float = 0.0,
    head: str = "",
    head_fields: Mapping[str, Any] | None = None,
) -> Objective:
    """Returns the objective.

    Args:
      backbone: module of models/.
      task: num_classes and class_counts are read.
      loss: "cross_entropy" of the softmax.
        "binary_cross_entropy" of a sigmoid for each class, summed over the classes, whose targets are 1 for
        the label and 0 else, or what smoothing and mixing make of them (Wightman et al. 2021,
        arXiv:2110.00476). timm divides by the number of classes.
        "hinge" and "squared_hinge": `multiclass_hinge` and `squared_hinge` of losses/.
        `predict` returns logits alone; evaluators read probabilities off their softmax, whatever the loss.
      target_threshold: of binary_cross_entropy, in [0, 1): targets above it count as 1, all others as 0, so
        that both classes of mixed images are there; None takes them as they are.
      label_smoothing: epsilon in [0, 1].
      class_weights: K numbers >= 0; "inverse_frequency" or "effective_number" for those functions of losses/
        on the training split's class sizes; None or () weighs all classes alike.
      effective_beta: of "effective_number", in [0, 1).
      focal_gamma: of the focal loss, which takes the cross-entropy's place where it is positive.
      logit_adjustment: tau >= 0. In training tau times the logarithm of each class's share of the training
        split is added to its logit (Menon et al. 2021, arXiv:2007.07314, equation 10); 0 for none.
      mixup_alpha, cutmix_alpha: 0 switches each off; with both on, each batch draws one of the two.
      js_weight: above 0 adds so many times the Jensen-Shannon divergence of what is predicted of the image
        and of the two views of data.view_transforms, which end in `augmix` (Hendrycks et al. 2020,
        arXiv:1912.02781, section 3; 12 there). The cross-entropy is that of the image alone; BatchNorm sees
        the three together, as the authors' does. Their views have the image's own crop and flip, here each
        line draws its own.
      ema_decay, ema_warmup, ema_statistics, dropout, head, head_fields: as `make_classifier` has them.

    Raises:
      ValueError: an unknown loss, an option that it has no use for, class_weights without one non-negative
        number a class, or a number out of range.
    """
    require_one_of(LOSSES, loss=loss)
    require_between(0, 1, label_smoothing=label_smoothing)
    require_between(0, math.inf, focal_gamma=focal_gamma, logit_adjustment=logit_adjustment)
    require_between(0, math.inf, mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha)
    require_between(0, math.inf, js_weight=js_weight)
    if js_weight and (mixup_alpha or cutmix_alpha):
        raise ValueError("objective.js_weight compares views of one image: leave out mixup and cutmix")
    if focal_gamma and (label_smoothing or mixup_alpha or cutmix_alpha):
        raise ValueError("objective.focal_gamma takes classes: leave out label_smoothing, mixup and cutmix")
    weights = _class_weights(class_weights, task, effective_beta)
    _require_use(
        loss,
        class_weights=weights is not None,
        focal_gamma=focal_gamma,
        logit_adjustment=logit_adjustment,
        label_smoothing=label_smoothing,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        js_weight=js_weight,
        target_threshold=target_threshold is not None,
    )
    if not 0 <= (target_threshold or 0) < 1:
        raise ValueError(f"objective.target_threshold lies in [0, 1); got {target_threshold}")
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
    adjustment = _logit_adjustment(logit_adjustment, task)
    criterion = _Criterion(loss, weights, adjustment, focal_gamma, target_threshold)
    learner = _Supervised(
        classifier, criterion, task.num_classes, label_smoothing, mixup_alpha, cutmix_alpha, js_weight
    )
    return Objective(
        batch_keys=("image", "label", *(["views"] if js_weight else [])),
        init=lambda rng, batch: classifier.init(rng, batch["image"]),
        loss=learner.loss,
        predict=classifier.predict,
        after_update=classifier.after_update,
        reads_pixels=bool(mixup_alpha or cutmix_alpha or js_weight),
        divisors=None if weights is None else learner.weight_of_labels,
        in_parts=MIXED_IN_PARTS if mixup_alpha or cutmix_alpha else "",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Criterion:
    """The loss of logits.

    Attributes:
      name: of the loss, one of LOSSES.
      weights: float32 [K], of the classes, or None.
      adjustment: float32 [K], added to the logits, or 0.
      focal_gamma, target_threshold: as `make` has them.
    """

    name: str
    weights: jax.Array | None
    adjustment: jax.Array | float
    focal_gamma: float
    target_threshold: float | None

    def __call__(self, logits: jax.Array, targets: jax.Array, divisor: jax.Array | None) -> jax.Array:
        """Returns the mean.

        Args:
          logits: float [B, K].
          targets: int [B], or probabilities float [B, K].
          divisor: of the sum, where there are weights; else it is B.
        """
        losses = self.losses(logits + self.adjustment, targets)
        return jnp.mean(losses) if divisor is None else mean_over(losses, divisor)

    def losses(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """Returns the loss of each example, float32 [B]; arguments as above."""
        if self.name == "hinge":
            return multiclass_hinge(logits, targets)
        if self.name == "squared_hinge":
            return squared_hinge(logits, targets)
        if self.name == "binary_cross_entropy":
            if self.target_threshold is not None:
                targets = targets > self.target_threshold
            return sigmoid_cross_entropy(logits, targets)
        if self.focal_gamma:
            return softmax_focal(logits, targets, gamma=self.focal_gamma, class_weights=self.weights)
        return softmax_cross_entropy(logits, targets, class_weights=self.weights)


@dataclasses.dataclass(frozen=True, eq=False)
class _Supervised:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    classifier: Classifier
    criterion: _Criterion
    num_classes: int
    label_smoothing: float
    mixup_alpha: float
    cutmix_alpha: float
    js_weight: float

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        rng_mix, rng_backbone, rng_head = jax.random.split(rng, 3)
        images, targets = self.targets(batch, rng_mix)
        if self.js_weight:
            seen = jnp.stack([images, *two_views(batch, "objective.js_weight")], axis=1)  # [B, 3, H, W, C]
            # Side by side, so that a batch split over devices stays where it is.
            images = seen.reshape(-1, *images.shape[1:])
        features, batch_stats = self.classifier.features(
            params, objective_state, images, train=True, rng=rng_backbone
        )
        all_logits = self.classifier.logits(params, objective_state, features, rng=rng_head)
        times = 3 if self.js_weight else 1
        logits, divisor = all_logits[::times], None
        if self.criterion.weights is not None:
            divisor = batch["divisors"] if "divisors" in batch else self.weight_of_labels({}, batch)
        value = self.criterion(logits, targets, divisor)
        for aux_logits in self.classifier.aux_logits(params, features):
            aux_weight = self.classifier.backbone.aux_weight
            value += aux_weight * self.criterion(aux_logits[::times], targets, divisor)
        metrics = {"loss": value, "accuracy": 1 - jnp.mean(zero_one(logits, batch["label"]))}
        if self.js_weight:
            metrics["jensen_shannon"] = jnp.mean(jensen_shannon([all_logits[i::3] for i in range(3)]))
            value += self.js_weight * metrics["jensen_shannon"]
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)

    def weight_of_labels(self, objective_state: ObjectiveState, batch: Batch) -> jax.Array:
        """Returns the sum of the labels' class weights: the divisor of `mean_over`."""
        del objective_state
        weights = self.criterion.weights
        return jnp.sum(jnp.ones(len(batch["label"])) if weights is None else weights[batch["label"]])

    def targets(self, batch: Batch, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the images, and the targets of the loss: labels, or probabilities if an option needs
        them."""
        images, targets = batch["image"], batch["label"]
        binary = self.criterion.name == "binary_cross_entropy"
        if binary or self.label_smoothing or self.mixup_alpha or self.cutmix_alpha:
            targets = smooth_labels(targets, num_classes=self.num_classes, epsilon=self.label_smoothing)
        return mix(rng, images, targets, mixup_alpha=self.mixup_alpha, cutmix_alpha=self.cutmix_alpha)


def _require_use(loss: str, **options: Any) -> None:
    """Raises ValueError for an option that is set and that the loss has no use for."""
    for name, value in options.items():
        if value and loss not in USED_BY[name]:
            raise ValueError(
                f"objective.{name} is for the loss {' or '.join(USED_BY[name])}; objective.loss is {loss!r}"
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
            f"objective.{field} needs the size of each class, at least one: the source does not know it "
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
    if not 0 <= effective_beta < 1:
        raise ValueError(f"objective.effective_beta lies in [0, 1); got {effective_beta}")
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
