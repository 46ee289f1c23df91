"""Precision, recall and F-measures of classes or labels, from counts."""

from __future__ import annotations

import numpy as np


def rates(
    right: np.ndarray, support: np.ndarray, predicted: np.ndarray, *, beta: float
) -> dict[str, np.ndarray]:
    """Returns precision, recall, f1 and f_beta, a number each in [0, 1]; 0 for a ratio without examples.

    Eq.: F_b = (1 + b^2) right / (b^2 support + predicted), as scikit-learn has them.

    Args:
      right: numbers [...], examples predicted to be what they are.
      support: how many there are.
      predicted: how many are predicted.
      beta: of f_beta.
    """
    f_measures = {
        name: _ratio((1 + b**2) * right, b**2 * support + predicted)
        for name, b in (("f1", 1), ("f_beta", beta))
    }
    return {"precision": _ratio(right, predicted), "recall": _ratio(right, support)} | f_measures


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0)
