"""Multi-label classification, exact over a split: sets of labels and rankings, each label's and all together.

Everything is computed on the host from the probabilities of the whole split at once. An undefined ratio
counts as 0; a ranking metric of a label that no image has, or all have, is None and left out of the mean.
Where a source gives "ignore", as `voc` does for difficult objects, those decisions count neither way: as
PASCAL VOC has it, they are left out of the rankings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import precision_recall_curve

from imgcls_jax.contracts.evaluator import (
    Examples,
    OpenSplit,
    Predict,
    SplitFacts,
    check_splits,
    make_collector,
)
from imgcls_jax.metrics.intervals import check_resamples, intervals
from imgcls_jax.metrics.ranking import interpolated_precision, mean_of_known, ranking, resampled_ranking
from imgcls_jax.metrics.rates import rates

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
    bootstrap: int = 0,
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
      bootstrap: resamples of the images, such as 1000, for intervals at 95 %; 0 for none.

    Returns:
      A function that returns what `report` does, the list of thresholds where they were fit, and with
      bootstrap intervals, {name: [low, high]} of the numbers, where the thresholds stay.

    Raises:
      ValueError: a field is out of range, or fit_split is the split evaluated.
    """
    if not 0 <= threshold <= 1 or not 0 <= top_k <= task.num_classes or fit_split == split:
        raise ValueError(
            f"multilabel needs a threshold in [0, 1], top_k up to {task.num_classes} and a fit_split other "
            f"than split; got {threshold}, {top_k} and {fit_split!r}"
        )

    check_resamples("multilabel", bootstrap)
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
        result = report(probabilities, chosen, labels, ignored, voc_year) | fitted
        if bootstrap:
            result["intervals"] = _intervals(probabilities, chosen, labels, ignored, voc_year, bootstrap)
        return result

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
    decisions = _Decisions(labels, chosen, ignored)
    counts = np.ones(len(labels), int)
    by_label = rates(**decisions.sums(counts), beta=1)
    result: dict[str, Any] = {"num_examples": len(labels)} | decisions.numbers(counts)
    result |= {name: by_label[name].tolist() for name in ("precision", "recall", "f1")}
    result["support"] = labels.sum(axis=0).tolist()
    ranked = ranking(labels, probabilities, ignored)
    result |= ranked
    result["map"] = mean_of_known(ranked["average_precision"])
    result["macro_roc_auc"] = mean_of_known(ranked["roc_auc"])
    return result | (_voc(probabilities, labels, ignored, voc_year) if voc_year else {})


class _Decisions:
    """What is said of N images, none of the decisions ignored among them.

    Args:
      labels, chosen: bool [N, K].
      ignored: as of `report`.
    """

    def __init__(self, labels: np.ndarray, chosen: np.ndarray, ignored: np.ndarray | None):
        union = np.sum(labels | chosen, axis=1)
        jaccard = np.where(union > 0, np.sum(labels & chosen, axis=1) / np.maximum(union, 1), 1.0)
        self._by_image = {"exact_match": np.all(chosen == labels, axis=1), "jaccard": jaccard}
        self._errors = np.sum(chosen != labels, axis=1)
        self._decided = np.full(len(labels), labels.shape[1]) if ignored is None else np.sum(~ignored, axis=1)
        by_label = {"right": labels & chosen, "support": labels, "predicted": chosen}
        self._by_label = {name: own.astype(np.float32) for name, own in by_label.items()}

    def sums(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Returns {"right", "support", "predicted"} of each label, [K], where images count so often, [N]."""
        return {name: counts.astype(np.float32) @ own for name, own in self._by_label.items()}

    def numbers(self, counts: np.ndarray) -> dict[str, float]:
        """Returns the numbers that `report` has but for those of the rankings."""
        sums = self.sums(counts)
        by_label = rates(**sums, beta=1)
        overall = rates(**{name: own.sum(dtype=np.float64) for name, own in sums.items()}, beta=1)
        means = {"CP": by_label["precision"].mean(), "CR": by_label["recall"].mean()}
        both = means["CP"] + means["CR"]
        numbers = {name: counts @ own / counts.sum() for name, own in self._by_image.items()} | {
            "hamming_loss": counts @ self._errors / max(counts @ self._decided, 1),
            **means,
            "CF1": 2 * means["CP"] * means["CR"] / both if both else 0.0,
            "macro_f1": by_label["f1"].mean(),
            **{f"O{name[0].upper()}": overall[name] for name in ("precision", "recall")},
            "OF1": overall["f1"],
        }
        return {name: float(value) for name, value in numbers.items()}


def _intervals(
    probabilities: np.ndarray,
    chosen: np.ndarray,
    labels: np.ndarray,
    ignored: np.ndarray | None,
    voc_year: int,
    resamples: int,
) -> dict[str, Any]:
    if ignored is not None:
        labels, chosen = labels & ~ignored, chosen & ~ignored
    decisions, ranked = _Decisions(labels, chosen, ignored), resampled_ranking(labels, probabilities, ignored)

    def measure(counts: np.ndarray) -> dict[str, float | None]:
        means = ranked(counts)
        numbers: dict[str, float | None] = {**decisions.numbers(counts)}
        numbers |= {"map": means["average_precision"], "macro_roc_auc": means["roc_auc"]}
        if voc_year:
            rows = np.repeat(np.arange(len(counts)), counts)
            own = None if ignored is None else ignored[rows]
            numbers["voc_map"] = _voc(probabilities[rows], labels[rows], own, voc_year)["voc_map"]
        return numbers

    return intervals(measure, len(labels), resamples=resamples)


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
        precision, recall, at = precision_recall_curve(labels[own, k], probabilities[own, k])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        limits[k] = at[np.argmax(f1[:-1])]
    return limits
