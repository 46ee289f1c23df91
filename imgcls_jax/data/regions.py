"""Boxes of regions: overlap, containment, the box of visible points, and the crop that R-CNN feeds a network.

A box is float (x1, y1, x2, y2) in pixels, x to the right and y down; its sides are x2 - x1 and y2 - y1.

Girshick et al. 2014, "Rich feature hierarchies for accurate object detection and semantic segmentation",
arXiv:1311.2524, appendix A: each region is warped, with a border of its surroundings, to the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

CROP, PADDING = 227, 16  # R-CNN's: pixels of the crop, and of its border on each side


def iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of every pair, float64 [N, M] in [0, 1].

    Args:
      boxes: float [N, 4].
      others: float [M, 4].
    """
    boxes, others = np.asarray(boxes, np.float64), np.asarray(others, np.float64)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    return shared / np.maximum(areas(boxes)[:, None] + areas(others)[None] - shared, 1e-12)


def areas(boxes: np.ndarray) -> np.ndarray:
    """Returns the areas of boxes [N, 4] in square pixels, float64 [N]."""
    return np.prod(np.maximum(np.asarray(boxes[:, 2:] - boxes[:, :2], np.float64), 0), axis=-1)


def suppressed(boxes: np.ndarray, scores: np.ndarray, overlap: float, *, most: int) -> np.ndarray:
    """Returns the indices of the best boxes, int64 [M], in order, without those that a better one overlaps.

    Args:
      boxes: float [N, 4].
      scores: float [N].
      overlap: intersection over union, above which the worse of two boxes goes.
      most: how many to return.
    """
    order, kept = np.argsort(-scores, kind="stable"), list[int]()
    while len(order) and len(kept) < most:
        kept.append(int(order[0]))
        order = order[1:][iou(boxes[order[1:]], boxes[order[:1]])[:, 0] <= overlap]
    return np.array(kept, np.int64)


def within(parts: np.ndarray, roots: np.ndarray, slack: float) -> np.ndarray:
    """Returns whether each part lies in each root, bool [N, M].

    Args:
      parts: float [N, 4].
      roots: float [M, 4].
      slack: pixels by which each side of a part may lie outside, at least 0; that far is still inside.
    """
    part, root = np.asarray(parts, np.float64)[:, None], np.asarray(roots, np.float64)[None]
    low, high = part[..., :2] >= root[..., :2] - slack, part[..., 2:] <= root[..., 2:] + slack
    return np.logical_and.reduce(low & high, axis=-1)


def part_box(points: np.ndarray, members: Sequence[int], shared: Sequence[int] = ()) -> np.ndarray | None:
    """Returns the tight box of the visible points of a part, float64 [4]; None where too few are visible.

    A part is there where two points are visible that no other part has, and the box has an area.

    Args:
      points: float [P, 3], (x, y, visible); x and y of hidden points mean nothing.
      members: rows of the points that make the part.
      shared: those of them that belong to another part, too.
    """
    rows = [row for row in members if points[row, 2] > 0]
    if len(set(rows) - set(shared)) < 2:
        return None
    visible = np.asarray(points[rows, :2], np.float64)
    box = np.concatenate([visible.min(axis=0), visible.max(axis=0)])
    return box if (box[2:] > box[:2]).all() else None


def grow_and_crop(
    image: Image.Image, box: np.ndarray, *, size: int = CROP, padding: int = PADDING, fill: Sequence[int]
) -> np.ndarray:
    """Returns the crop that R-CNN warps a region to, uint8 [size, size, 3].

    The box grows about its center by size / (size - 2 padding), so that it takes the crop but for a border of
    its surroundings, and is resized to a square, bilinearly, without antialiasing: its shape is not kept.

    Args:
      image: RGB.
      box: float [4], with an area.
      size: pixels of the crop.
      padding: pixels of the border, at least 0, less than half of size.
      fill: (red, green, blue) of what lies outside the image, 0 to 255.

    Reference: crop mode "warp" of Girshick et al. 2014. Difference: the grown box is not rounded to pixels.
    """
    from PIL import Image  # here, for those who need boxes alone

    center, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    half = half * (size / (size - 2 * padding))
    extent = (*(center - half).tolist(), *(center + half).tolist())
    crop = image.transform(
        (size, size),
        Image.Transform.EXTENT,
        extent,
        resample=Image.Resampling.BILINEAR,
        fillcolor=tuple(fill),
    )
    return np.asarray(crop)
