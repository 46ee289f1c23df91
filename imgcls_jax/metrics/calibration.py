"""How sure predictions are, against how often they are right; and one number that mends it.

Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax


def calibration(
    confidence: np.ndarray, hits: np.ndarray, *, bins: int
) -> tuple[dict[str, list[float | None]], float]:
    """Compares how sure predictions are with how often they are right.

    Eq.: ECE = sum_b n_b / N |accuracy_b - confidence_b|, over equally wide bins (i / bins, (i + 1) / bins]
    (Guo et al. 2017, arXiv:1706.04599).

    Args:
      confidence: float [N] in [0, 1], the probability of the predicted class.
      hits: bool [N].
      bins: how many.

    Returns:
      {"count", "confidence", "accuracy"}, a list of `bins` each, and the error.
    """
    at = np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    sums = {"confidence": np.bincount(at, confidence, bins), "accuracy": np.bincount(at, hits, bins)}
    columns: dict[str, list[float | None]] = {"count": [int(n) for n in count]}
    for name, total in sums.items():
        columns[name] = [float(value / n) if n else None for value, n in zip(total, count, strict=True)]
    ece = float(np.abs(sums["accuracy"] - sums["confidence"]).sum() / len(hits))
    return columns, ece


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the cross-entropies in nats, float64 [N]. Args: logits float [N, K]; labels integer [N]."""
    return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].astype(np.float64)


def best_temperature(values: np.ndarray, labels: np.ndarray) -> float:
    """Returns the T in 0.001..1000 that minimizes the cross-entropy of softmax(values / T).

    Differs from Guo et al.: the targets are smoothed by 1 / (N + 1), as Platt (1999) smooths his. Values
    without an error would otherwise be beyond all doubt.

    Args:
      values: float [N, K], logits of examples that were not learned from.
      labels: integer [N].
    """
    rows, smoothing = np.arange(len(labels)), 1 / (len(labels) + 1)

    def loss(exponent: float) -> float:
        logarithms = log_softmax(values / 10**exponent, axis=1)
        return -float((1 - smoothing) * logarithms[rows, labels].mean() + smoothing * logarithms.mean())

    return float(10 ** minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)
