"""Device operations that blur otherwise than a Gaussian: along a line, and by the median."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from imgcls_jax.data.device_operation import DeviceOp, chance, check_probability
from imgcls_jax.data.geometric import read_between


def motion_blur(length: int = 7, p: float = 0.5) -> DeviceOp:
    """Blur along a straight line of a random direction with probability `p`, as a moving camera does.

    Args:
      length: of the line in pixels, odd, at least 3: so many points, a pixel apart, are averaged.
      p: probability.
    """
    _check_odd("motion_blur", "length", length)
    check_probability("motion_blur", p)

    def smooth(rng: jax.Array, images: jax.Array) -> jax.Array:
        chance_rng, angle_rng = jax.random.split(rng)
        angles = jax.random.uniform(angle_rng, (len(images),), maxval=jnp.pi)
        return jnp.where(chance(chance_rng, images, p), smear(images, angles, length), images)

    return DeviceOp("motion_blur", smooth, random=True)


def smear(images: jax.Array, angles: jax.Array, length: int) -> jax.Array:
    """Averages each image along a line through each pixel; the edge's pixels go on beyond it.

    Args:
      images: float [B, H, W, C].
      angles: float [B], radians, of the line: 0 is level, and it rises counter-clockwise.
      length: points of the line, a pixel apart; between pixels they are read bilinearly.

    Returns:
      float [B, H, W, C].
    """
    _, height, width, _ = images.shape
    y, x = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    down, right = -jnp.sin(angles)[:, None, None], jnp.cos(angles)[:, None, None]

    def add(point: jax.Array, total: jax.Array) -> jax.Array:
        distance = point - length // 2
        return total + read_between(images, y + distance * down, x + distance * right)

    return jax.lax.fori_loop(0, length, add, jnp.zeros_like(images)) / length


def median_blur(kernel_size: int = 3, p: float = 0.5) -> DeviceOp:
    """Replace each value by the median around it with probability `p`; it removes specks and keeps edges.

    Args:
      kernel_size: side of the square in pixels, odd, at least 3; the image is mirrored at its border,
        which is not repeated.
      p: probability.
    """
    _check_odd("median_blur", "kernel_size", kernel_size)
    check_probability("median_blur", p)

    def smooth(rng: jax.Array, images: jax.Array) -> jax.Array:
        _, height, width, _ = images.shape
        margin = (kernel_size // 2, kernel_size // 2)
        padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)), mode="reflect")
        around = [
            padded[:, top : top + height, left : left + width]
            for top in range(kernel_size)
            for left in range(kernel_size)
        ]
        return jnp.where(chance(rng, images, p), jnp.median(jnp.stack(around), axis=0), images)

    return DeviceOp("median_blur", smooth, random=True)


def _check_odd(operation: str, argument: str, value: int) -> None:
    if not isinstance(value, int) or value < 3 or value % 2 == 0:
        raise ValueError(
            f"{operation}: {argument} must be an odd number of pixels, at least 3, got {value!r}"
        )
