"""How well scores rank the examples with a label before those without it, for each label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score


def ranking(
    truth: np.ndarray, scores: np.ndarray, ignored: np.ndarray | None = None
) -> dict[str, list[float | None]]:
    """Returns {"roc_auc", "average_precision"}, K numbers in [0, 1] each, the latter without interpolation;
    None for a label that no example has, or all have.

    Args:
      truth: bool [N, K].
      scores: float [N, K].
      ignored: bool [N, K], examples that are left out of a label's ranking; None for none.
    """
    counts = np.ones(truth.shape, bool) if ignored is None else ~ignored
    columns = [(own[kept], score[kept]) for own, score, kept in zip(truth.T, scores.T, counts.T, strict=True)]
    metrics: dict[str, Any] = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}
    return {
        name: [float(metric(own, score)) if own.any() and not own.all() else None for own, score in columns]
        for name, metric in metrics.items()
    }


def resampled_ranking(
    truth: np.ndarray, scores: np.ndarray, ignored: np.ndarray | None = None
) -> Callable[[np.ndarray], dict[str, float | None]]:
    """Returns the function from how often each example counts, [N], to the means over labels of what
    `ranking` returns. Each label is sorted once. Arguments as of `ranking`.

    Eq.: with t and f the counts of examples with and without the label down to a score, T and F those of all,
    AUC = sum (f - f_before) (t + t_before) / (2 T F) and AP = sum (t - t_before) / T * t / (t + f), over the
    distinct scores, the highest first.
    """
    labels = []
    for k in range(truth.shape[1]):
        order = np.argsort(-scores[:, k], kind="stable")
        order = order if ignored is None else order[~ignored[order, k]]
        ranked = scores[order, k]
        last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(order) - 1)  # of each score
        labels.append((order, truth[order, k], last if len(order) else order))

    def means(counts: np.ndarray) -> dict[str, float | None]:
        areas: list[float | None] = []
        precisions: list[float | None] = []
        for order, own, last in labels:
            drawn = counts[order]
            with_label = np.cumsum(drawn * own)[last]
            without = np.cumsum(drawn)[last] - with_label
            if not len(last) or not with_label[-1] or not without[-1]:
                continue
            steps = np.diff(with_label, prepend=0)
            both = with_label + with_label - steps
            area = np.sum(np.diff(without, prepend=0) * both) / (2 * with_label[-1] * without[-1])
            precision = with_label / np.maximum(with_label + without, 1)
            areas.append(float(area))
            precisions.append(float(np.sum(steps * precision) / with_label[-1]))
        return {"roc_auc": mean_of_known(areas), "average_precision": mean_of_known(precisions)}

    return means


def interpolated_precision(truth: np.ndarray, scores: np.ndarray, *, points: int = 0) -> float | None:
    """Returns the average precision of a label as PASCAL VOC measures it; None where no example has it.

    At each recall the largest precision that is reached there or later counts (Everingham et al. 2010,
    section 4.2): p(r) = max_{r' >= r} precision(r'). The mean of p over `points` recalls 0, ..., 1, 11 of
    them up to 2009, or, from 2010 on, the area under p. Of equal scores the earlier example goes first.

    Args:
      truth: bool [N].
      scores: float [N].
      points: at least 2; 0 for the area.
    """
    if not truth.any():
        return None
    hits = np.cumsum(truth[np.argsort(-scores, kind="stable")])
    recall, precision = hits / hits[-1], hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if not points:
        return float(np.sum(np.diff(recall, prepend=0.0) * best))
    at = np.searchsorted(recall, np.arange(points) / (points - 1) - 1e-12)
    return float(np.mean(best[at]))


def mean_of_known(values: list[float | None]) -> float | None:
    """Returns the mean of the numbers that are not None; None where there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
