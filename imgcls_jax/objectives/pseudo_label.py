"""Two baselines for few labels: pseudo-labels (Lee 2013), and least entropy (Grandvalet and Bengio 2004).

Cross-entropy on the labeled images, batch["labeled"], and a term on the unlabeled ones, batch["image"]: the
cross-entropy with the network's own prediction where that is sure, or the entropy of the prediction. Entropy
alone collapses to one class: its weight stays small beside the labeled loss.

As in the baselines of MixMatch's authors (arXiv:1905.02249): a prediction counts where its probability is
above 0.95. The term is divided by the whole batch; its weight rises linearly over the first 40 % of training.
Both passes use batch statistics, and the running ones follow the labeled pass alone. The averaged weights
predict. Difference: their released pseudo-label script multiplies the mean loss by the share of sure rows, by
a slip of shapes; here each row has its own mask.

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
    require_one_of,
)
from imgcls_jax.losses import entropy, pseudo_labels, softmax_cross_entropy, zero_one
from imgcls_jax.objectives.mixmatch import ramp

TERMS = ("pseudo_label", "entropy")


def make(
    backbone: Any,
    task: Task,
    *,
    term: str = "pseudo_label",
    threshold: float = 0.95,
    lambda_u: float = 1.0,
    ramp_fraction: float = 0.4,
    ema_decay: float | None = 0.999,
    ema_warmup: bool = True,
    ema_statistics: int = 0,
) -> Objective:
    """Returns the objective; its batch_keys are "labeled" and "image".

    Args:
      backbone: module of models/.
      task: num_classes and total_steps are read.
      term: the loss of unlabeled images, "pseudo_label" or "entropy".
      threshold: of pseudo-labels, a probability >= 0 that a prediction must exceed; from 1 on none does.
      lambda_u: weight of the term, >= 0. Published: 1 for CIFAR-10, 2 for SVHN; of entropy, beside another
        method, 0.06.
      ramp_fraction: the weight rises linearly from 0 over this part of training, in [0, 1]; 0 for none, as
        published for entropy.
      ema_decay: in (0, 1), of the weights that predict; None or 0 for the trained ones themselves.
      ema_warmup: as `make_classifier` has it; the authors' decay is constant.
      ema_statistics: as `make_classifier` has it.

    Raises:
      ValueError: an unknown term, or a hyper-parameter outside its range.
    """
    require_one_of(TERMS, term=term)
    require_between(0, math.inf, threshold=threshold, lambda_u=lambda_u)
    classifier = make_classifier(
        backbone,
        task.num_classes,
        ema_decay=ema_decay,
        ema_warmup=ema_warmup,
        ema_statistics=ema_statistics,
    )
    weight_at = ramp(lambda_u, ramp_fraction, task.total_steps)
    learner = _PseudoLabel(classifier, term, threshold, weight_at)
    return Objective(
        batch_keys=("labeled", "image"),
        init=lambda rng, batch: classifier.init(rng, batch["labeled"]["image"]),
        loss=learner.loss,
        predict=classifier.predict,
        after_update=classifier.after_update,
        reads_pixels=False,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _PseudoLabel:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    classifier: Classifier
    term: str
    threshold: float
    weight_at: optax.Schedule

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        classify, labels = self.classifier.train_logits, batch["labeled"]["label"]
        rng_labeled, rng_unlabeled = jax.random.split(rng)
        logits, batch_stats = classify(params, objective_state, batch["labeled"]["image"], rng_labeled)
        unlabeled_logits, _ = classify(params, objective_state, batch["image"], rng_unlabeled)
        loss_labeled = jnp.mean(softmax_cross_entropy(logits, labels))
        loss_unlabeled, confident = self.unlabeled_term(unlabeled_logits)
        weight = self.weight_at(step)
        value = loss_labeled + weight * loss_unlabeled
        metrics = {
            "loss": value,
            "loss_labeled": loss_labeled,
            "loss_unlabeled": loss_unlabeled,
            "lambda_u": weight,
            "confident": confident,
            "accuracy": 1 - jnp.mean(zero_one(logits, labels)),
        }
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)

    def unlabeled_term(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the term's mean over the batch, and the share of predictions above the threshold."""
        guesses, confidence = pseudo_labels(logits)
        mask = (confidence > self.threshold).astype(jnp.float32)
        if self.term == "entropy":
            losses = entropy(logits)
        else:
            losses = mask * softmax_cross_entropy(logits, guesses)
        return jnp.mean(losses), jnp.mean(mask)
