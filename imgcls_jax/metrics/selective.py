"""Selective prediction: what is gained where a network may decline the images it is least sure of.

El-Yaniv and Wiener 2010, "On the Foundations of Noise-free Selective Classification"; Geifman and El-Yaniv
2017, arXiv:1705.08500, for deep networks; the area under the curve is that of Geifman et al. 2019,
arXiv:1805.08206. Coverage is the share of images that are answered, the most confident first; risk is the
share of errors among these.
"""

from __future__ import annotations

from typing import Any

import numpy as np

COVERAGES = (50, 80, 90, 95)  # per cent, at which accuracy is told
POINTS = 100  # of the curve, at most
MEASURES = ("aurc", *(f"accuracy_at_coverage_{coverage}" for coverage in COVERAGES))


def risks(confidence: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Returns the risk where the i + 1 most confident are answered, float64 [N] in [0, 1].

    Images of the same confidence come in any order: the risk is the mean over all orders.

    Args:
      confidence: float [N], the higher the surer.
      hits: bool [N], whether each answer is right.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    group = np.cumsum(np.append(True, ranked[1:] != ranked[:-1])) - 1
    errors = np.bincount(group, ~hits[order]) / np.bincount(group)
    return np.cumsum(errors[group]) / np.arange(1, len(hits) + 1)


def selective(confidence: np.ndarray, hits: np.ndarray) -> dict[str, float]:
    """Measures selective prediction; arguments as of `risks`.

    Returns:
      aurc, the mean of the risks over all N coverages, and accuracy_at_coverage_C, the accuracy of the C per
      cent most confident, rounded up to whole images; all in [0, 1].
    """
    found = risks(confidence, hits)
    at = {coverage: -(-coverage * len(found) // 100) - 1 for coverage in COVERAGES}
    accuracy = {f"accuracy_at_coverage_{coverage}": float(1 - found[last]) for coverage, last in at.items()}
    return {"aurc": float(found.mean())} | accuracy


def risk_coverage(confidence: np.ndarray, hits: np.ndarray) -> dict[str, Any]:
    """Returns the curve, {"coverage", "risk"}, lists of at most POINTS numbers; arguments as of `risks`."""
    found = risks(confidence, hits)
    last = np.unique(-(-np.arange(1, POINTS + 1) * len(found) // POINTS)) - 1
    return {"coverage": ((last + 1) / len(found)).tolist(), "risk": found[last].tolist()}
