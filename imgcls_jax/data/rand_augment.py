"""RandAugment (Cubuk et al. 2019, arXiv:1909.13719) as an operation on the device.

Each layer draws one of 14 changes for each image. As they are computed for whole batches, the five geometric
ones are one resampling by a matrix, the four blends one blend, each image with its own numbers; those that
were not drawn are given the numbers that change nothing. Resampling is nearest-neighbor; values stay float,
where torchvision and Pillow round to 8 bits after each change.

How strong a change is, and what comes in from outside an image, goes by one of three names:

                      "torchvision", level 0 to 30        "fixmatch", level 0 to 10
  shear               0.3 level / 30, either sign         0.3 level / 10, either sign
  translation         150 / 331 of the side level / 30    floor(level) pixels
  rotation            30 degrees level / 30               floor(3 level) degrees
  brightness, ...     1 +- 0.9 level / 30                 0.1 + 1.8 level / 10, no sign
  posterize           8 to 4 bits                         4 - floor(0.4 level) bits
  solarize            from 1 - level / 30 on              from (256 - floor(25.6 level)) / 255 on
  outside             black                               mid-gray at the end, black to the changes between

The second is that of the authors of FixMatch (Sohn et al. 2020, arXiv:2001.07685) for images of 32x32, made
for Pillow's RGBA: posterize, solarize, autocontrast and equalize forget what came from outside, which stays
black then.

"timm", level 0 to 10, is the form with which DeiT, ConvNeXt and "ResNet strikes back" (arXiv:2110.00476) were
trained, in timm's words "inc1": shear, rotation, brightness, color, contrast and sharpness as in the first
column (a third of the level there; factors at least 0.1), translation up to 0.45 of the side, posterize and
solarize as in the second. There is no identity, but two more changes: invert, and solarize_add, which adds
floor(11 level) / 255 to values below one half. ImageNet's mean comes in from outside.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp

from imgcls_jax.data.device_operation import DeviceOp, check_probability, per_image
from imgcls_jax.data.geometric import read
from imgcls_jax.data.photometric import luminance

LARGEST = {"torchvision": 30, "fixmatch": 10, "timm": 10}  # level
FIXMATCH_TRANSLATE = 10  # pixels
FIXMATCH_ENHANCE = 0.1, 1.8  # the factor is the first, and up to the second more
GRAY = 0.5
TIMM_SIDE = 0.45  # the largest translation, a share of the side
TIMM_LEAST_FACTOR = 0.1
TIMM_ADDED = 110 / 255  # by solarize_add, at the largest level
TIMM_OUTSIDE = 124 / 255, 116 / 255, 104 / 255  # ImageNet's mean in 8 bits


class Ranges(NamedTuple):
    """How strong torchvision's changes are at the largest level.

    Attributes:
      shear: pixels a pixel.
      side, pixels: of a translation, a share of the side and what is added to it.
      degrees: of a rotation.
      enhance: how far the factor is away from 1.
      bits: that posterize leaves out.
    """

    shear: float
    side: float
    pixels: float
    degrees: float
    enhance: float
    bits: int


RAND_AUGMENT_RANGES = Ranges(shear=0.3, side=150 / 331, pixels=0, degrees=30, enhance=0.9, bits=4)
WIDE_RANGES = Ranges(shear=0.99, side=0, pixels=32, degrees=135, enhance=0.99, bits=6)


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


SOLARIZE_ADD, INVERT = len(Change), len(Change) + 1  # of timm alone
FORGETFUL = (Change.POSTERIZE, Change.SOLARIZE, Change.AUTOCONTRAST, Change.EQUALIZE)  # of Pillow's alpha


def rand_augment(
    num_ops: int = 2,
    magnitude: float | None = 9.0,
    p: float = 1.0,
    levels: str = "torchvision",
    spread: float = 0.0,
) -> DeviceOp:
    """Apply changes drawn with replacement from `Change`, of random sign; before `normalize`.

    Args:
      num_ops: changes in a row, at least 1.
      magnitude: the level of each, in [0, 30] or, of "fixmatch" and "timm", in [0, 10]; None draws it for
        each change, uniformly from that range, or of "fixmatch" one of 1, 2, ..., 9.
      p: probability that a change is applied; FixMatch and timm have 0.5.
      levels: "torchvision", "fixmatch" or "timm": what a level means, see the head of
        imgcls_jax/data/rand_augment.py.
      spread: standard deviation of the level about `magnitude`, drawn for each change and clipped to the
        range; timm's "rand-m9-mstd0.5-inc1" is rand_augment(2, 9, 0.5, "timm", 0.5).
    """
    if not isinstance(num_ops, int) or num_ops < 1:
        raise ValueError(f"rand_augment: num_ops must be a whole number, at least 1, got {num_ops!r}")
    if levels not in LARGEST:
        raise ValueError(f"rand_augment: levels must be one of {', '.join(LARGEST)}, got {levels!r}")
    largest = LARGEST[levels]
    if magnitude is not None and not 0 <= magnitude <= largest:
        raise ValueError(
            f"rand_augment: magnitude must lie in [0, {largest}] for the levels of {levels}, or be None, got "
            f"{magnitude!r}"
        )
    check_probability("rand_augment", p)
    if not 0 <= spread <= largest or (spread and magnitude is None):
        raise ValueError(
            f"rand_augment: spread lies in [0, {largest}] and goes with a magnitude, got {spread!r} and "
            f"magnitude={magnitude!r}"
        )
    fixmatch = levels == "fixmatch"
    apply = {"torchvision": apply_changes, "fixmatch": apply_fixmatch, "timm": apply_timm}[levels]
    kinds_from, kinds_to = (Change.SHEAR_X, INVERT + 1) if levels == "timm" else (0, len(Change))

    def draw(rng: jax.Array, count: tuple[int]) -> jax.Array:
        if magnitude is None and fixmatch:
            return jax.random.randint(rng, count, 1, largest).astype(jnp.float32)
        if spread and magnitude is not None:
            return jnp.clip(magnitude + spread * jax.random.normal(rng, count), 0, largest)
        low, high = (0.0, largest) if magnitude is None else (magnitude, magnitude)
        return jax.random.uniform(rng, count, minval=low, maxval=high)

    def change(rng: jax.Array, images: jax.Array) -> jax.Array:
        check_channels("rand_augment", images)
        count = (len(images),)
        images = _with_alpha(images) if fixmatch else images
        for layer in range(num_ops):
            keys = jax.random.split(jax.random.fold_in(rng, layer), 4)
            kinds = jax.random.randint(keys[0], count, kinds_from, kinds_to)
            strengths = draw(keys[1], count) / largest
            signs = jax.random.rademacher(keys[2], count, jnp.float32)
            kinds = jnp.where(jax.random.uniform(keys[3], count) < p, kinds, Change.IDENTITY)
            images = apply(images, kinds, strengths, signs)
        return jnp.where(images[..., -1:] == 0, GRAY, images[..., :-1]) if fixmatch else images

    return DeviceOp("rand_augment", change, random=True)


def check_channels(name: str, images: jax.Array) -> None:
    """Raises ValueError where images are neither gray nor RGB."""
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"{name} needs gray or RGB images [B, H, W, 1 or 3], got {images.shape}")


def apply_changes(
    images: jax.Array,
    kinds: jax.Array,
    strengths: jax.Array,
    signs: jax.Array,
    ranges: Ranges = RAND_AUGMENT_RANGES,
) -> jax.Array:
    """Applies one change to each image.

    Args:
      images: float [B, H, W, C] in [0, 1], C = 1 or 3.
      kinds: int [B], each a `Change`.
      strengths: float [B] in [0, 1], shares of the largest magnitude.
      signs: float [B], 1 or -1; not read by the changes without direction.
      ranges: what the largest magnitude is.

    Returns:
      float [B, H, W, C] in [0, 1].
    """
    amounts = strengths * signs
    farthest = [ranges.side * side + ranges.pixels for side in images.shape[1:3]]
    images = _resample(
        images,
        shear=_only(kinds, (Change.SHEAR_Y, Change.SHEAR_X), ranges.shear * amounts),
        shift=(
            *_only(kinds, (Change.TRANSLATE_Y,), jnp.trunc(farthest[0] * amounts)),
            *_only(kinds, (Change.TRANSLATE_X,), jnp.trunc(farthest[1] * amounts)),
        ),
        degrees=_only(kinds, (Change.ROTATE,), ranges.degrees * amounts)[0],
    )
    images = _blend(images, kinds, 1 + ranges.enhance * amounts)
    return _by_table(images, kinds, jnp.round(ranges.bits * strengths), 1 - strengths)


def apply_fixmatch(images: jax.Array, kinds: jax.Array, strengths: jax.Array, signs: jax.Array) -> jax.Array:
    """Applies one change to each image, as strong as FixMatch's.

    Args:
      images: float [B, H, W, C + 1] in [0, 1], C = 1 or 3; the last channel is 0 where a pixel came from
        outside the image, else 1.
      kinds, strengths, signs: as `apply_changes` has them.

    Returns:
      float [B, H, W, C + 1] in [0, 1].
    """
    shift = signs * _whole(FIXMATCH_TRANSLATE, strengths)
    images = _resample(
        images,
        shear=_only(kinds, (Change.SHEAR_Y, Change.SHEAR_X), RAND_AUGMENT_RANGES.shear * strengths * signs),
        shift=_only(kinds, (Change.TRANSLATE_Y, Change.TRANSLATE_X), shift),
        degrees=_only(kinds, (Change.ROTATE,), signs * _whole(RAND_AUGMENT_RANGES.degrees, strengths))[0],
    )
    color, alpha = images[..., :-1], images[..., -1:]
    least, more = FIXMATCH_ENHANCE
    color = _blend(color, kinds, least + more * strengths)
    color = _by_table(color, kinds, *_increasing(strengths))
    forgetful = jnp.isin(per_image(kinds), jnp.array(FORGETFUL))
    return jnp.concatenate([color, jnp.where(forgetful, 1.0, alpha)], axis=-1)


def apply_timm(images: jax.Array, kinds: jax.Array, strengths: jax.Array, signs: jax.Array) -> jax.Array:
    """Applies one change to each image, as strong as timm's.

    Args:
      images: float [B, H, W, C] in [0, 1], C = 1 or 3.
      kinds: int [B], each a `Change`, SOLARIZE_ADD or INVERT.
      strengths, signs: as `apply_changes` has them.

    Returns:
      float [B, H, W, C] in [0, 1].
    """
    ranges, amounts = RAND_AUGMENT_RANGES, strengths * signs
    moved = _resample(
        _with_alpha(images),
        shear=_only(kinds, (Change.SHEAR_Y, Change.SHEAR_X), ranges.shear * amounts),
        shift=(
            *_only(kinds, (Change.TRANSLATE_Y,), TIMM_SIDE * images.shape[1] * amounts),
            *_only(kinds, (Change.TRANSLATE_X,), TIMM_SIDE * images.shape[2] * amounts),
        ),
        degrees=_only(kinds, (Change.ROTATE,), ranges.degrees * amounts)[0],
    )
    outside = jnp.array(TIMM_OUTSIDE)
    outside = jnp.mean(outside) if images.shape[-1] == 1 else outside
    images = jnp.where(moved[..., -1:] == 0, outside, moved[..., :-1])
    images = _blend(images, kinds, jnp.maximum(1 + ranges.enhance * amounts, TIMM_LEAST_FACTOR))
    images = _by_table(images, kinds, *_increasing(strengths))
    added = jnp.minimum(images + per_image(_whole(255 * TIMM_ADDED, strengths)) / 255, 1)
    images = jnp.where((per_image(kinds) == SOLARIZE_ADD) & (images < GRAY), added, images)
    return jnp.where(per_image(kinds) == INVERT, 1 - images, images)


def _whole(largest: float, strengths: jax.Array) -> jax.Array:
    """Returns floor(largest * strengths), where 10 * 0.7 and the like are meant to be whole."""
    return jnp.floor(largest * strengths * (1 + 1e-6))


def _increasing(strengths: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the bits that posterize leaves out and solarize's threshold, by FixMatch and timm, each [B]."""
    bits = RAND_AUGMENT_RANGES.bits
    threshold = (255.5 - _whole(256, strengths)) / 255  # halfway below its 8-bit number
    return 8 - bits + _whole(bits, strengths), threshold


