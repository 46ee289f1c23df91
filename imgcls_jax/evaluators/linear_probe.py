"""A linear classifier on frozen embeddings: how much of the classes lies in them linearly.

Multinomial logistic regression by L-BFGS on the standardized embeddings of the training split, as CLIP
evaluates (Radford et al. 2021, arXiv:2103.00020, appendix A.3). Differences from the usual probe by SGD with
augmentation: each image is embedded once, after data.eval_transforms; the optimum is exact, and there is no
learning rate. It runs on the host and suits up to some 100,000 examples. Standardizing takes the place of the
BatchNorm without parameters that MAE puts before its probe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from imgcls_jax.contracts.evaluator import (
    Examples,
    OpenSplit,
    Predict,
    SplitFacts,
    check_shared_classes,
    check_splits,
    embedding,
    make_collector,
)
from imgcls_jax.data.subsets import balanced_subset
from imgcls_jax.metrics.intervals import check_resamples, of_means

READS = ("embedding",)  # of what the objective predicts
MEASURES = ("num_examples", "accuracy", "train_accuracy")


def check(splits: Mapping[str, SplitFacts], options: Mapping[str, Any], task: Any) -> None:
    """Raises ValueError where train_split has fewer than two classes, or too few examples of one."""
    check_splits(splits)
    train, wanted = splits["train_split"], options["labels_per_class"]
    present = [count for count in train.class_counts if count]
    if train.class_counts and len(present) < 2:
        raise ValueError(f"linear_probe: train_split = {train.name!r} has fewer than two classes")
    if present and min(present) < wanted:
        raise ValueError(
            f"linear_probe: labels_per_class = {wanted}, and a class of train_split = {train.name!r} has "
            f"{min(present)} examples"
        )
    check_shared_classes("train_split", splits["split"], train)


def make(
    predict: Predict,
    open_split: OpenSplit,
    *,
    task: Any,
    split: str,
    train_split: str = "train",
    labels_per_class: int = 0,
    label_seed: int = 0,
    C: float = 1.0,
    max_iterations: int = 1000,
    bootstrap: int = 0,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {"embedding": float [B, D], ...}.
      open_split: split -> its batches, each example once, with label int [B] and mask bool [B].
      task: not read.
      split: to score.
      train_split: to fit on.
      labels_per_class, label_seed: how many examples of each class to fit on, and the seed that chooses them,
        as config.data has them; 0 for all.
      C: scikit-learn's inverse of the L2 penalty, positive; the larger, the less.
      max_iterations: of L-BFGS; scikit-learn warns where they were too few.
      bootstrap: resamples of the split, such as 1000, for an interval at 95 % of the accuracy, the probe
        staying as it is; 0 for none.

    Returns:
      A function that returns num_examples, accuracy, and train_accuracy of the fit, both in [0, 1]; with
      bootstrap intervals, {"accuracy": [low, high]}.

    Raises:
      ValueError: a field is out of range.
    """
    del task
    if not C > 0 or max_iterations < 1 or min(labels_per_class, label_seed) < 0:
        raise ValueError(
            "linear_probe needs a positive C, max_iterations of at least 1, and no negative labels_per_class "
            f"or label_seed; got {C}, {max_iterations}, {labels_per_class} and {label_seed}"
        )
    check_resamples("linear_probe", bootstrap)
    collect = make_collector(embedding(predict), open_split)

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        train, test = collect(params, objective_state, train_split), collect(params, objective_state, split)
        if labels_per_class:
            chosen = balanced_subset(train["label"], labels_per_class, label_seed)
            train = {name: column[chosen] for name, column in train.items()}
        probe = fit(train, C=C, max_iterations=max_iterations)
        hits, train_hits = right(probe, test), right(probe, train)
        metrics: dict[str, Any] = {"num_examples": len(hits)}
        metrics |= {"accuracy": float(hits.mean()), "train_accuracy": float(train_hits.mean())}
        return metrics | (
            {"intervals": of_means({"accuracy": hits}, resamples=bootstrap)} if bootstrap else {}
        )

    return evaluate


def fit(examples: Examples, *, C: float, max_iterations: int) -> Pipeline:
    """Returns the probe that fits "embedding" float [N, D] to "label" int [N]."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=max_iterations))
    # The products are small. Threads that wait for each other at every one take minutes where other programs
    # use the processor too, and gain little where none do.
    with threadpool_limits(1):
        probe.fit(examples["embedding"].astype(np.float64), examples["label"])
    return probe


def right(probe: Pipeline, examples: Examples) -> np.ndarray:
    """Returns which examples a probe classifies right, bool [N]."""
    return np.asarray(probe.predict(examples["embedding"].astype(np.float64)) == examples["label"])
