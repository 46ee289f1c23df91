"""Multi-label classification, exact over a split: sets of labels and rankings, each label's and all together.

Everything is computed on the host from the probabilities of the whole split at once, the means by
scikit-learn. An undefined ratio counts as 0; a ranking metric of a label that no image has, or all have, is
None and left out of the mean. Where a source gives "ignore", as `voc` does for difficult objects, those
decisions count neither way: as PASCAL VOC has it, they are left out of the rankings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import metrics as sklearn_metrics

from imgcls_jax.contracts.evaluator import (
    Examples,
    OpenSplit,
    Predict,
    SplitFacts,
    check_splits,
    make_collector,
)
from imgcls_jax.metrics.ranking import interpolated_precision, mean_of_known, ranking

READS = ("probabilities",)  # of what the objective predicts


def check(splits: Mapping[str, SplitFacts], options: Mapping[str, Any], task: Any) -> None:
    """Raises ValueError for a split of one label an image."""
    check_splits(splits, multi_label=True)


def measures(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the numbers that `make` with these options measures."""
    of_images = ("num_examples", "exact_match", "hamming_loss", "jaccard", "map", "macro_roc_auc", "macro_f1")
    voc = ("voc_map",) if options["voc_year"] else ()
    return (*of_images, "CP", "CR", "CF1", "OP", "OR", "OF1", *voc)


