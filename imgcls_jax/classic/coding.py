"""What a descriptor says in words of a codebook: its nearest word, or a mixture of the nearest ones (LLC).

Bag of words: Csurka et al. 2004. LLC: Wang et al. 2010, "Locality-constrained Linear Coding for Image
Classification" (CVPR), the approximated form of the authors' release.
"""

from __future__ import annotations

import numpy as np
from sklearn.cluster import MiniBatchKMeans

NEIGHBOURS = 5  # k, the words of a descriptor
REGULARIZER = 1e-4  # beta of the release


def codebook(descriptors: np.ndarray, words: int, seed: int) -> np.ndarray:
    """Returns the centers that k-means finds, float32 [words, D].

    Args:
      descriptors: float32 [N, D], of training images.
      words: K.
      seed: of the first centers and the batches.

    Raises:
      ValueError: there are fewer descriptors than words.
    """
    if len(descriptors) < words:
        raise ValueError(
            f"{words} words need as many descriptors; the training images gave {len(descriptors)}"
        )
    kmeans = MiniBatchKMeans(words, batch_size=4096, n_init=3, random_state=seed)
    return kmeans.fit(descriptors).cluster_centers_.astype(np.float32)


def nearest(descriptors: np.ndarray, words: np.ndarray, count: int) -> np.ndarray:
    """Returns the nearest words of each descriptor, int [n, count], the nearest first.

    Args:
      descriptors: float [n, D].
      words: float [K, D].
      count: at most K.
    """
    distances = (words**2).sum(axis=1) - 2 * descriptors @ words.T  # without |x|^2, which orders nothing
    if count == 1:
        return distances.argmin(axis=1)[:, None]
    found = np.argpartition(distances, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(distances, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def hard_codes(descriptors: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest word of each descriptor, int [n, 1], and its weight 1, float32 [n, 1]."""
    found = nearest(descriptors, words, 1)
    return found, np.ones(found.shape, np.float32)


def llc_codes(
    descriptors: np.ndarray, words: np.ndarray, *, neighbours: int = NEIGHBOURS, beta: float = REGULARIZER
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest words of each descriptor, int [n, k], and their weights, [n, k], which sum to 1.

    Eq.: w = argmin |x - w^T B|^2 + beta tr(C) |w|^2 with sum w = 1, B the k nearest words. With z = B - x and
    C = z z^T it is w ~ (C + beta tr(C) I)^-1 1.

    Args:
      descriptors: float [n, D].
      words: float [K, D].
      neighbours: k, at most K.
      beta: of the regularizer, positive.
    """
    found = nearest(descriptors, words, neighbours)
    away = words[found] - descriptors[:, None]  # [n, k, D]
    covariance = away @ away.swapaxes(1, 2)  # [n, k, k]
    trace = np.trace(covariance, axis1=1, axis2=2)
    ridge = np.where(trace > 0, beta * trace, 1e-10)
    covariance += ridge[:, None, None] * np.eye(neighbours, dtype=covariance.dtype)
    weights = np.linalg.solve(covariance, np.ones((len(found), neighbours, 1), covariance.dtype))[..., 0]
    return found, weights / weights.sum(axis=1, keepdims=True)
