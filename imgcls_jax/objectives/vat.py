"""VAT: the prediction for an unlabeled image stays the same under the small change that would alter it most.

Miyato et al., "Virtual Adversarial Training", arXiv:1704.03976 (2018). The change r of length `epsilon` that
most increases KL(p(x) || p(x + r)) is found by a step of the power method on the divergence's Hessian H,
normalize(H d) for a random d (eq. 10). Cross-entropy on the labeled images, batch["labeled"]; the
divergence at r, and on request the entropy, on the unlabeled ones, batch["image"].

As in the baselines of MixMatch's authors (arXiv:1905.02249): weight 0.3 after a linear rise over the first
40 % of training, epsilon 6 for CIFAR-10 and 1 for SVHN, entropy 0.06; the averaged weights predict. All
passes use batch statistics, and the running ones follow the labeled pass alone. Difference: H d is exact,
J^T (diag(p) - p p^T) J d with the Jacobian J of the logits; the authors take the difference of two gradients
at a change of length 1e-6, which in float32 is below the rounding of most pixels.

params, objective_state: those of contracts/classifier.py.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

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
from imgcls_jax.losses import entropy, kl_divergence, softmax_cross_entropy, zero_one
from imgcls_jax.objectives.mixmatch import ramp


def make(
    backbone: Any,
    task: Task,
    *,
    epsilon: float = 6.0,
    lambda_u: float = 0.3,
    entropy_weight: float = 0.06,
    ramp_fraction: float = 0.4,
    ema_decay: float | None = 0.999,
    ema_warmup: bool = True,
    ema_statistics: int = 0,
) -> Objective:
    """Returns the objective; its batch_keys are "labeled" and "image".

    Args:
      backbone: module of models/.
      task: num_classes and total_steps are read.
      epsilon: Euclidean length of the change, over all pixels as the transforms leave them; >= 0.
      lambda_u: weight of the divergence, >= 0.
      entropy_weight: of the entropy of the unlabeled predictions, >= 0.
      ramp_fraction: lambda_u rises linearly from 0 over this part of training, in [0, 1]; 0 for none.
      ema_decay, ema_warmup, ema_statistics: as `make_classifier` has them.

    Raises:
      ValueError: a hyper-parameter outside its range.
    """
    require_between(0, math.inf, epsilon=epsilon, lambda_u=lambda_u, entropy_weight=entropy_weight)
    classifier = make_classifier(
        backbone,
        task.num_classes,
        ema_decay=ema_decay,
        ema_warmup=ema_warmup,
        ema_statistics=ema_statistics,
    )
    weight_at = ramp(lambda_u, ramp_fraction, task.total_steps)
    learner = _VAT(classifier, epsilon, entropy_weight, weight_at)
    return Objective(
        batch_keys=("labeled", "image"),
        init=lambda rng, batch: classifier.init(rng, batch["labeled"]["image"]),
        loss=learner.loss,
        predict=classifier.predict,
        after_update=classifier.after_update,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _VAT:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    classifier: Classifier
    epsilon: float
    entropy_weight: float
    weight_at: optax.Schedule

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        classify, labels, images = self.classifier.train_logits, batch["labeled"]["label"], batch["image"]
        rng_labeled, rng_unlabeled, rng_change = jax.random.split(rng, 3)
        logits, batch_stats = classify(params, objective_state, batch["labeled"]["image"], rng_labeled)

        def classified(changed: jax.Array) -> jax.Array:  # the same dropout for every change
            return classify(params, objective_state, changed, rng_unlabeled)[0]

        clean = classified(images)
        kept = jax.lax.stop_gradient(clean)
        change = adversarial_change(rng_change, classified, images, kept, self.epsilon)
        divergence = jnp.mean(kl_divergence(kept, classified(images + change)))
        weight = self.weight_at(step)
        loss_labeled = jnp.mean(softmax_cross_entropy(logits, labels))
        unsure = jnp.mean(entropy(clean))
        value = loss_labeled + weight * divergence + self.entropy_weight * unsure
        metrics = {
            "loss_labeled": loss_labeled,
            "divergence": divergence,
            "entropy": unsure,
            "lambda_u": weight,
            "accuracy": 1 - jnp.mean(zero_one(logits, labels)),
        }
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)


def adversarial_change(
    rng: jax.Array, classified: Any, images: jax.Array, logits: jax.Array, epsilon: float
) -> jax.Array:
    """Returns the change of each image that most alters its prediction, to the second order. No gradient.

    Args:
      rng: key.
      classified: images -> logits.
      images: float [B, H, W, C].
      logits: float [B, K], those of the images.
      epsilon: length of each change.

    Returns:
      float32 [B, H, W, C].
    """

    found, pull_back = jax.vjp(classified, images)
    del found
    direction = _unit(jax.random.normal(rng, images.shape))
    # The derivative along the direction, as the transpose of the pull-back: fast convolutions have no
    # forward derivative of their own.
    along = jax.grad(lambda v: jnp.vdot(pull_back(v)[0], direction))(jnp.zeros_like(logits))
    p = jax.nn.softmax(logits)
    fisher = p * along - p * jnp.sum(p * along, axis=-1, keepdims=True)
    return epsilon * jax.lax.stop_gradient(_unit(pull_back(fisher)[0]))


def _unit(changes: jax.Array) -> jax.Array:
    """Divides each change by its length; zeros stay."""
    largest = jnp.max(jnp.abs(changes), axis=(1, 2, 3), keepdims=True)  # so that no square underflows
    changes = changes / jnp.where(largest > 0, largest, 1.0)
    length = jnp.sqrt(jnp.sum(changes**2, axis=(1, 2, 3), keepdims=True))
    return changes / jnp.where(length > 0, length, 1.0)