def _with_alpha(images: jax.Array) -> jax.Array:
    return jnp.concatenate([images, jnp.ones_like(images[..., :1])], axis=-1)


def _only(kinds: jax.Array, wanted: tuple[Change, ...], amounts: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the amounts [B] for each of the wanted kinds, 0 where an image has another one."""
    return tuple(jnp.where(kinds == kind, amounts, 0.0) for kind in wanted)


def _by_table(images: jax.Array, kinds: jax.Array, left_out: jax.Array, threshold: jax.Array) -> jax.Array:
    """The changes of each value by itself or by its channel's histogram.

    Args:
      images: float [B, H, W, C] in [0, 1].
      kinds: int [B].
      left_out: whole number [B] of bits, of posterize.
      threshold: float [B] from which solarize inverts.
    """
    whole = per_image(kinds)
    images = jnp.where(whole == Change.POSTERIZE, _posterize(images, per_image(left_out)), images)
    inverted = (whole == Change.SOLARIZE) & (images >= per_image(threshold))
    images = jnp.where(inverted, 1 - images, images)
    images = jnp.where(whole == Change.AUTOCONTRAST, _stretch(images), images)
    return jnp.where(whole == Change.EQUALIZE, _equalize(images), images)


def _resample(
    images: jax.Array,
    *,
    shear: tuple[jax.Array, ...],
    shift: tuple[jax.Array, ...],
    degrees: jax.Array,
) -> jax.Array:
    """Shear from the top left corner, shift or rotation about the center, with zeros from outside.

    Args:
      images: float [B, H, W, C].
      shear, shift: float [B] along y and along x: pixels a pixel, and pixels.
      degrees: float [B].
    """
    _, height, width, _ = images.shape
    shear_y, shear_x, shift_y, shift_x = (amount[:, None, None] for amount in (*shear, *shift))
    y, x = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    angle = jnp.radians(degrees)[:, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    down, right = y - (height - 1) / 2, x - (width - 1) / 2
    # One of these alone moves an image, so their order is of no consequence.
    rows = cos * down + sin * right + (height - 1) / 2 - shift_y + shear_y * (x + 0.5)
    columns = cos * right - sin * down + (width - 1) / 2 - shift_x + shear_x * (y + 0.5)
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


def _posterize(images: jax.Array, left_out: jax.Array) -> jax.Array:
    """Sets the lowest so many of 8 bits to 0."""
    step = 2.0**left_out
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
