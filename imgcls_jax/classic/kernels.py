"""Kernels of histograms, and the Gaussian one.

The chi-square kernel: Zhang, Marszalek, Lazebnik and Schmid 2007 (IJCV 73).
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics.pairwise import additive_chi2_kernel


def intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns sum_d min(a_d, b_d), float64 [n, m], for a [n, D] and b [m, D], not negative."""
    return np.array([np.minimum(b, row).sum(axis=1) for row in a], np.float64).reshape(len(a), len(b))


def chi_square(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the distances 1/2 sum_d (a_d - b_d)^2 / (a_d + b_d), float64 [n, m]; 0 / 0 counts as 0.

    Args:
      a, b: float [n, D] and [m, D], not negative.
    """
    return -0.5 * additive_chi2_kernel(np.asarray(a, np.float64), np.asarray(b, np.float64))
