"""Dense SIFT: a descriptor at every point of a regular grid, in several sizes, by OpenCV.

Lowe 2004 (IJCV 60); RootSIFT: Arandjelovic and Zisserman 2012 (CVPR). Keypoints are not looked for, and all
stand upright. OpenCV lets a keypoint of diameter s have 4 x 4 bins of 1.5 s pixels a side, so that a patch
of p pixels is a keypoint of diameter p / 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imgcls_jax.classic.histograms import gray, size
from imgcls_jax.classic.packages import require

LENGTH = 128  # of a descriptor: 4 x 4 bins of 8 orientations
DIAMETER = 1 / 6  # of a keypoint, parts of the patch's side


def grid(height: int, width: int, step: int, patch: int) -> np.ndarray:
    """Returns the centers of the patches that lie within an image, float32 [n, 2], x and y in pixels, row by
    row.

    Args:
      height, width: of the image.
      step: pixels between neighbours.
      patch: pixels of a patch's side.
    """
    rows, columns = (np.arange(patch / 2, length - patch / 2 + 0.5, step) for length in (height, width))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def root_sift(descriptors: np.ndarray) -> np.ndarray:
    """Returns sqrt(d / sum d), rows of the Euclidean norm 1; the row of a flat patch, 0, stays.

    Args:
      descriptors: float32 [n, D], not negative.
    """
    total = descriptors.sum(axis=1, keepdims=True)
    return np.sqrt(descriptors / np.where(total > 0, total, 1))


def dense_sift(image: np.ndarray, *, step: int, patches: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns points, float32 [n, 2], x and y in 0..1 of the image, and RootSIFT there, float32 [n, 128].

    Args:
      image: uint8 [H, W, C].
      step: pixels between neighbours.
      patches: sides in pixels.

    Raises:
      ValueError: no patch fits into the image, or OpenCV is missing.
    """
    cv2 = require("cv2")
    height, width = image.shape[:2]
    keypoints = [
        cv2.KeyPoint(float(x), float(y), patch * DIAMETER, 0)
        for patch in patches
        for x, y in grid(height, width, step, patch)
    ]
    if not keypoints:
        raise ValueError(
            f"no patch of {' or '.join(map(str, patches))} pixels fits into an image of {size(image)}"
        )
    kept, found = cv2.SIFT_create().compute(np.ascontiguousarray(gray(image)), keypoints)
    points = np.array([keypoint.pt for keypoint in kept], np.float32) / np.array([width, height], np.float32)
    return points, root_sift(found)
