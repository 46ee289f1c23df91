"""Mean Teacher and the Pi-model: two views of an unlabeled image get the same probabilities.

Tarvainen and Valpola, "Mean teachers are better role models", arXiv:1703.01780 (2017): the second view's
probabilities are those of the averaged params, objective_state["ema"]. Laine and Aila, "Temporal Ensembling
for Semi-Supervised Learning", arXiv:1610.02242 (2017), section 2.1: they are the network's own (`teacher` =
"itself", the Pi-model). The labeled images, batch["labeled"], have the cross-entropy; the views of
data.view_transforms, of the unlabeled ones, the squared distance of the probabilities.

As in the baselines of MixMatch's authors (arXiv:1905.02249): the weight rises linearly over the first 40 % of
training, to 50 for Mean Teacher and 10 for the Pi-model on CIFAR-10, and the averaged weights predict. All
passes use batch statistics, and the running ones follow the labeled pass alone.

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
from imgcls_jax.losses import softmax_cross_entropy, softmax_squared_error, zero_one
from imgcls_jax.objectives.mixmatch import ramp

TEACHERS = ("average", "itself")


def make(
    backbone: Any,
    task: Task,
    *,
    teacher: str = "average",
    lambda_u: float = 50.0,
    ramp_fraction: float = 0.4,
    ema_decay: float = 0.999,
    ema_warmup: bool = True,
    ema_statistics: int = 0,
) -> Objective:
    """Returns the objective; its batch_keys are "labeled" and "views".

    Args:
      backbone: module of models/.
      task: num_classes and total_steps are read.
      teacher: "average" for Mean Teacher, "itself" for the Pi-model, whose gradient flows through both views.
      lambda_u: weight of the distance, >= 0.
      ramp_fraction: the weight rises linearly from 0 over this part of training, in [0, 1]; 0 for none.
      ema_decay: in (0, 1), of the average, which predicts.
      ema_warmup: as `make_classifier` has it.
      ema_statistics: as `make_classifier` has it.

    Raises:
      ValueError: an unknown teacher, or a hyper-parameter outside its range; later, where a batch has not
        exactly two views.
    """
    require_one_of(TEACHERS, teacher=teacher)
    require_between(0, math.inf, lambda_u=lambda_u)
    if not ema_decay:
        raise ValueError("objective.ema_decay lies in (0, 1): the average predicts; got 0")
    classifier = make_classifier(
        backbone,
        task.num_classes,
        ema_decay=ema_decay,
        ema_warmup=ema_warmup,
        ema_statistics=ema_statistics,
    )
    learner = _MeanTeacher(classifier, teacher, ramp(lambda_u, ramp_fraction, task.total_steps))
    return Objective(
        batch_keys=("labeled", "views"),
        init=lambda rng, batch: classifier.init(rng, batch["labeled"]["image"]),
        loss=learner.loss,
        predict=classifier.predict,
        after_update=classifier.after_update,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _MeanTeacher:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    classifier: Classifier
    teacher: str
    weight_at: optax.Schedule

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        classify, labels = self.classifier.train_logits, batch["labeled"]["label"]
        view, other = two_views(batch, "mean_teacher")
        rngs = jax.random.split(rng, 3)
        logits, batch_stats = classify(params, objective_state, batch["labeled"]["image"], rngs[0])
        own, _ = classify(params, objective_state, view, rngs[1])
        if self.teacher == "average":
            taught, _ = classify(objective_state["ema"], objective_state, other, rngs[2])
            taught = jax.lax.stop_gradient(taught)
        else:
            taught, _ = classify(params, objective_state, other, rngs[2])
        loss_labeled = jnp.mean(softmax_cross_entropy(logits, labels))
        loss_unlabeled = jnp.mean(softmax_squared_error(own, jax.nn.softmax(taught)))
        weight = self.weight_at(step)
        metrics = {
            "loss_labeled": loss_labeled,
            "loss_unlabeled": loss_unlabeled,
            "lambda_u": weight,
            "accuracy": 1 - jnp.mean(zero_one(logits, labels)),
        }
        value = loss_labeled + weight * loss_unlabeled
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)
