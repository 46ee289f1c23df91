"""Position embeddings of Vision Transformers, brought to another grid of patches."""

from __future__ import annotations

import math

import jax
import numpy as np


def resize_positions(square: np.ndarray, side: int, like: str) -> np.ndarray:
    """Brings a square grid of position embeddings to another size, bicubically.

    Args:
      square: float [1, n, n, D].
      side: of the new grid.
      like: "timm" antialiases, with the cubic's a = -1/2; the others do not and have a = -3/4, PyTorch's:
        "torchvision" lets the corners stay where they are (align_corners), "mae" the edges of the whole, and
        "dinov2" takes the new grid for a tenth of a patch larger than it is.

    Returns:
      float [1, side, side, D].

    Raises:
      ValueError: another name.
    """
    if like == "timm":
        return np.asarray(jax.image.resize(square, (1, side, side, square.shape[3]), "bicubic"))
    if like not in ("torchvision", "mae", "dinov2"):
        raise ValueError(f"model.resize_positions is one of timm, torchvision, mae, dinov2; got {like!r}")
    old = square.shape[1]
    if like == "torchvision":
        at = np.arange(side) * ((old - 1) / max(side - 1, 1))
    else:
        at = (np.arange(side) + 0.5) * (old / (side + 0.1 * (like == "dinov2"))) - 0.5
    first = np.floor(at).astype(int)
    matrix = np.zeros((side, old))
    for tap in (-1, 0, 1, 2):
        places = np.clip(first + tap, 0, old - 1)
        np.add.at(matrix, (np.arange(side), places), _cubic(np.abs(at - first - tap)))
    return np.einsum("ij,kl,bjld->bikd", matrix, matrix, square, optimize=True).astype(square.dtype)


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys's kernel of cubic convolution, at distances in [0, 2]."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, far)


def grid_of(length: int) -> tuple[int, int] | None:
    """Returns (class tokens, side) of a square grid of positions, with one class token or none."""
    for prefix in (1, 0):
        side = math.isqrt(length - prefix)
        if side * side == length - prefix:
            return prefix, side
    return None
