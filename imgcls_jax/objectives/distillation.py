"""Knowledge distillation: a network learns the labels and what a trained one says of the images.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531 (2015): the
probabilities of both, softened by a temperature, get close, and the labels have the cross-entropy as usual.
Touvron et al. (DeiT), arXiv:2012.12877 (2021), section 4: the class that the teacher finds likeliest is a
second label (`hard`); their distillation token is not part of this, the one head learns both.

The teacher sees the very images that the student sees, augmented, in evaluation mode. It is frozen, and no
part of params or objective_state: the trainer brings it (contracts/objective.py:Teacher). An example whose
label is hidden (-1) has the teacher's term alone, so all images teach where few are labeled.

params, objective_state: those of contracts/classifier.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
    Teacher,
    require_between,
)
from imgcls_jax.losses import pseudo_labels, softened_divergence, softmax_cross_entropy, zero_one


def make(
    backbone: Any,
    task: Task,
    *,
    teacher: str,
    teacher_model: Mapping[str, Any] | None = None,
    temperature: float = 4.0,
    teacher_weight: float = 0.9,
    hard: bool = False,
    ema_decay: float | None = None,
    ema_warmup: bool = True,
    ema_statistics: int = 0,
    dropout: float = 0.0,
    head: str = "",
    head_fields: Mapping[str, Any] | None = None,
) -> Objective:
    """Returns the objective.

    Eq.: (1 - a) CE(labels) + a T^2 KL(softmax(t / T) || softmax(s / T)), t and s being the logits of teacher
    and student; with `hard` (1 - a) CE(labels) + a CE(argmax t).

    Args:
      backbone: module of models/.
      task: num_classes is read.
      teacher: WORKDIR, WORKDIR@STEP or WORKDIR@best of a run on the same classes and with the same
        normalization; or a folder of tools.export or a file of weights, of a backbone and its own head.
      teacher_model: the section `model` of the last two.
      temperature: T > 0; not read with `hard`.
      teacher_weight: a, in [0, 1]; with 1 no label is read. 0.5 is DeiT's.
      hard: whether the teacher's likeliest class is a label, instead of its probabilities.
      ema_decay, ema_warmup, ema_statistics, dropout, head, head_fields: as `make_classifier` has them.

    Raises:
      ValueError: no teacher, or a number out of range.
    """
    require_between(0, 1, teacher_weight=teacher_weight)
    if not temperature > 0:
        raise ValueError(f"objective.temperature is above 0; got {temperature}")
    if not teacher:
        raise ValueError(
            "objective.teacher is the workdir of a trained network, a folder of tools.export or a file of "
            "weights; got ''"
        )
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
    learner = _Distillation(classifier, temperature, teacher_weight, hard)
    return Objective(
        batch_keys=("image", "label", "teacher"),
        init=lambda rng, batch: classifier.init(rng, batch["image"]),
        loss=learner.loss,
        predict=classifier.predict,
        after_update=classifier.after_update,
        teacher=Teacher(teacher, teacher_model),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Distillation:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    classifier: Classifier
    temperature: float
    teacher_weight: float
    hard: bool

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        rng_backbone, rng_head = jax.random.split(rng)
        features, batch_stats = self.classifier.features(
            params, objective_state, batch["image"], train=True, rng=rng_backbone
        )
        logits = self.classifier.logits(params, objective_state, features, rng=rng_head)
        labels, taught = batch["label"], batch["teacher"]
        known = labels >= 0
        # A mean over all rows: where few labels are known, each weighs as much as a row of the teacher's.
        from_labels = jnp.mean(jnp.where(known, softmax_cross_entropy(logits, jnp.maximum(labels, 0)), 0.0))
        from_teacher = jnp.mean(self.distance(logits, taught))
        agreement = 1 - jnp.mean(zero_one(logits, pseudo_labels(taught)[0]))
        metrics = {"loss_labels": from_labels, "loss_teacher": from_teacher, "agreement": agreement}
        value = (1 - self.teacher_weight) * from_labels + self.teacher_weight * from_teacher
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)

    def distance(self, logits: jax.Array, taught: jax.Array) -> jax.Array:
        """Returns float32 [B]. Args: logits of the student and of the teacher, float [B, K]."""
        if self.hard:
            return softmax_cross_entropy(logits, pseudo_labels(taught)[0])
        return softened_divergence(taught, logits, temperature=self.temperature)
