"""Bilinear compatibility of images and class signatures: classes without a training image are recognized.

    F(x, y) = phi(x)^T W psi(y),   phi(x) the embedding, psi(y) the signature of class y with norm 1

The network learns F on the classes that have training images, and ranks all that have a signature
(data.signatures). `objective.loss` chooses how it learns:

    devise   every other class is to stay a margin below the label (Frome et al., NeurIPS 2013)
    sje      the worst of them alone (Akata et al. 2015, arXiv:1409.8403)
    ale      all of them, weighted by the rank of the label (Akata et al. 2016, arXiv:1503.08677)

params, objective_state: those of contracts/classifier.py; the head has an output for each number of a
signature.

Differences from the papers: W has a bias, as if phi had one more entry that is always 1. The backbone learns
too unless its group is frozen; the papers keep phi fixed, DeViSE at first. Any optimizer works on batches,
where the papers take SGD image by image. DeViSE's psi are word vectors; here they are what the file holds.
ALE counts the violations of all classes, where its authors draw classes until one violates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
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
    require_one_of,
)
from imgcls_jax.losses import ale_loss, devise_loss, l2_normalize, sje_loss, zero_one

LOSSES = {"devise": devise_loss, "sje": sje_loss, "ale": ale_loss}
MARGINS = {"devise": 0.1, "sje": 1.0, "ale": 1.0}  # of the papers


def make(
    backbone: Any,
    task: Task,
    *,
    loss: str,
    margin: float | None = None,
    dropout: float = 0.0,
    ema_decay: float | None = None,
    ema_warmup: bool = True,
    ema_statistics: int = 0,
    head: str = "",
    head_fields: Mapping[str, Any] | None = None,
) -> Objective:
    """Returns the objective.

    Args:
      backbone: module of models/.
      task: num_classes C, class_counts and signatures are read. Classes without a training image take no part
        in the loss.
      loss: "devise", "sje" or "ale".
      margin: at least 0; None for the paper's, 0.1 of devise, 1 of sje and ale.
      dropout, ema_decay, ema_warmup, ema_statistics, head, head_fields: as `make_classifier` has them.

    Raises:
      ValueError: an unknown loss, a number out of range, or a run without signatures.
    """
    require_one_of(tuple(LOSSES), loss=loss)
    margin = MARGINS[loss] if margin is None else margin
    require_between(0, math.inf, margin=margin)
    if not task.signatures:
        raise ValueError(
            "this objective compares images with the signatures of classes: set config.data.signatures to a "
            "file of them, as imgcls_jax/data/signatures.py reads it"
        )
    signatures = jnp.asarray(task.signatures, jnp.float32)  # [C, a]
    classifier = make_classifier(
        backbone,
        signatures.shape[1],
        dropout=dropout,
        head=head,
        head_fields=head_fields,
        ema_decay=ema_decay,
        ema_warmup=ema_warmup,
        ema_statistics=ema_statistics,
    )
    learned = np.asarray(task.class_counts or (1,) * task.num_classes) > 0
    learner = _Compatibility(classifier, loss, margin, l2_normalize(signatures), jnp.asarray(learned))
    return Objective(
        batch_keys=("image", "label"),
        init=lambda rng, batch: classifier.init(rng, batch["image"]),
        loss=learner.loss,
        predict=learner.predict,
        after_update=classifier.after_update,
        reads_pixels=False,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Compatibility:
    """The algorithm.

    Attributes:
      classifier: its head's outputs are W^T phi.
      name, margin: of the loss.
      signatures: psi, float32 [C, a].
      learned: bool [C], the classes that the loss compares.
    """

    classifier: Classifier
    name: str
    margin: float
    signatures: jax.Array
    learned: jax.Array

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        rng_backbone, rng_head = jax.random.split(rng)
        features, batch_stats = self.classifier.features(
            params, objective_state, batch["image"], train=True, rng=rng_backbone
        )
        projected = self.classifier.logits(params, objective_state, features, rng=rng_head)
        scores = jnp.where(self.learned, self.scores(projected), -jnp.inf)
        value = jnp.mean(LOSSES[self.name](scores, batch["label"], margin=self.margin))
        metrics = {"loss": value, "accuracy": 1 - jnp.mean(zero_one(scores, batch["label"]))}
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)

    def scores(self, projected: jax.Array) -> jax.Array:
        """Returns F float32 [B, C]. Args: projected, W^T phi float [B, a]."""
        return jnp.matmul(projected, self.signatures.T, precision="highest")

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        """Returns {"logits": F float32 [B, C], "embedding": float [B, D]}, C all classes."""
        outputs = self.classifier.predict(params, objective_state, batch)
        return outputs | {"logits": self.scores(outputs["logits"])}
