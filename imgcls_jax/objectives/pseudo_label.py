"""Two baselines for few labels: pseudo-labels (Lee 2013), and least entropy (Grandvalet and Bengio 2004).

Cross-entropy on the labeled images, batch["labeled"], and a term on the unlabeled ones, batch["image"]: the
cross-entropy with the network's own prediction where that is sure, or the entropy of the prediction. Entropy
alone collapses to one class: its weight stays small beside the labeled loss.

As in the baselines of MixMatch's authors (arXiv:1905.02249): a prediction counts where its probability is
above 0.95, the term is divided by the whole batch, its weight rises linearly over the first 40 % of training,
both passes use batch statistics and the running ones follow the labeled pass alone; prediction is by averaged
weights. Their released pseudo-label script multiplies the mean loss by the share of sure rows, by a slip of
shapes; here each row has its own mask.

objective_state: that of `supervised`: batch_stats, head_state (empty), and ema, a copy of params, with
  ema_decay.
"""

from __future__ import annotations

import dataclasses
import functools
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
    train_logits,
)
from imgcls_jax.layers import heads
from imgcls_jax.losses import entropy, pseudo_labels, softmax_cross_entropy, zero_one
from imgcls_jax.objectives import supervised

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
) -> Objective:
    """Returns the objective; its batch_keys are "labeled" and "image".

    Args:
      backbone: module with the contract of models/.
      task: num_classes and total_steps are read.
      term: the loss of unlabeled images, "pseudo_label" or "entropy".
      threshold: of pseudo-labels, a probability >= 0 that a prediction must exceed; from 1 on none does.
      lambda_u: weight of the term, >= 0. Published: 1 for CIFAR-10, 2 for SVHN; of entropy, beside another
        method, 0.06.
      ramp_fraction: the weight rises linearly from 0 over this part of training, in [0, 1]; 0 for none, as
        published for entropy.
      ema_decay: in (0, 1), of the weights that predict; None or 0 for the trained ones themselves.

    Raises:
      ValueError: an unknown term, or a hyper-parameter outside its range.
    """
    if term not in TERMS:
        raise ValueError(f"objective.term is one of {', '.join(TERMS)}; got {term!r}")
    if not (threshold >= 0 and lambda_u >= 0 and 0 <= ramp_fraction <= 1):
        raise ValueError(
            "objective.threshold and objective.lambda_u must be at least 0, objective.ramp_fraction in "
            f"[0, 1]; got {threshold}, {lambda_u} and {ramp_fraction}"
        )
    plain = supervised.make(backbone, task, ema_decay=ema_decay)
    head = heads.build(getattr(backbone, "head", "linear"), task.num_classes)
    classify = functools.partial(train_logits, backbone, head)
    ramp_steps = round(ramp_fraction * task.total_steps)
    weight_at = optax.linear_schedule(0.0 if ramp_steps else lambda_u, lambda_u, max(ramp_steps, 1))

    def init(rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        return plain.init(rng, batch["labeled"])

    def unlabeled_term(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the term's mean over the batch, and the share of predictions above the threshold."""
        guesses, confidence = pseudo_labels(logits)
        mask = (confidence > threshold).astype(jnp.float32)
        losses = entropy(logits) if term == "entropy" else mask * softmax_cross_entropy(logits, guesses)
        return jnp.mean(losses), jnp.mean(mask)

    def loss(
        params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        labels = batch["labeled"]["label"]
        rng_labeled, rng_unlabeled = jax.random.split(rng)
        logits, batch_stats = classify(params, objective_state, batch["labeled"]["image"], rng_labeled)
        unlabeled_logits, _ = classify(params, objective_state, batch["image"], rng_unlabeled)
        loss_labeled = jnp.mean(softmax_cross_entropy(logits, labels))
        loss_unlabeled, confident = unlabeled_term(unlabeled_logits)
        weight = weight_at(step)
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

    return dataclasses.replace(plain, batch_keys=("labeled", "image"), init=init, loss=loss)
