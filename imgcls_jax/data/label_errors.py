"""Confident learning: which labels of a data set are likely wrong.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021,
arXiv:1911.00068. The probabilities must come from networks that were not trained on the images that they are
of. Difference: the counts are not calibrated to the number of labels, and the suspects are all images off the
diagonal; the paper also has variants that remove estimated numbers of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class LabelErrors(NamedTuple):
    """What confident learning finds.

    Attributes:
      thresholds: float64 [K], the mean p_k over the images labeled k; infinite for a class without an image.
      counts: int64 [K, K], the confident joint: images by given label (row) and likely label (column).
      likely: int64 [N], the likely label; -1 where no class reaches its threshold.
      suspects: int64 [S], images whose likely label is another than the given one, the least probable given
        label first.
    """

    thresholds: np.ndarray
    counts: np.ndarray
    likely: np.ndarray
    suspects: np.ndarray


def find_label_errors(probabilities: np.ndarray, labels: np.ndarray) -> LabelErrors:
    """Finds images whose label is likely another one.

    Eq.: t_k = mean of p_k over the images labeled k. The likely label of an image is the most probable of
    those k with p_k >= t_k; C[i, j] is the number of images labeled i whose likely label is j.

    Args:
      probabilities: float [N, K], of networks that were trained on other images.
      labels: integer [N] in [0, K).
    """
    p = np.asarray(probabilities, np.float64)
    num_classes = p.shape[1]
    sizes = np.bincount(labels, minlength=num_classes)
    given = p[np.arange(len(p)), labels]
    sums = np.bincount(labels, given, minlength=num_classes)
    thresholds = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)
    confident = np.where(p >= thresholds, p, -1.0)
    likely = np.where(confident.max(axis=1) >= 0, confident.argmax(axis=1), -1)
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels[likely >= 0], likely[likely >= 0]), 1)
    suspects = np.flatnonzero((likely >= 0) & (likely != labels))
    return LabelErrors(thresholds, counts, likely, suspects[np.argsort(given[suspects], kind="stable")])
