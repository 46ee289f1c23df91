"""Device operations that move pixels: flips, crops, rotations, distortions."""

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

CROP_TRIES = 10  # as torchvision's RandomResizedCrop


def flip(p: float = 0.5) -> DeviceOp:
    """Mirror left and right with probability `p`."""
    check_probability("flip", p)

    def mirror(rng: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.where(chance(rng, images, p), images[:, :, ::-1], images)

    return DeviceOp("flip", mirror, random=True)


def alternating_flip() -> DeviceOp:
    """Mirror an image in every second epoch: the even ones for half of the images, the odd ones for the rest.

    So two epochs in a row show each image from both sides, which chance does for every second image alone
    (Jordan 2024, arXiv:2404.00498, section 3.6). An image's half is drawn from its index in the split.
    """

    def mirror(rng: jax.Array, images: jax.Array, index: jax.Array, epoch: jax.Array) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), index)
        half = jax.vmap(lambda key: jax.random.bits(key, dtype=jnp.uint8) % 2)(keys)
        return jnp.where(per_image((half + epoch) % 2 == 1), images[:, :, ::-1], images)

    return DeviceOp("alternating_flip", mirror, random=True, reads=("index", "epoch"))


def vertical_flip(p: float = 0.5) -> DeviceOp:
    """Mirror top and bottom with probability `p`."""
    check_probability("vertical_flip", p)

    def mirror(rng: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.where(chance(rng, images, p), images[:, ::-1], images)

    return DeviceOp("vertical_flip", mirror, random=True)


def pad_and_crop(pad: int, mode: str = "constant") -> DeviceOp:
    """Pad every side by `pad` pixels and cut the old size at one of the (2·pad + 1)² offsets, equally likely.

    Args:
      pad: pixels, at least 0.
      mode: "constant" (zeros) or "reflect", which does not repeat the edge pixel: [1, 2, 3] by 2 is
        [3, 2, 1, 2, 3, 2, 1].
    """
    if not isinstance(pad, int) or pad < 0:
        raise ValueError(f"pad_and_crop: pad must be a whole number of pixels, at least 0, got {pad!r}")
    check_choice("pad_and_crop", "mode", mode, ("constant", "reflect"))

    def crop(rng: jax.Array, images: jax.Array) -> jax.Array:
        padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
        offsets = jax.random.randint(rng, (len(images), 2), 0, 2 * pad + 1)
        cut = jax.vmap(lambda image, o: jax.lax.dynamic_slice(image, (o[0], o[1], 0), images.shape[1:]))
        return cut(padded, offsets)

    return DeviceOp("pad_and_crop", crop, random=True)


def rotate(degrees: float, order: str = "nearest") -> DeviceOp:
    """Rotate about the center by an angle from U(-degrees, degrees), positive counter-clockwise; 0 comes in.

    Args:
      degrees: the largest angle, at least 0.
      order: "nearest" (torchvision's default) or "bilinear".
    """
    turn = affine(degrees, translate=0.0, scale=(1.0, 1.0), order=order)
    return DeviceOp("rotate", turn.function, random=True)


def affine(
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    order: str = "bilinear",
) -> DeviceOp:
    """Rotate and scale about the center, then shift, in one resampling; what lies outside is 0.

    Args:
      degrees: the angle is from U(-degrees, degrees), positive counter-clockwise.
      translate: the shift along each axis is from U(-translate, translate) of that side, in [0, 1].
      scale: the magnification is from U(low, high), 0 < low <= high.
      order: "nearest" or "bilinear".
    """
    if not 0 <= degrees < math.inf or not 0 <= translate <= 1:
        raise ValueError(
            f"degrees must be at least 0 and translate in [0, 1], got {degrees!r} and {translate!r}"
        )
    low, high = check_range("affine", "scale", scale)
    check_choice("rotate and affine", "order", order, ("nearest", "bilinear"))

    def transform(rng: jax.Array, images: jax.Array) -> jax.Array:
        size, height, width, _ = images.shape
        angle_rng, shift_rng, scale_rng = jax.random.split(rng, 3)
        angles = jax.random.uniform(angle_rng, (size,), minval=-degrees, maxval=degrees)
        fractions = jax.random.uniform(shift_rng, (size, 2), minval=-translate, maxval=translate)
        scales = jax.random.uniform(scale_rng, (size,), minval=low, maxval=high)
        return warp(images, jnp.radians(angles), fractions * jnp.array([height, width]), scales, order=order)

    return DeviceOp("affine", transform, random=True)


def warp(
    images: jax.Array, angles: jax.Array, shifts: jax.Array, scales: jax.Array, *, order: str
) -> jax.Array:
    """Rotate and scale each image about its center, then shift it; zeros come in from outside.

    Args:
      images: float [B, H, W, C].
      angles: float [B], radians, positive counter-clockwise as seen on the screen (y points down).
      shifts: float [B, 2], pixels down and to the right.
      scales: float [B], positive; 2 doubles the size of what is seen.
      order: "nearest" (ties to even) or "bilinear".

    Returns:
      float [B, H, W, C].
    """
    _, height, width, _ = images.shape
    center = (height - 1) / 2, (width - 1) / 2
    down = jnp.arange(height) - center[0] - shifts[:, :1]  # [B, H]
    right = jnp.arange(width) - center[1] - shifts[:, 1:]  # [B, W]
    cos, sin = (jnp.cos(angles) / scales)[:, None, None], (jnp.sin(angles) / scales)[:, None, None]
    rows = center[0] + cos * down[:, :, None] + sin * right[:, None]  # [B, H, W], where to read
    columns = center[1] + cos * right[:, None] - sin * down[:, :, None]
    if order == "nearest":
        return read(images, jnp.round(rows).astype(jnp.int32), jnp.round(columns).astype(jnp.int32))
    return _bilinear(images, rows, columns)


def _bilinear(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns images [B, H, W, C] at float coordinates [B, h, w], with 0 outside: [B, h, w, C]."""
    top, left = jnp.floor(rows), jnp.floor(columns)
    y, x = (rows - top)[..., None], (columns - left)[..., None]
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)
    upper = (1 - x) * read(images, top, left) + x * read(images, top, left + 1)
    lower = (1 - x) * read(images, top + 1, left) + x * read(images, top + 1, left + 1)
    return (1 - y) * upper + y * lower


def read(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns images [B, H, W, C] at int32 coordinates [B, h, w], with 0 outside: [B, h, w, C]."""
    size, height, width, channels = images.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    flat = jnp.clip(rows, 0, height - 1) * width + jnp.clip(columns, 0, width - 1)
    pick = jax.vmap(lambda pixels, index: pixels.at[index].get(mode="promise_in_bounds"))
    return jnp.where(inside[..., None], pick(images.reshape(size, -1, channels), flat), 0)


def read_between(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Reads between the pixels, bilinearly; the pixels of the edge go on beyond it.

    Args:
      images: float [B, H, W, C].
      rows, columns: float [B, h, w], where to read; 0 is the middle of the first pixel.

    Returns:
      float [B, h, w, C].
    """
    _, height, width, _ = images.shape
    return _bilinear(images, jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1))


def optical_distortion(limit: float = 0.3) -> DeviceOp:
    """Distort as a lens does, barrel or pincushion; the pixels of the edge go on beyond it.

    Eq.: with (u, v) in [-1, 1] over the width and the height, a pixel is read at (1 + k r^2) (u, v),
    r^2 = u^2 + v^2: the first term of Brown's radial distortion.

    Args:
      limit: k is from U(-limit, limit), one draw for each image, in [0, 0.5].
    """
    if not 0 <= limit <= 0.5:
        raise ValueError(f"optical_distortion: limit must lie in [0, 0.5], got {limit!r}")

    def distort(rng: jax.Array, images: jax.Array) -> jax.Array:
        strengths = jax.random.uniform(rng, (len(images),), minval=-limit, maxval=limit)
        return bend(images, strengths)

    return DeviceOp("optical_distortion", distort, random=True)


def bend(images: jax.Array, strengths: jax.Array) -> jax.Array:
    """Applies `optical_distortion` to images float [B, H, W, C], by strengths k, float [B]."""
    _, height, width, _ = images.shape
    center = (height - 1) / 2, (width - 1) / 2
    down, right = jnp.arange(height)[:, None] - center[0], jnp.arange(width)[None, :] - center[1]
    squared = (down / max(center[0], 1)) ** 2 + (right / max(center[1], 1)) ** 2  # [H, W], r^2
    factor = 1 + strengths[:, None, None] * squared
    return read_between(images, center[0] + factor * down, center[1] + factor * right)


def resized_crop(
    scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (0.75, 4 / 3)
) -> DeviceOp:
    """Crop a random part and enlarge it to the size of the whole; bilinear.

    The part is never larger than the result, so nothing needs antialiasing. At the crop's border the filter
    sees the pixels beyond it, as that of the host operation `random_resized_crop` does.

    Args:
      scale: share of the image's area, from U(low, high), 0 < low <= high <= 1.
      ratio: width/height of the part, log-uniform in (low, high), 0 < low <= high. Of 10 draws the first that
        fits the image is taken; where none does, the largest centerd part whose ratio lies within the bounds.
    """
    smallest, largest = check_range("resized_crop", "scale", scale)
    if largest > 1:
        raise ValueError(f"resized_crop: scale is a share of the image's area, at most 1, got {scale!r}")
    narrow, wide = check_range("resized_crop", "ratio", ratio)

    def enlarge(rng: jax.Array, images: jax.Array) -> jax.Array:
        area_rng, ratio_rng, corner_rng = jax.random.split(rng, 3)
        sides, draws = (images.shape[1], images.shape[2]), (len(images), CROP_TRIES)
        areas = math.prod(sides) * jax.random.uniform(area_rng, draws, minval=smallest, maxval=largest)
        ratios = jax.random.uniform(ratio_rng, draws, minval=math.log(narrow), maxval=math.log(wide))
        sizes = jnp.sqrt(jnp.stack([areas / jnp.exp(ratios), areas * jnp.exp(ratios)], axis=-1))
        sizes = jnp.round(sizes)  # [B, tries, 2], height and width
        fits = jnp.all((sizes >= 1) & (sizes <= jnp.array(sides)), axis=-1)
        size = jnp.take_along_axis(sizes, jnp.argmax(fits, axis=1)[:, None, None], axis=1)[:, 0]
        fitted, found = jnp.array(_largest_part(sides, narrow, wide)), fits.any(axis=1)[:, None]
        size = jnp.where(found, size, fitted)  # [B, 2]
        free = jnp.array(sides) - size
        corners = jnp.floor(jax.random.uniform(corner_rng, size.shape) * (free + 1))
        return enlarged(images, jnp.where(found, corners, jnp.floor(free / 2)), size)

    return DeviceOp("resized_crop", enlarge, random=True)


def _largest_part(sides: tuple[int, int], narrow: float, wide: float) -> tuple[int, int]:
    """Returns (height, width) of the largest crop whose width/height lies within the bounds."""
    height, width = sides
    aspect = min(max(width / height, narrow), wide)
    return min(height, max(1, round(width / aspect))), min(width, max(1, round(height * aspect)))


def enlarged(images: jax.Array, corners: jax.Array, sizes: jax.Array) -> jax.Array:
    """Enlarges a crop of each image to full size; corners (top left) and sizes are float [B, 2], pixels."""
    sides = jnp.array(images.shape[1:3])

    def enlarge(image: jax.Array, corner: jax.Array, size: jax.Array) -> jax.Array:
        scale = sides / size
        return jax.image.scale_and_translate(image, image.shape, (0, 1), scale, -corner * scale, "linear")

    return jax.vmap(enlarge)(images, corners, sizes)


def upsample(size: int) -> DeviceOp:
    """Resize to size x size, bilinear, antialiased where it shrinks; for small arrays, such as digits."""
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"upsample: size must be a whole number of pixels, at least 1, got {size!r}")

    def enlarge(rng: jax.Array, images: jax.Array) -> jax.Array:
        return jax.image.resize(images, (images.shape[0], size, size, images.shape[-1]), "bilinear")

    return DeviceOp("upsample", enlarge, random=False)
