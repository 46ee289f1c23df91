"""Single-label classification, exact over a split: loss, top-1, top-5 and per-class accuracy.

The devices add up sums and counts batch by batch, and one division at the end makes the figures. So neither
the batch size nor the number of devices changes a figure. A tie or a NaN among the logits counts as an error.
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
    check_labels,
    check_splits,
)
from imgcls_jax.losses import label_rank, softmax_cross_entropy

READS = ("logits",)  # of what the objective predicts
MEASURES = ("num_examples", "loss", "accuracy", "top5_accuracy")


def check(splits: Mapping[str, SplitFacts], options: Mapping[str, Any], task: Any) -> None:
    """Raises ValueError for a split that cannot be measured so."""
    check_splits(splits)
    check_known("split", splits["split"], task.num_classes)


def make(
    predict: Predict, open_split: OpenSplit, *, task: Any, split: str
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {"logits": float [B, K], ...}.
      open_split: split -> its batches, each example once, with label int [B] and mask bool [B].
      task: num_classes K is read.
      split: to evaluate on.

    Returns:
      A function that returns num_examples, loss (nats), accuracy (top-1), top5_accuracy (only where K > 5: it
      says nothing otherwise) and per_class_accuracy, K numbers, None where a class has no example. Accuracies
      lie in [0, 1].
    """
    num_classes = task.num_classes

    @jax.jit
    def sums(params: Any, objective_state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        logits = predict(params, objective_state, batch)["logits"]
        mask, labels = batch["mask"], batch["label"]
        check_labels(labels.ndim == 2, multi_label=False)
        rank = label_rank(logits, labels)
        loss = jnp.where(mask, softmax_cross_entropy(logits, labels), 0.0)
        classes = jax.nn.one_hot(labels, num_classes, dtype=jnp.int32) * mask[:, None]
        return {
            "loss": jnp.sum(loss),
            "top5": jnp.sum(mask & (rank < 5)),
            "class_hits": jnp.sum(classes * (rank == 0)[:, None], axis=0),
            "class_counts": jnp.sum(classes, axis=0),
        }

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        totals: dict[str, Any] = {}
        for batch in open_split(split):
            for name, value in jax.device_get(sums(params, objective_state, batch)).items():
                totals[name] = totals.get(name, 0) + np.asarray(value, np.float64)
        hits, counts = totals["class_hits"], totals["class_counts"]
        num_examples = int(counts.sum())
        if not num_examples:
            raise ValueError(f"no example of the split {split!r} could be read: nothing to evaluate")
        metrics = {
            "num_examples": num_examples,
            "loss": float(totals["loss"] / num_examples),
            "accuracy": float(hits.sum() / num_examples),
        }
        if num_classes > 5:
            metrics["top5_accuracy"] = float(totals["top5"] / num_examples)
        per_class = [float(h / n) if n else None for h, n in zip(hits, counts, strict=True)]
        return metrics | {"per_class_accuracy": per_class}

    return evaluate