def make(
    predict: Predict,
    open_split: OpenSplit,
    *,
    task: Any,
    split: str,
    threshold: float = 0.5,
    fit_split: str = "",
    top_k: int = 0,
    voc_year: int = 0,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {"probabilities": float [B, K], ...}; where it gives
        "chosen", bool [B, K], too, those are the predicted sets and no threshold is read.
      open_split: split -> its batches, each example once, with label int [B, K] of 0 and 1 and mask bool [B],
        perhaps ignore int [B, K] of 0 and 1.
      task: num_classes K is read.
      split: to evaluate on.
      threshold: a label from this probability on is predicted.
      fit_split: where it is named, each label has a threshold of its own, which makes its F1 largest there;
        another split than the one evaluated, if the figures are to mean anything.
      top_k: where positive, the k most probable labels of each image are predicted instead, as some papers
        report.
      voc_year: adds "voc_map" and "voc_average_precision" as PASCAL VOC measured them in that year: on 11
        points up to 2009, by the area from 2010 on (`metrics.ranking.interpolated_precision`); 0 for neither.

    Returns:
      A function that returns what `report` does, and the list of thresholds where they were fit.

    Raises:
      ValueError: a field is out of range, or fit_split is the split evaluated.
    """
    if not 0 <= threshold <= 1 or not 0 <= top_k <= task.num_classes or fit_split == split:
        raise ValueError(
            f"multilabel needs a threshold in [0, 1], top_k up to {task.num_classes} and a fit_split other "
            f"than split; got {threshold}, {top_k} and {fit_split!r}"
        )

    collect = make_collector(functools.partial(_columns, predict), open_split, multi_label=True)

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        found = collect(params, objective_state, split)
        probabilities, labels, ignored = found["probabilities"], found["label"] > 0, _ignored(found)
        fitted = {}
        if top_k:
            rank = np.argsort(np.argsort(-probabilities, axis=1, kind="stable"), axis=1, kind="stable")
            chosen = rank < top_k
        elif "chosen" in found:
            chosen = found["chosen"]
        else:
            limits = np.full(task.num_classes, threshold)
            if fit_split:
                fit = collect(params, objective_state, fit_split)
                limits = best_thresholds(fit["probabilities"], fit["label"] > 0, _ignored(fit))
                fitted = {"thresholds": limits.tolist()}
            chosen = probabilities >= limits
        return report(probabilities, chosen, labels, ignored, voc_year) | fitted

    return evaluate


def _columns(
    predict: Predict, params: Any, objective_state: Any, batch: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    outputs = predict(params, objective_state, batch)
    kept = {"probabilities": outputs["probabilities"].astype(jnp.float32)}
    kept |= {"ignore": batch["ignore"]} if "ignore" in batch else {}
    return kept | ({"chosen": outputs["chosen"]} if "chosen" in outputs else {})


def _voc(
    probabilities: np.ndarray, labels: np.ndarray, ignored: np.ndarray | None, year: int
) -> dict[str, Any]:
    """Returns the measure of PASCAL VOC. Args: as of `report`; year: of the challenge."""
    counts = np.ones_like(labels) if ignored is None else ~ignored
    values = [
        interpolated_precision(own[kept], score[kept], points=11 if year < 2010 else 0)
        for own, score, kept in zip(labels.T, probabilities.T, counts.T, strict=True)
    ]
    return {"voc_map": mean_of_known(values), "voc_average_precision": values}


def _ignored(found: Examples) -> np.ndarray | None:
    return found["ignore"] > 0 if "ignore" in found else None


def report(
    probabilities: np.ndarray,
    chosen: np.ndarray,
    labels: np.ndarray,
    ignored: np.ndarray | None = None,
    voc_year: int = 0,
) -> dict[str, Any]:
    """Measures predictions.

    Args:
      probabilities: float [N, K], that each label applies.
      chosen: bool [N, K], the predicted sets.
      labels: bool [N, K].
      ignored: bool [N, K], decisions that count neither way; None for none. In the measures of whole images
        (exact_match, jaccard) such a label is in neither set.
      voc_year: as of `make`.

    Returns:
      num_examples; exact_match, the share of images with exactly the right set; hamming_loss; jaccard, the
      mean of |P and T| / |P or T|, 1 where both are empty; map, the mean of the labels' average precision;
      macro_roc_auc; CP, CR, the means of the labels' precision and recall, and CF1, the F1 of those two
      means; macro_f1, the mean of the labels' F1; OP, OR and OF1, over all decisions together; lists of K:
      precision, recall, f1, average_precision, roc_auc, support. All in [0, 1].
    """
    if ignored is not None:
        labels, chosen = labels & ~ignored, chosen & ~ignored
    counted = labels.size - (0 if ignored is None else ignored.sum())
    options = dict(average=None, zero_division=0)
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        labels, chosen, **options
    )
    overall = sklearn_metrics.precision_recall_fscore_support(
        labels, chosen, average="micro", zero_division=0
    )
    means = {"CP": precision.mean(), "CR": recall.mean()}
    both = means["CP"] + means["CR"]
    union = np.sum(labels | chosen, axis=1)
    jaccard = np.where(union > 0, np.sum(labels & chosen, axis=1) / np.maximum(union, 1), 1.0)
    numbers = {
        "exact_match": np.mean(np.all(chosen == labels, axis=1)),
        "hamming_loss": np.sum(chosen != labels) / max(counted, 1),
        "jaccard": jaccard.mean(),
        **means,
        "CF1": 2 * means["CP"] * means["CR"] / both if both else 0.0,
        "macro_f1": f1.mean(),
        **dict(zip(("OP", "OR", "OF1"), overall[:3], strict=True)),
    }
    lists = {"precision": precision, "recall": recall, "f1": f1, "support": support}
    result: dict[str, Any] = {"num_examples": len(labels)}
    result |= {name: float(value) for name, value in numbers.items()}
    result |= {name: value.tolist() for name, value in lists.items()}
    ranked = ranking(labels, probabilities, ignored)
    result |= ranked
    result["map"] = mean_of_known(ranked["average_precision"])
    result["macro_roc_auc"] = mean_of_known(ranked["roc_auc"])
    return result | (_voc(probabilities, labels, ignored, voc_year) if voc_year else {})


def best_thresholds(
    probabilities: np.ndarray, labels: np.ndarray, ignored: np.ndarray | None = None
) -> np.ndarray:
    """Returns the threshold of each label that makes its F1 largest, float [K]; of equal ones the lowest.

    Args:
      probabilities: float [N, K].
      labels: bool [N, K]; a label that no image has keeps 0.5.
      ignored: bool [N, K], decisions that count neither way; None for none.
    """
    limits = np.full(probabilities.shape[1], 0.5)
    counts = np.ones_like(labels) if ignored is None else ~ignored
    for k in np.flatnonzero((labels & counts).any(axis=0)):
        own = counts[:, k]
        precision, recall, at = sklearn_metrics.precision_recall_curve(labels[own, k], probabilities[own, k])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        limits[k] = at[np.argmax(f1[:-1])]
    return limits
