"""Boxes where an object or a part of one may lie: by selective search, or on a grid.

Uijlings et al. 2013, "Selective Search for Object Recognition" (IJCV 104): regions of a segmentation are
merged by color, texture, size and fill; each region on the way is a proposal. The fast mode of the paper is
OpenCV's: HSV and Lab, two segmentations each. It needs a build of OpenCV with its contributed modules
(`pip install 'imgcls-jax[parts]'`). `grid` needs nothing: boxes of some sizes and shapes at even distances.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from PIL import Image

Propose = Callable[[np.ndarray], np.ndarray]

WIDTH = 500  # pixels to which R-CNN scales an image before it looks for regions
MAX_HEIGHT = 2000  # a higher image is scaled further down
MIN_SIDE = 20  # pixels, there
GRID_SIZES = (0.12, 0.17, 0.24, 0.34, 0.48, 0.68, 0.95)  # square roots of the area, parts of the image's
GRID_SHAPES = (0.5, 1.0, 2.0)  # width over height
GRID_STRIDE = 0.34  # of a box's sides, between two neighbours
METHODS = ("selective_search", "grid")


def scale_of(width: int, height: int) -> float:
    """Returns by how much an image is scaled before regions are looked for: to WIDTH pixels of width."""
    return min(WIDTH / width, MAX_HEIGHT / height)


def scaled(image: Image.Image) -> Image.Image:
    """Returns an image scaled by `scale_of`, bilinearly."""
    scale = scale_of(image.width, image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BILINEAR)


def proposer(method: str) -> Propose:
    """Returns the function from an image, uint8 [H, W, 3], to boxes, float64 [N, 4], sorted, none twice.

    Sides are at least MIN_SIDE pixels, but for the box of the whole image, which is one of them.

    Args:
      method: "selective_search", or "grid".

    Raises:
      ValueError: an unknown method, or OpenCV's contributed modules are missing.
    """
    if method not in METHODS:
        raise ValueError(f"proposals are one of {', '.join(METHODS)}; got {method!r}")
    find = selective_search() if method == "selective_search" else grid

    def propose(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        boxes = find(image)
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1)]
        return np.unique(np.concatenate([[[0, 0, width, height]], boxes]), axis=0)

    return propose


def has_selective_search() -> bool:
    """Whether OpenCV is installed with its contributed modules."""
    try:
        import cv2
    except ImportError:
        return False
    return hasattr(cv2, "ximgproc")


def selective_search() -> Propose:
    """Returns the fast mode of selective search.

    Raises:
      ValueError: OpenCV's contributed modules are missing.
    """
    if not has_selective_search():
        raise ValueError(
            "selective search needs OpenCV with its contributed modules: pip install 'imgcls-jax[parts]' in "
            "an environment without opencv-python-headless, which holds the same package cv2; "
            "or take --proposals grid"
        )
    import cv2

    def find(image: np.ndarray) -> np.ndarray:
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))  # BGR
        search.switchToSelectiveSearchFast()
        found = np.asarray(search.process(), np.float64).reshape(-1, 4)  # x, y, width, height
        return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)

    return find


def grid(image: np.ndarray) -> np.ndarray:
    """Returns boxes of all sizes and shapes at even distances, float64 [N, 4], inside the image.

    Args:
      image: uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    boxes = []
    for size, shape in itertools.product(GRID_SIZES, GRID_SHAPES):
        side = size * np.sqrt(width * height)
        w, h = min(side * np.sqrt(shape), width), min(side / np.sqrt(shape), height)
        columns, rows = (
            np.linspace(0, room, 1 + round(room / (GRID_STRIDE * own)))
            for room, own in ((width - w, w), (height - h, h))
        )
        x, y = (axis.ravel() for axis in np.meshgrid(columns, rows))
        boxes.append(np.stack([x, y, x + w, y + h], axis=1))
    return np.concatenate(boxes)
