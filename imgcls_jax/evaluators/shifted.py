"""Accuracy on a test set of some of the network's classes, or with several right answers an image.

ImageNet-A and ImageNet-R hold 200 of the 1,000 classes, and their papers let the network choose among these
alone: Hendrycks et al. 2021, arXiv:1907.07174 and arXiv:2006.16241. Both figures are told here, as of any
other set. An image with several right labels, as those of ObjectNet and ReaL, is right where the best class
is one of them (Beyer et al. 2020, arXiv:2006.07159). A tie of a right class with a wrong one is an error, as
in the evaluator `classification`. The sets themselves are in data/shifted_imagenet.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.contracts.evaluator import (
    OpenSplit,
    Predict,
    SplitFacts,
    check_known,
    make_collector,
)
from imgcls_jax.metrics.intervals import check_resamples, of_means

READS = ("logits",)  # of what the objective predicts
MEASURES = ("num_examples", "accuracy", "top5_accuracy", "set_accuracy", "num_set_classes")


def check(splits: Mapping[str, SplitFacts], options: Mapping[str, Any], task: Any) -> None:
    """Raises ValueError for a split of other classes than the network's."""
    check_known("split", splits["split"], task.num_classes)


def make(
    predict: Predict, open_split: OpenSplit, *, task: Any, split: str, bootstrap: int = 0
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {"logits": float [B, K], ...}.
      open_split: split -> its batches, each example once, with mask bool [B] and label int [B], or [B, K] of
        0 and 1 where several labels may be right.
      task: num_classes K is read.
      split: to evaluate on.
      bootstrap: resamples of the images, such as 1000, for intervals at 95 %; 0 for none.

    Returns:
      A function that returns num_examples; accuracy (top-1) and, where K > 5, top5_accuracy, among all
      classes; set_accuracy, top-1 among the classes that are right for some image of the split, and their
      number, num_set_classes; with bootstrap intervals, {name: [low, high]}. Rates lie in [0, 1].

    Raises:
      ValueError: bootstrap is out of range; later, an image without a right label.
    """
    check_resamples("shifted", bootstrap)

    def columns(params: Any, objective_state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"logits": predict(params, objective_state, batch)["logits"].astype(jnp.float32)}

    collect = make_collector(columns, open_split, multi_label=None)

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        found = collect(params, objective_state, split)
        labels = found["label"]
        right = labels > 0 if labels.ndim == 2 else labels[:, None] == np.arange(task.num_classes)
        if not right.any(axis=1).all():
            raise ValueError(f"shifted: an image of {split} has no right label; leave it out of the split")
        in_set = right.any(axis=0)
        rank = ranks(found["logits"], right)
        hits = {"accuracy": rank == 0}
        hits |= {"top5_accuracy": rank < 5} if task.num_classes > 5 else {}
        hits["set_accuracy"] = ranks(found["logits"][:, in_set], right[:, in_set]) == 0
        metrics: dict[str, Any] = {"num_examples": len(labels), "num_set_classes": int(in_set.sum())}
        metrics |= {name: float(own.mean()) for name, own in hits.items()}
        return metrics | ({"intervals": of_means(hits, resamples=bootstrap)} if bootstrap else {})

    return evaluate


def ranks(logits: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns how many wrong classes score at least as high as the best right one, int [N].

    Args:
      logits: float [N, K].
      right: bool [N, K], at least one an image.
    """
    best = np.where(right, logits, -np.inf).max(axis=1, keepdims=True)
    return np.sum((logits >= best) & ~right, axis=1)
