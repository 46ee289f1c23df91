"""RandAugment (Cubuk et al. 2019, arXiv:1909.13719) as an operation on the device.

Each layer draws one of 14 changes for each image. As they are computed for whole batches, the five geometric
ones are one resampling by a matrix, the four blends one blend, each image with its own numbers; those that
were not drawn are given the numbers that change nothing. Magnitudes are torchvision's, 0 to 30, and so is the
nearest-neighbor resampling with zeros from outside; values stay float, where torchvision rounds to 8 bits
after each change.
"""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp

from imgcls_jax.data.device_operation import DeviceOp, check_probability, per_image
from imgcls_jax.data.geometric import read
from imgcls_jax.data.photometric import luminance

MAX_MAGNITUDE = 30.0
SHEAR = 0.3  # pixels a pixel
TRANSLATE = 150 / 331  # of the side
ROTATE = 30.0  # degrees
ENHANCE = 0.9  # away from the factor 1
POSTERIZED_BITS = 4  # of 8, left out


class Change(enum.IntEnum):
    """What a layer does to an image."""

    IDENTITY = 0
    SHEAR_X = 1
    SHEAR_Y = 2
    TRANSLATE_X = 3
    TRANSLATE_Y = 4
    ROTATE = 5
    BRIGHTNESS = 6
    SATURATION = 7
    CONTRAST = 8
    SHARPNESS = 9
    POSTERIZE = 10
    SOLARIZE = 11
    AUTOCONTRAST = 12
    EQUALIZE = 13


def rand_augment(num_ops: int = 2, magnitude: float | None = 9.0, p: float = 1.0) -> DeviceOp:
    """Apply changes drawn with replacement from `Change`, of random sign; before `normalize`.

    Args:
      num_ops: changes in a row, at least 1.
      magnitude: of each, in [0, 30]; None draws it from U(0, 30) for each change, as FixMatch does.
      p: probability that a change is applied; FixMatch has 0.5.
    """
    if not isinstance(num_ops, int) or num_ops < 1:
        raise ValueError(f"rand_augment: num_ops must be a whole number, at least 1, got {num_ops!r}")
    if magnitude is not None and not 0 <= magnitude <= MAX_MAGNITUDE:
        raise ValueError(f"rand_augment: magnitude must lie in [0, 30], or be None, got {magnitude!r}")
    check_probability("rand_augment", p)
    low, high = (0.0, MAX_MAGNITUDE) if magnitude is None else (magnitude, magnitude)

    def change(rng: jax.Array, images: jax.Array) -> jax.Array:
        if images.shape[-1] not in (1, 3):
            raise ValueError(f"rand_augment needs gray or RGB images [B, H, W, 1 or 3], got {images.shape}")
        count = (len(images),)
        for layer in range(num_ops):
            keys = jax.random.split(jax.random.fold_in(rng, layer), 4)
            kinds = jax.random.randint(keys[0], count, 0, len(Change))
            strengths = jax.random.uniform(keys[1], count, minval=low, maxval=high) / MAX_MAGNITUDE
            signs = jax.random.rademacher(keys[2], count, jnp.float32)
            kinds = jnp.where(jax.random.uniform(keys[3], count) < p, kinds, Change.IDENTITY)
            images = apply_changes(images, kinds, strengths, signs)
        return images

    return DeviceOp("rand_augment", change, random=True)


def apply_changes(images: jax.Array, kinds: jax.Array, strengths: jax.Array, signs: jax.Array) -> jax.Array:
    """Applies one change to each image.

    Args:
      images: float [B, H, W, C] in [0, 1], C = 1 or 3.
      kinds: int [B], each a `Change`.
      strengths: float [B] in [0, 1], shares of the largest magnitude.
      signs: float [B], 1 or -1; not read by the changes without direction.

    Returns:
      float [B, H, W, C] in [0, 1].
    """
    images = _resample(images, kinds, strengths * signs)
    images = _blend(images, kinds, 1 + ENHANCE * strengths * signs)
    whole = per_image(kinds)
    strengths = per_image(strengths)
    images = jnp.where(whole == Change.POSTERIZE, _posterize(images, strengths), images)
    inverted = (whole == Change.SOLARIZE) & (images >= 1 - strengths)
    images = jnp.where(inverted, 1 - images, images)
    images = jnp.where(whole == Change.AUTOCONTRAST, _stretch(images), images)
    return jnp.where(whole == Change.EQUALIZE, _equalize(images), images)


