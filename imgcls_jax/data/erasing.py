"""Device operations that fill a part of an image: with 0, black before `normalize` and the mean after it, or
with noise."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from imgcls_jax.data.device_operation import (
    DeviceOp,
    chance,
    check_choice,
    check_probability,
    check_range,
    per_image,
)

ERASING_TRIES = 10  # as torchvision's RandomErasing
FILLS = ("zero", "noise")
NOISE = 7  # folded into the key, so that the other draws stay as they are without it


def cutout(size: int, p: float = 1.0) -> DeviceOp:
    """Fill a size x size square with 0; its center is any pixel, so at the border a part of it is lost.

    Reference: DeVries and Taylor, 2017, arXiv:1708.04552.
    """
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"cutout: size must be a whole number of pixels, at least 1, got {size!r}")
    check_probability("cutout", p)

    def cut(rng: jax.Array, images: jax.Array) -> jax.Array:
        chance_rng, center_rng = jax.random.split(rng)
        corners = (
            jax.random.randint(center_rng, (len(images), 2), 0, jnp.array(images.shape[1:3])) - size // 2
        )
        hole = _rectangles(images, corners, jnp.full_like(corners, size))
        return jnp.where(hole & chance(chance_rng, images, p), 0, images)

    return DeviceOp("cutout", cut, random=True)


def random_erasing(
    p: float = 0.5,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    fill: str = "zero",
) -> DeviceOp:
    """Fill a random rectangle with 0 with probability `p`; after `normalize` that is the mean.

    Args:
      p: probability; a little less in effect, as an image whose 10 draws all do not fit stays as it is.
      scale: share of the image's area, from U(low, high), 0 < low <= high <= 1.
      ratio: height/width is log-uniform in (low, high), 0 < low <= high.
      fill: "zero", or "noise": each value is drawn from the standard normal distribution, that of the pixels
        after `normalize`.

    Reference: Zhong et al., 2017, arXiv:1708.04896.
    """
    check_probability("random_erasing", p)
    check_choice("random_erasing", "fill", fill, FILLS)
    smallest, largest = check_range("random_erasing", "scale", scale)
    if largest > 1:
        raise ValueError(f"random_erasing: scale is a share of the image's area, at most 1, got {scale!r}")
    flattest, tallest = map(math.log, check_range("random_erasing", "ratio", ratio))

    def erase(rng: jax.Array, images: jax.Array) -> jax.Array:
        chance_rng, area_rng, ratio_rng, corner_rng = jax.random.split(rng, 4)
        sides, draws = jnp.array(images.shape[1:3]), (len(images), ERASING_TRIES)
        areas = sides.prod() * jax.random.uniform(area_rng, draws, minval=smallest, maxval=largest)
        ratios = jnp.exp(jax.random.uniform(ratio_rng, draws, minval=flattest, maxval=tallest))
        sizes = jnp.round(jnp.sqrt(jnp.stack([areas * ratios, areas / ratios], axis=-1))).astype(jnp.int32)
        fits = jnp.all(sizes < sides, axis=-1)  # [B, tries]
        size = jnp.take_along_axis(sizes, jnp.argmax(fits, axis=1)[:, None, None], axis=1)[:, 0]  # [B, 2]
        corners = jax.random.randint(corner_rng, size.shape, 0, jnp.maximum(sides - size, 0) + 1)
        hole = _rectangles(images, corners, size) & per_image(fits.any(axis=1))
        filling: jax.Array | int = 0
        if fill == "noise":
            filling = jax.random.normal(jax.random.fold_in(rng, NOISE), images.shape, images.dtype)
        return jnp.where(hole & chance(chance_rng, images, p), filling, images)

    return DeviceOp("random_erasing", erase, random=True)


def _rectangles(images: jax.Array, corners: jax.Array, sizes: jax.Array) -> jax.Array:
    """bool [B, H, W, 1], true within the rectangles whose top left corners and sizes are int [B, 2]."""
    inside = []
    for axis in (0, 1):
        offsets = jnp.arange(images.shape[axis + 1]) - corners[:, axis, None]
        inside.append((offsets >= 0) & (offsets < sizes[:, axis, None]))
    return inside[0][:, :, None, None] & inside[1][:, None, :, None]
