"""Spatial pyramids: codes pooled in the cells of ever finer grids.

Lazebnik, Schmid and Ponce 2006, "Beyond Bags of Features" (CVPR). Cells come level by level, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVELS = (1, 2, 4)  # cells a side
WEIGHTS = (0.25, 0.25, 0.5)  # of the levels, for histograms: 1 / 2^L, then 1 / 2^(L - l + 1)


def pooled(
    points: np.ndarray,
    found: np.ndarray,
    weights: np.ndarray,
    words: int,
    *,
    largest: bool,
    levels: Sequence[int] = LEVELS,
) -> np.ndarray:
    """Returns the pooled weight of each word in each cell, float32 [cells, words].

    Args:
      points: float [n, 2], x and y in 0..1.
      found: int [n, k], words.
      weights: float [n, k], of these words; all others have 0.
      words: K.
      largest: take the largest weight, at least 0, instead of the sum.
      levels: cells a side of each grid.
    """
    parts = []
    for side in levels:
        column, row = np.clip((points * side).astype(int), 0, side - 1).T
        at = ((row * side + column)[:, None] * words + found).ravel()
        cells = np.zeros(side * side * words, np.float32)
        (np.maximum if largest else np.add).at(cells, at, weights.ravel().astype(np.float32))
        parts.append(cells.reshape(-1, words))
    return np.concatenate(parts)


def histogram(
    cells: np.ndarray, levels: Sequence[int] = LEVELS, weights: Sequence[float] = WEIGHTS
) -> np.ndarray:
    """Returns summed codes as one vector, float32 [cells * words]: divided by its sum, then levels weighted.

    Args:
      cells: float32 [cells, words], of `pooled`, not negative.
      levels: of `pooled`.
      weights: one a level.
    """
    of_cells = np.repeat(np.asarray(weights, np.float32), [side * side for side in levels])
    return (cells / max(cells.sum(), 1e-12) * of_cells[:, None]).ravel()
