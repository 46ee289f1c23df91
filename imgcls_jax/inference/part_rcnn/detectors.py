"""Detectors of regions on one feature map of the image: linear SVMs on the map's means in each box.

R-CNN (Girshick et al. 2014, arXiv:1311.2524) runs its network on each of some 2,000 crops. Here the network
runs once an image, and a box is described by the means of a feature map in the cells of a grid, as in SPP-net
(He et al. 2014, arXiv:1406.4729) with the mean in place of the maximum. The mean is linear: the score of a
box is the mean of the detector's response map there, so that thousands of boxes cost milliseconds.

The SVM is R-CNN's: features scaled so that their mean norm over the training boxes is 20, C 0.001, a bias
multiplied by 10, positives of weight 2, and one pass of hard negatives. d(x) = sigmoid(w . x + b).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import log_expit
from sklearn.svm import LinearSVC

from imgcls_jax.data.regions import iou

# rcnn_train.m of R-CNN's release, commit 43b0334.
MEAN_NORM, C, BIAS, POSITIVE_WEIGHT, HARD = 20.0, 1e-3, 10.0, 2.0, -1.0
POSITIVE, NEGATIVE = 0.7, 0.3  # overlaps with the true box: at least, at most (arXiv:1407.3867, section 3.1)
GRID = 4  # cells of a box a side
# The most boxes of an image besides the true one, of either kind, as many hard negatives again; and of all.
POSITIVES, NEGATIVES, MOST_BOXES = 8, 15, 60_000


class Detector(NamedTuple):
    """A linear detector.

    Attributes:
      weight: float32 [g, g, D], for the mean of each cell of a box.
      bias: float.
    """

    weight: np.ndarray
    bias: float


def cell_weights(low: np.ndarray, high: np.ndarray, length: int, cells: int) -> np.ndarray:
    """Returns with which weight each position of an axis enters each cell of an interval, float64 [N, cells,
    length]: the rows sum to 1 where the interval lies on the axis.

    Args:
      low, high: float [N], the interval, in positions: position i reaches from i to i + 1.
      length: positions of the axis.
      cells: of each interval.
    """
    edges = low[:, None] + (high - low)[:, None] * np.arange(cells + 1) / cells  # [N, cells + 1]
    start = np.arange(length)
    shared = np.minimum(edges[:, 1:, None], start + 1) - np.maximum(edges[:, :-1, None], start)
    return np.maximum(shared, 0) / np.maximum(np.diff(edges)[..., None], 1e-9)


def pooled(feature_map: np.ndarray, boxes: np.ndarray, grid: int = GRID) -> np.ndarray:
    """Returns the means of a map in the cells of boxes, float32 [N, grid, grid, D].

    Args:
      feature_map: float [h, w, D].
      boxes: float [N, 4], in positions of the map.
      grid: cells of a box a side.
    """
    height, width, depth = feature_map.shape
    down = cell_weights(boxes[:, 1], boxes[:, 3], height, grid)
    across = cell_weights(boxes[:, 0], boxes[:, 2], width, grid)
    weights = (down[:, :, None, :, None] * across[:, None, :, None, :]).astype(np.float32)
    flat = weights.reshape(-1, height * width) @ feature_map.reshape(-1, depth).astype(np.float32)
    return flat.reshape(len(boxes), grid, grid, depth)


def scores(detector: Detector, feature_map: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns w . x + b of boxes, float64 [N]; arguments as of `pooled`."""
    height, width, depth = feature_map.shape
    grid = len(detector.weight)
    response = feature_map.reshape(-1, depth).astype(np.float32) @ detector.weight.reshape(-1, depth).T
    response = response.T.reshape(grid, grid, height, width)
    down = cell_weights(boxes[:, 1], boxes[:, 3], height, grid)
    across = cell_weights(boxes[:, 0], boxes[:, 2], width, grid)
    total = np.full(len(boxes), detector.bias)
    for row, column in np.ndindex(grid, grid):
        total += np.einsum("nw,nw->n", down[:, row] @ response[row, column], across[:, column])
    return total


def log_probability(margins: np.ndarray) -> np.ndarray:
    """Returns log sigmoid(margins), the logarithm of d."""
    return log_expit(margins)


def fit(
    visits: Callable[[], Iterable[tuple[np.ndarray, np.ndarray, np.ndarray | None]]],
    count: int,
    *,
    rng: np.random.Generator,
) -> Detector:
    """Fits a detector.

    Args:
      visits: yields, each time it is called, (feature_map, proposals, true box or None where the region does
        not show) of every training image, boxes in positions of the map. Images where the region does not
        show are left out: hidden points do not say that it is not there.
      count: training images.
      rng: of the boxes that an image gives, where it has more than are taken.

    Returns:
      The detector of features as they are: the scale of training is multiplied into its weight.
    """
    share = min(1.0, MOST_BOXES / (count * (1 + POSITIVES + 2 * NEGATIVES)))
    positives, negatives = (max(1, round(share * most)) for most in (POSITIVES, NEGATIVES))
    features, wanted = [], []
    for feature_map, boxes, true in visits():
        if true is None:
            continue
        overlap = iou(boxes, true[None])[:, 0]
        near = _drawn(rng, np.flatnonzero(overlap >= POSITIVE), positives)
        far = _drawn(rng, np.flatnonzero(overlap <= NEGATIVE), negatives)
        features.append(_rows(feature_map, np.concatenate([true[None], boxes[near], boxes[far]])))
        wanted += [1] * (1 + len(near)) + [0] * len(far)
    scale = MEAN_NORM / max(float(np.linalg.norm(np.concatenate(features), axis=1).mean()), 1e-9)
    shape = (GRID, GRID, -1)
    detector = _svm(np.concatenate(features), np.array(wanted), scale, shape)
    hard = []
    for feature_map, boxes, true in visits():
        if true is None:
            continue
        found = scores(detector, feature_map, boxes)
        found[iou(boxes, true[None])[:, 0] > NEGATIVE] = -np.inf
        worst = np.argsort(-found, kind="stable")[:negatives]
        hard.append(_rows(feature_map, boxes[worst[found[worst] > HARD]]))
    rows = np.concatenate([*features, *hard])
    return _svm(rows, np.array(wanted + [0] * (len(rows) - len(wanted))), scale, shape)


def _drawn(rng: np.random.Generator, among: np.ndarray, count: int) -> np.ndarray:
    return rng.permutation(among)[:count]


def _rows(feature_map: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the description of boxes, float32 [N, GRID * GRID * D]."""
    return pooled(feature_map, boxes).reshape(len(boxes), -1)


def _svm(features: np.ndarray, wanted: np.ndarray, scale: float, shape: tuple[int, ...]) -> Detector:
    machine = LinearSVC(
        C=C, intercept_scaling=BIAS, class_weight={0: 1.0, 1: POSITIVE_WEIGHT}, random_state=0
    )
    machine.fit(features * scale, wanted)
    return Detector(
        (machine.coef_[0] * scale).reshape(shape).astype(np.float32), float(machine.intercept_[0])
    )
