"""Bilinear compatibility of images and class signatures: classes without a training image are recognized.

    F(x, y) = phi(x)^T W psi(y),   phi(x) the embedding, psi(y) the signature of class y with norm 1

The network learns F on the classes that have training images and then ranks all that have a signature
(data.signatures). `objective.loss` chooses how:

    devise      every other class is to stay a margin below the label (Frome et al., NeurIPS 2013)
    sje         the worst of them alone (Akata et al. 2015, arXiv:1409.8403)
    ale         all of them, weighted by the rank of the label (Akata et al. 2016, arXiv:1503.08677)
    attributes  none is compared: W^T phi(x) predicts the attributes, each by sigmoid cross-entropy against
                the label's, and F is the cosine of what it predicts and the signature (direct attribute
                prediction as one network, after Lampert et al. 2009, without its class priors)

params, objective_state: those of contracts/classifier.py; the head has an output for each entry of a signature.

Differences from the papers: W has a bias, as if phi had one more entry that is always 1. The embedding learns
too unless its group is frozen; the papers keep phi fixed, DeViSE at first. Batches and any optimizer stand in
place of SGD image by image. DeViSE's psi are word vectors and its margin 0.1 suits vectors of norm 1; here
psi are whatever the file holds. ALE counts the violations of all classes, where its authors' training draws
classes until one violates.
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
from imgcls_jax.losses import (
    ale_loss,
    devise_loss,
    l2_normalize,
    sigmoid_cross_entropy,
    sje_loss,
    zero_one,
)

RANKING = {"devise": devise_loss, "sje": sje_loss, "ale": ale_loss}
MARGINS = {"devise": 0.1, "sje": 1.0, "ale": 1.0}  # of the papers
ATTRIBUTES = "attributes"


def make(
    backbone: Any,
    task: Task,
    *,
    loss: str = "ale",
    margin: float | None = None,
    center: bool = False,
    dropout: float = 0.0,
    ema_decay: float | None = None,
    ema_warmup: bool = True,
    head: str = "",
    head_fields: Mapping[str, Any] | None = None,
) -> Objective:
    """Returns the objective.

    Args:
      backbone: module of models/.
      task: num_classes C, class_counts and signatures are read. Classes without a training image take no part
        in the loss.
      loss: "devise", "sje", "ale" or "attributes".
      margin: at least 0; None for the paper's: 0.1 of devise, 1 of sje and ale. "attributes" has none.
      center: whether the mean signature of the learned classes is taken off all before they are normalized.
        Attributes that all classes share say nothing, and outweigh the others otherwise.
      dropout, ema_decay, ema_warmup, head, head_fields: as `make_classifier` has them.

    Raises:
      ValueError: an unknown loss, a number out of range, or a run without signatures.
    """
    require_one_of((*RANKING, ATTRIBUTES), loss=loss)
    if margin is not None:
        require_between(0, math.inf, margin=margin)
    signatures = np.asarray(task.signatures)
    if not len(signatures):
        raise ValueError(
            "this objective compares images with the signatures of classes: set config.data.signatures to a file "
            "of them (imgcls_jax/data/signatures.py)"
        )
    learned = np.array(task.class_counts or np.ones(task.num_classes)) > 0
    if loss == ATTRIBUTES and signatures.min() < 0:
        raise ValueError('objective.loss = "attributes" needs signatures of numbers >= 0, such as shares')
    classifier = make_classifier(
        backbone,
        signatures.shape[1],
        dropout=dropout,
        head=head,
        head_fields=head_fields,
        ema_decay=ema_decay,
        ema_warmup=ema_warmup,
    )
    origin = signatures[learned].mean(axis=0) if center else np.zeros(signatures.shape[1])
    learner = _Compatibility(
        classifier,
        loss,
        MARGINS.get(loss, 0.0) if margin is None else margin,
        jnp.asarray(learned),
        jnp.asarray(signatures / max(signatures.max(), 1e-30), jnp.float32),
        jnp.asarray(origin / max(signatures.max(), 1e-30), jnp.float32),
    )
    return Objective(
        batch_keys=("image", "label"),
        init=lambda rng, batch: classifier.init(rng, batch["image"]),
        loss=learner.loss,
        predict=learner.predict,
        after_update=classifier.after_update,
        reads_pixels=False,
    )
