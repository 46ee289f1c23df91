"""Features that are histograms of small cells: HOG and local binary patterns, by scikit-image.

HOG: Dalal and Triggs 2005, "Histograms of Oriented Gradients for Human Detection" (CVPR). LBP: Ojala,
Pietikäinen and Mäenpää 2002 (PAMI 24), uniform patterns; cells after Ahonen, Hadid and Pietikäinen 2006
(PAMI 28). Difference: LBP leaves out the outermost pixels, whose circles leave the image.
"""

from __future__ import annotations

import numpy as np

from imgcls_jax.classic.packages import require

CELL, BLOCK, ORIENTATIONS = 8, 2, 9  # pixels, cells a side, bins of 180 degrees
POINTS, RADIUS = 8, 1  # of LBP's circle
PATTERNS = POINTS * (POINTS - 1) + 3  # 58 uniform ones, and one for all others
GRID = 4  # LBP's cells a side
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of ITU-R BT.601


def gray(image: np.ndarray) -> np.ndarray:
    """Returns the brightness of an image, uint8 [H, W].

    Args:
      image: uint8 [H, W, 1], or RGB [H, W, 3].
    """
    if image.shape[2] == 1:
        return image[:, :, 0]
    return np.round(image.astype(np.float32) @ LUMA).astype(np.uint8)


def size(image: np.ndarray) -> str:
    """Returns "H x W" of an image."""
    return f"{image.shape[0]} x {image.shape[1]}"


def hog(image: np.ndarray) -> np.ndarray:
    """Returns the histograms of oriented gradients, float32 [(H // 8 - 1) (W // 8 - 1) 36].

    Cells of 8 x 8 pixels, blocks of 2 x 2 cells, 9 orientations without sign, L2-Hys in each block. A pixel's
    gradient is that of the channel where it is largest.

    Args:
      image: uint8 [H, W, C], at least 16 x 16.

    Raises:
      ValueError: the image is smaller, or scikit-image is missing.
    """
    if min(image.shape[:2]) < BLOCK * CELL:
        raise ValueError(f"HOG needs images of at least 16 x 16 pixels; got {size(image)}: resize them")
    found = require("skimage.feature").hog(
        image,
        orientations=ORIENTATIONS,
        pixels_per_cell=(CELL, CELL),
        cells_per_block=(BLOCK, BLOCK),
        block_norm="L2-Hys",
        channel_axis=2,
    )
    return found.astype(np.float32)


def lbp(image: np.ndarray) -> np.ndarray:
    """Returns the histograms of local binary patterns in 4 x 4 cells, row by row, float32 [16 * 59].

    Eight points at a distance of one pixel; the 58 uniform patterns have a bin each, all others one. The
    histogram of a cell sums to 1.

    Args:
      image: uint8 [H, W, C], at least 6 x 6.

    Raises:
      ValueError: the image is smaller, or scikit-image is missing.
    """
    if min(image.shape[:2]) < GRID + 2 * RADIUS:
        raise ValueError(f"LBP needs images of at least 6 x 6 pixels; got {size(image)}: resize them")
    local_binary_pattern = require("skimage.feature").local_binary_pattern
    codes = local_binary_pattern(gray(image), POINTS, RADIUS, "nri_uniform").astype(int)
    codes = codes[RADIUS:-RADIUS, RADIUS:-RADIUS]
    cells = [cell for row in np.array_split(codes, GRID) for cell in np.array_split(row, GRID, axis=1)]
    counts = [np.bincount(cell.ravel(), minlength=PATTERNS) / cell.size for cell in cells]
    return np.concatenate(counts).astype(np.float32)
