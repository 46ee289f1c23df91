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


def mean_of_known(values: list[float | None]) -> float | None:
    """Returns the mean of the numbers that are not None; None where there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
