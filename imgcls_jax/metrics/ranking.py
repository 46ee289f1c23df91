"""How well scores rank the examples with a label before those without it, for each label."""

from __future__ import annotations

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
