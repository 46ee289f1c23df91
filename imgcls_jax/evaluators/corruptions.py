"""Errors on corrupted images, and the mean corruption error of ImageNet-C.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
arXiv:1903.12261 (2019), section 4.1. A corruption's errors over its five severities are divided by those of
AlexNet, since some corruptions are harder than others; 100 * mce is what is published. Images of ImageNet-C
are 224 pixels wide as they are: their line is `decode | rgb | center_crop(224) | normalize(...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from imgcls_jax.contracts.evaluator import (
    OpenSplit,
    Predict,
    SplitFacts,
    check_known,
    check_splits,
    make_collector,
)
from imgcls_jax.data.shifted_imagenet import CORRUPTIONS, SEVERITIES
from imgcls_jax.losses import label_rank

READS = ("logits",)  # of what the objective predicts
MEASURES = ("num_examples", "accuracy", "mce", *(f"ce_{name}" for name in CORRUPTIONS))
# Means over the five severities of AlexNet's errors, in the order of CORRUPTIONS; github.com/hendrycks/
# robustness gives them, and github.com/google-research/augmix as here.
ALEXNET_ERRORS = (
    *(0.886428, 0.894468, 0.922640, 0.819880, 0.826268),
    *(0.785948, 0.798360, 0.866816, 0.826572, 0.819324),
    *(0.564592, 0.853204, 0.646056, 0.717840, 0.606500),
)


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
      open_split: split -> its batches, each example once, with label int [B], mask bool [B], corruption int
        [B], an index into data.shifted_imagenet.CORRUPTIONS, and severity int [B], 1 to 5.
      task: not read.
      split: to evaluate on, as "imagenet-c".

    Returns:
      A function that returns num_examples; accuracy (top-1), the mean over the corruptions and severities
      that there are; ce_<corruption>, its errors over those of AlexNet, None where the split lacks it or a
      severity; mce, their mean, None where one is; errors, a list of five for each corruption, in [0, 1] or
      None.

    Raises:
      ValueError: later, a split without corruptions.
    """
    del task

    def columns(params: Any, objective_state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        if "corruption" not in batch or "severity" not in batch:
            raise ValueError(
                f"corruptions: the images of {split} say neither corruption nor severity: name a split such "
                "as 'imagenet-c', or choose the evaluator 'classification'"
            )
        logits = predict(params, objective_state, batch)["logits"]
        kinds = {name: batch[name] for name in ("corruption", "severity")}
        return kinds | {"wrong": label_rank(logits, batch["label"]) > 0}

    collect = make_collector(columns, open_split)

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        found = collect(params, objective_state, split)
        return report(found["wrong"], found["corruption"], found["severity"])

    return evaluate


def report(wrong: np.ndarray, corruption: np.ndarray, severity: np.ndarray) -> dict[str, Any]:
    """Measures predictions.

    Eq.: CE_c = sum_s E_{s,c} / sum_s E_{s,c} of AlexNet, mCE = mean_c CE_c.

    Args:
      wrong: bool [N].
      corruption, severity: int [N], as of `make`.

    Returns:
      What `make` says.
    """
    shape = len(CORRUPTIONS), len(SEVERITIES)
    at = np.asarray(corruption) * shape[1] + np.asarray(severity) - SEVERITIES[0]
    counts = np.bincount(at, minlength=shape[0] * shape[1]).reshape(shape)
    errors = np.bincount(at, wrong, minlength=shape[0] * shape[1]).reshape(shape) / np.maximum(counts, 1)
    whole = np.all(counts > 0, axis=1)
    relative = errors.mean(axis=1) / np.array(ALEXNET_ERRORS)
    ratios = {
        f"ce_{name}": float(own) if there else None
        for name, own, there in zip(CORRUPTIONS, relative, whole.tolist(), strict=True)
    }
    lists = [
        [float(error) if n else None for error, n in zip(*row, strict=True)]
        for row in zip(errors, counts, strict=True)
    ]
    return {
        "num_examples": len(wrong),
        "accuracy": float(1 - errors[counts > 0].mean()),
        "mce": float(relative.mean()) if whole.all() else None,
        **ratios,
        "errors": lists,
    }
