"""Zero-shot classification by classifiers of attributes: direct attribute prediction (DAP).

Lampert, Nickisch and Harmeling, "Learning to Detect Unseen Object Classes by Between-Class Attribute
Transfer", CVPR 2009. Each attribute is a logistic regression on the embeddings of the learned classes'
images; a class scores

    sum_m log p(a_m = a_m^c | x) - log p(a_m^c)

with a_m^c its attributes, 0 or 1, and p(a_m) their share among the learned classes. A number of a signature
is 1 where it exceeds its mean over the learned classes. An attribute that they all have, or all lack, is left
out.

Differences from the paper: logistic regression for support vector machines with Platt scaling; embeddings of
norm 1. What choosing among all classes gives is told, too; the scores are not made for it, and learned
classes win nearly always.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import log_expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from imgcls_jax.contracts.evaluator import OpenSplit, Predict, embedding, make_collector
from imgcls_jax.metrics.zero_shot import (
    Scored,
    learned_classes,
    measured_by_report,
    report,
    signatures_of,
)

READS = ("embedding",)  # of what the objective predicts


def measures(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the numbers that `make` measures."""
    del options
    return (*measured_by_report(calibrated=False), "num_attributes")


def make(
    predict: Predict,
    open_split: OpenSplit,
    *,
    task: Any,
    split: str,
    unseen_split: str = "unknown:{split}",
    train_split: str = "train",
    C: float = 1.0,
    max_iterations: int = 200,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {"embedding": float [B, D], ...}.
      open_split: split -> its batches, each example once, with label int [B] and mask bool [B].
      task: num_classes, class_counts and signatures are read.
      split: to score, of the classes that are learned.
      unseen_split: to score, of the others; "{split}" in it stands for split.
      train_split: to learn from.
      C: scikit-learn's inverse of the L2 penalty, positive; the larger, the less.
      max_iterations: of each L-BFGS; scikit-learn warns where they were too few.

    Returns:
      A function that returns what `report` of metrics/zero_shot.py returns, and num_attributes, those that
      tell the learned classes apart.

    Raises:
      ValueError: no signatures, no unseen class, or a number out of range.
    """
    is_seen = learned_classes(task)
    if not C > 0 or max_iterations < 1:
        raise ValueError(
            f"dap needs a positive C and max_iterations of at least 1; got {C}, {max_iterations}"
        )
    attributes = binary_attributes(signatures_of(task), is_seen)
    collect = make_collector(embedding(predict), open_split)

    def collected(params: Any, objective_state: Any, name: str) -> Scored:
        examples = collect(params, objective_state, name.replace("{split}", split))
        return Scored(normalize(examples["embedding"].astype(np.float64)), examples["label"])

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        rows, labels = collected(params, objective_state, train_split)
        with threadpool_limits(1):  # as in linear_probe.py
            fits = [
                LogisticRegression(C=C, max_iter=max_iterations).fit(rows, column)
                for column in attributes[labels].T
            ]
        prior = attributes[is_seen].mean(axis=0)

        def scored(name: str) -> Scored:
            rows, labels = collected(params, objective_state, name)
            logits = np.stack([fit.decision_function(rows) for fit in fits], axis=1)
            return Scored(scores(logits, attributes, prior), labels)

        return report(scored(split), scored(unseen_split), is_seen) | {"num_attributes": len(fits)}

    return evaluate


def binary_attributes(signatures: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """Returns the attributes that tell the learned classes apart, bool [C, M].

    Args:
      signatures: float [C, a].
      learned: bool [C].

    Raises:
      ValueError: none does.
    """
    binary = signatures > signatures[learned].mean(axis=0)
    differing = binary[learned].any(axis=0) & ~binary[learned].all(axis=0)
    if not differing.any():
        raise ValueError("dap: the learned classes all have the same signature")
    return binary[:, differing]


def scores(logits: np.ndarray, attributes: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Returns the score of each class, float [N, C].

    Args:
      logits: float [N, M], log-odds of each attribute.
      attributes: bool [C, M].
      prior: float [M] in (0, 1), the share of the learned classes that have it.
    """
    has = log_expit(logits) - np.log(prior)  # [N, M]
    lacks = log_expit(-logits) - np.log1p(-prior)
    return has @ attributes.T + lacks @ ~attributes.T
