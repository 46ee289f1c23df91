"""Rotary positions: queries and keys are turned by angles that follow from where their patch lies.

Su et al., "RoFormer", arXiv 2104.09864 (2021), in the two-dimensional form of DINOv3, Siméoni et al., arXiv
2508.10104 (2025): patches lie in [-1, 1] in both directions whatever their number, so that one network takes
images of any size. Difference from DINOv3: in training it moves and scales these places at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from imgcls_jax.layers.windows import widened

TEMPERATURE = 100.0  # DINOv3's: the longest period is almost that many sides of an image


def rotary_angles(grid: Sequence[int], head_width: int) -> jax.Array:
    """Returns the angles of each patch.

    Eq.: 2 pi c / 100^(i / n), c the row, then the column, of the patch's center in [-1, 1], and i from 0 to
    n - 1, with n = head_width / 4.

    Args:
      grid: rows and columns of patches, h and w.
      head_width: d, channels of one head, a multiple of 4.

    Returns:
      float32 [h * w, d / 2].

    Raises:
      ValueError: head_width is no multiple of 4.
    """
    if head_width % 4:
        raise ValueError(
            f"rotary positions need heads whose width is a multiple of 4; got {head_width}: change heads"
        )
    count = head_width // 4
    periods = TEMPERATURE ** (jnp.arange(count) / count)
    centers = [(2 * jnp.arange(size) + 1) / size - 1 for size in grid]
    places = jnp.stack(jnp.meshgrid(*centers, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    return (2 * math.pi * places / periods).reshape(-1, 2 * count)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Turns channel i and channel i + d / 2 of each head, as a point of the plane, by angle i.

    Args:
      x: float [B, L, heads, d].
      angles: float32 [B, L, d / 2], or [1, L, d / 2]; 0 leaves a token as it is.

    Returns:
      float [B, L, heads, d], of x's dtype.
    """
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(widened(x), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