def _resample(images: jax.Array, kinds: jax.Array, amounts: jax.Array) -> jax.Array:
    """Shear from the top left corner, shift or rotation about the center; amounts in [-1, 1]."""
    _, height, width, _ = images.shape

    def amount_of(kind: Change, largest: float) -> jax.Array:
        return jnp.where(kinds == kind, largest * amounts, 0.0)[:, None, None]

    y, x = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    angle = jnp.radians(amount_of(Change.ROTATE, ROTATE))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    down, right = y - (height - 1) / 2, x - (width - 1) / 2
    shift_y = jnp.trunc(amount_of(Change.TRANSLATE_Y, TRANSLATE * height))
    shift_x = jnp.trunc(amount_of(Change.TRANSLATE_X, TRANSLATE * width))
    # One of these alone moves an image, so their order is of no consequence.
    rows = (
        cos * down + sin * right + (height - 1) / 2 - shift_y + amount_of(Change.SHEAR_Y, SHEAR) * (x + 0.5)
    )
    columns = (
        cos * right - sin * down + (width - 1) / 2 - shift_x + amount_of(Change.SHEAR_X, SHEAR) * (y + 0.5)
    )
    return read(images, jnp.round(rows).astype(jnp.int32), jnp.round(columns).astype(jnp.int32))


def _blend(images: jax.Array, kinds: jax.Array, factors: jax.Array) -> jax.Array:
    """clip(f x + (1 - f) base): with black, the mean luminance, the pixel's own, or a smoothed image."""
    kinds, gray = per_image(kinds), luminance(images) if images.shape[-1] == 3 else images
    base = jnp.where(kinds == Change.CONTRAST, gray.mean(axis=(1, 2, 3), keepdims=True), 0.0)
    base = jnp.where(kinds == Change.SATURATION, gray, base)
    base = jnp.where(kinds == Change.SHARPNESS, _smooth(images), base)
    blended = jnp.clip(per_image(factors) * images + (1 - per_image(factors)) * base, 0, 1)
    return jnp.where((kinds >= Change.BRIGHTNESS) & (kinds <= Change.SHARPNESS), blended, images)


def _smooth(images: jax.Array) -> jax.Array:
    """Mean over 3x3 pixels, the middle one five times; the border stays.

    Matrix products, as in `photometric.blur`: shifted sums would repeat the operations before.
    """
    height, width = images.shape[1:3]

    def three(side: int) -> jax.Array:
        return jnp.eye(side, k=-1) + jnp.eye(side) + jnp.eye(side, k=1)

    sums = jnp.einsum("ij,bjwc->biwc", three(height), images, precision="highest")
    sums = jnp.einsum("ij,bhjc->bhic", three(width), sums, precision="highest")
    y, x = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    border = (y == 0) | (y == height - 1) | (x == 0) | (x == width - 1)
    return jnp.where(border, images, (sums + 4 * images) / 13)


def _posterize(images: jax.Array, strengths: jax.Array) -> jax.Array:
    """Keeps the 8 to 4 highest of 8 bits."""
    step = 2.0 ** jnp.round(POSTERIZED_BITS * strengths)
    return jnp.floor(jnp.round(images * 255) / step) * step / 255


def _stretch(images: jax.Array) -> jax.Array:
    """Spreads each channel over [0, 1]; a constant one stays."""
    low, high = images.min(axis=(1, 2), keepdims=True), images.max(axis=(1, 2), keepdims=True)
    return jnp.where(high > low, (images - low) / jnp.where(high > low, high - low, 1), images)


def _equalize(images: jax.Array) -> jax.Array:
    """Flattens each channel's histogram of 256 levels, in Pillow's whole numbers."""

    def flatten(level: jax.Array) -> jax.Array:
        """int32 [H, W] to float [H, W]."""
        histogram = jnp.zeros(256, jnp.int32).at[level].add(1, mode="promise_in_bounds")
        darker = jnp.cumsum(histogram) - histogram  # pixels darker than a level
        step = darker[jnp.max(level)] // 255
        table = jnp.clip((darker + step // 2) // jnp.maximum(step, 1), 0, 255)
        table = jnp.where(step > 0, table, jnp.arange(256)) / 255
        return table.at[level].get(mode="promise_in_bounds")

    levels = jnp.clip(jnp.round(images * 255), 0, 255).astype(jnp.int32)
    return jax.vmap(jax.vmap(flatten, in_axes=-1, out_axes=-1))(levels)
