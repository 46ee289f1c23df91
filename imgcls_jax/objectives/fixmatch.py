"""FixMatch (Sohn et al. 2020, arXiv:2001.07685): sure predictions become labels of a harder view.

batch["views"] are two lines of data.view_transforms: the first a weak augmentation (flip and shift), the
second a strong one (`rand_augment`, then `cutout`). Where the class predicted for the weak view has a
probability of at least the threshold, it is the label of the strong view. Labeled images, batch["labeled"],
are augmented weakly. mu of the paper is train.batch_size / data.labeled_batch_size, there 448 / 64.

As in the authors' code: the unlabeled loss is divided by the whole batch, not by the rows that were sure.
Labeled, weak and strong rows go through one pass, so that batch norm sees them all. There is no ramp and no
temperature. The averaged weights predict, with the running statistics, which are not averaged. Their weight
decay, an L2 term on kernels, is that of `optimizer.name = "sgd"`. RandAugment only, no CTAugment.

params, objective_state: those of contracts/classifier.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.contracts.classifier import Classifier, make_classifier
from imgcls_jax.contracts.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    require_between,
)
from imgcls_jax.losses import pseudo_labels, softmax_cross_entropy, zero_one


def make(
    backbone: Any,
    task: Task,
    *,
    threshold: float = 0.95,
    lambda_u: float = 1.0,
    ema_decay: float | None = 0.999,
    ema_warmup: bool = True,
    ema_statistics: int = 0,
) -> Objective:
    """Returns the objective; its batch_keys are "labeled" and "views".

    Args:
      backbone: module of models/.
      task: num_classes is read.
      threshold: least probability of a prediction that is learned, >= 0; above 1 none is.
      lambda_u: weight of the unlabeled loss, >= 0.
      ema_decay: in (0, 1), of the weights that predict; None or 0 for the trained ones themselves.
      ema_warmup: as `make_classifier` has it; the authors' decay is constant.
      ema_statistics: as `make_classifier` has it.

    Raises:
      ValueError: a hyper-parameter outside its range, or, from init and loss, not exactly two views.
    """
    require_between(0, math.inf, threshold=threshold, lambda_u=lambda_u)
    classifier = make_classifier(
        backbone,
        task.num_classes,
        ema_decay=ema_decay,
        ema_warmup=ema_warmup,
        ema_statistics=ema_statistics,
    )
    learner = _FixMatch(classifier, threshold, lambda_u)
    return Objective(
        batch_keys=("labeled", "views"),
        init=learner.init,
        loss=learner.loss,
        predict=classifier.predict,
        after_update=classifier.after_update,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _FixMatch:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    classifier: Classifier
    threshold: float
    lambda_u: float

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        if len(batch["views"]) != 2:
            raise ValueError(
                "data.view_transforms needs two lines for this objective, a weak and a strong augmentation; "
                f"got {len(batch['views'])}"
            )
        return self.classifier.init(rng, batch["labeled"]["image"])

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        labels, (weak, strong) = batch["labeled"]["label"], batch["views"]
        parts = (batch["labeled"]["image"], weak, strong)
        logits, batch_stats = self.classifier.train_logits(params, objective_state, interleave(parts), rng)
        logits, weak_logits, strong_logits = deal_back(logits, [len(part) for part in parts])
        guesses, confidence = pseudo_labels(weak_logits)
        mask = (confidence >= self.threshold).astype(jnp.float32)
        loss_labeled = jnp.mean(softmax_cross_entropy(logits, labels))
        loss_unlabeled = jnp.mean(mask * softmax_cross_entropy(strong_logits, guesses))
        value = loss_labeled + self.lambda_u * loss_unlabeled
        metrics = {
            "loss": value,
            "loss_labeled": loss_labeled,
            "loss_unlabeled": loss_unlabeled,
            "confident": jnp.mean(mask),
            "accuracy": 1 - jnp.mean(zero_one(logits, labels)),
        }
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)


def interleave(parts: Sequence[jax.Array]) -> jax.Array:
    """Joins batches so that every stretch holds the same share of each: no row has to leave its device.

    Args:
      parts: arrays [B_i, ...].

    Returns:
      [sum B_i, ...], in as many equal stretches as the greatest common divisor of the sizes.
    """
    stretches = math.gcd(*(len(part) for part in parts))
    rest = parts[0].shape[1:]
    cut = [part.reshape(stretches, -1, *rest) for part in parts]
    return jnp.concatenate(cut, axis=1).reshape(-1, *rest)


def deal_back(rows: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
    """Undoes `interleave` of batches of these sizes."""
    stretches = math.gcd(*sizes)
    bounds = np.cumsum(sizes)[:-1] // stretches
    rest = rows.shape[1:]
    return [part.reshape(-1, *rest) for part in jnp.split(rows.reshape(stretches, -1, *rest), bounds, axis=1)]
