"""Host operations of the input pipeline, and the table of all of them.

To add one, write a factory that returns a `HostOp` and add its line to `HOST_OPERATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from imgcls_jax.data import augmix, decoding
from imgcls_jax.data.host_operation import HostOp

try:
    import cykooz_resizer as resizer
except ModuleNotFoundError:  # there are no wheels for ARM under Linux; Pillow resizes then
    resizer = None

CROP_TRIES = 10  # as torchvision's RandomResizedCrop
TENSORFLOW_CROP_TRIES = 100

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def _operation(name: str, function: Callable[..., Any], *, random: bool, **arguments: Any) -> HostOp:
    return HostOp(name, function, random, tuple(arguments.items()))


def decode(min_short: int = 0) -> HostOp:
    """Decode the bytes of an image file, or an array, to an image (see `decoding.decode`)."""
    if not isinstance(min_short, int) or min_short < 0:
        raise ValueError(f"decode: min_short is a whole number of pixels, or 0; got {min_short!r}")
    return _operation("decode", _decode_example, random=False, min_short=min_short)


def _decode_example(example: bytes | np.ndarray, rng: np.random.Generator, *, min_short: int) -> Image.Image:
    return decoding.decode(example, min_short, may_shrink=True)


def resize(height: int, width: int | None = None, interpolation: str = "bilinear") -> HostOp:
    """Warp to height x width (default: square); antialiased. `resize_short` keeps the aspect.

    Args:
      height, width: of the result in pixels.
      interpolation: "bilinear" or "bicubic", both Pillow's.
    """
    width = height if width is None else width
    _check_sizes("resize", height, width)
    _check_interpolation("resize", interpolation)
    arguments = dict(height=height, width=width, interpolation=interpolation)
    return _operation("resize", _resize, random=False, **arguments)


def _resize(
    image: Image.Image, rng: np.random.Generator, *, height: int, width: int, interpolation: str
) -> Image.Image:
    return image.resize((width, height), INTERPOLATIONS[interpolation])


def resize_short(size: int, interpolation: str = "bilinear") -> HostOp:
    """Resize the shorter side to `size`, the longer to floor(size · long / short); otherwise as `resize`."""
    _check_sizes("resize_short", size)
    _check_interpolation("resize_short", interpolation)
    arguments = dict(low=size, high=size, interpolation=interpolation)
    return _operation("resize_short", _resize_short, random=False, **arguments)


def random_resize_short(low: int, high: int, interpolation: str = "bilinear") -> HostOp:
    """Resize the shorter side to a whole number drawn from low..high, both included, keeping the aspect."""
    _check_sizes("random_resize_short", low, high)
    _check_interpolation("random_resize_short", interpolation)
    if low > high:
        raise ValueError(f"random_resize_short: low must not be above high, got {low} and {high}")
    arguments = dict(low=low, high=high, interpolation=interpolation)
    return _operation("random_resize_short", _resize_short, random=True, **arguments)


def _resize_short(
    image: Image.Image, rng: np.random.Generator, *, low: int, high: int, interpolation: str
) -> Image.Image:
    size = low if low == high else int(rng.integers(low, high, endpoint=True))
    short = min(image.size)
    width, height = (size * side // short for side in image.size)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(
            f"{image.width} x {image.height} pixels: with a shorter side of {size} they would be {width} x "
            f"{height}, over PIL.Image.MAX_IMAGE_PIXELS = {limit}; cut such a strip into parts"
        )
    return image.resize((width, height), INTERPOLATIONS[interpolation])


def random_resized_crop(
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (0.75, 4 / 3),
    like: str = "torchvision",
    interpolation: str = "bilinear",
) -> HostOp:
    """Crop a random part and resize it to size x size in one pass; antialiased.

    At the crop's border the filter sees the pixels beyond it. Pillow does what is bicubic, and all where
    cykooz-resizer is not installed, several times slower; the two differ by one gray level at most.

    Args:
      size: side of the result in pixels.
      scale: least and largest share of the image's area, 0 < low <= high <= 1.
      ratio: least and largest width/height of the part, 0 < low <= high.
      like: "torchvision": the area is uniform, the ratio log-uniform. "tensorflow": the ratio is uniform, and
        then the height, so that small parts are more frequent.
      interpolation: "bilinear" or "bicubic", as Pillow's.
    """
    _check_sizes("random_resized_crop", size)
    for name, bounds, limit in (("scale", scale, 1), ("ratio", ratio, math.inf)):
        if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= limit:
            raise ValueError(
                f"random_resized_crop: {name} must be (low, high), 0 < low <= high <= {limit}, got {bounds!r}"
            )
    if like not in BOXES:
        raise ValueError(f"random_resized_crop: like must be one of {', '.join(BOXES)}, got {like!r}")
    _check_interpolation("random_resized_crop", interpolation)
    arguments = dict(
        size=size, scale=tuple(scale), ratio=tuple(ratio), like=like, interpolation=interpolation
    )
    return _operation("random_resized_crop", _random_resized_crop, random=True, **arguments)


def _random_resized_crop(
    image: Image.Image,
    rng: np.random.Generator,
    *,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    like: str,
    interpolation: str,
) -> Image.Image:
    box = BOXES[like](image.width, image.height, scale, ratio, rng)
    if resizer is None or interpolation != "bilinear":
        return image.resize((size, size), INTERPOLATIONS[interpolation], box=box)
    left, top, right, bottom = box
    options = resizer.ResizeOptions(
        resizer.ResizeAlg.convolution(resizer.FilterType.bilinear),
        crop_box=resizer.CropBox(left, top, right - left, bottom - top),
    )
    resized = Image.new(image.mode, (size, size))
    resizer.Resizer().resize_pil(image, resized, options)  # a new one, since none may serve two threads
    return resized


def random_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the random part of a width x height image in `random_resized_crop`.

    After 10 draws that do not fit: the largest centerd part whose ratio lies within the bounds.
    """
    for _ in range(CROP_TRIES):
        pixels = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, max(1, round(height * aspect)))
    h = min(height, max(1, round(width / aspect)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_box_of_tensorflow(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """The same as `tf.image.sample_distorted_bounding_box` draws it where all of the image is the object.

    After 100 draws that do not fit: the whole image.
    """
    least, most = (share * width * height for share in scale)
    for _ in range(TENSORFLOW_CROP_TRIES):
        aspect = rng.uniform(*ratio)
        highest = min(round(math.sqrt(most / aspect)), height, math.floor((width + 0.5) / aspect))
        lowest = min(round(math.sqrt(least / aspect)), highest)
        h = lowest + int(rng.integers(highest - lowest + 1))
        area = h * round(h * aspect)
        h += (area < least) - (area > most)  # what rounding took or gave
        w = round(h * aspect)
        if 0 < w <= width and 0 < h <= height and least <= w * h <= most:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, width, height


BOXES = {"torchvision": random_box, "tensorflow": random_box_of_tensorflow}


def random_crop(size: int) -> HostOp:
    """Crop size x size pixels at a uniformly drawn place. A smaller image is refused with a ValueError."""
    _check_sizes("random_crop", size)
    return _operation("random_crop", _random_crop, random=True, size=size)


def _random_crop(image: Image.Image, rng: np.random.Generator, *, size: int) -> Image.Image:
    if min(image.size) < size:
        raise ValueError(
            f"random_crop({size}): the image is smaller, {image.width} x {image.height}; put "
            f"resize_short({size}) before it"
        )
    left, top = (int(rng.integers(side - size + 1)) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def center_crop(size: int) -> HostOp:
    """Crop size x size pixels at round((side - size) / 2), half to even; a smaller image is padded with 0."""
    _check_sizes("center_crop", size)
    return _operation("center_crop", _center_crop, random=False, size=size)


def _center_crop(image: Image.Image, rng: np.random.Generator, *, size: int) -> Image.Image:
    left, top = (round((s - size) / 2) if s >= size else -((size - s) // 2) for s in image.size)
    return image.crop((left, top, left + size, top + size))


def gray() -> HostOp:
    """Convert to one channel, Pillow's "L": (299 R + 587 G + 114 B) / 1000."""
    return _operation("gray", _convert, random=False, mode="L")


def rgb() -> HostOp:
    """Convert to three channels; a gray channel is repeated."""
    return _operation("rgb", _convert, random=False, mode="RGB")


def _convert(image: Image.Image, rng: np.random.Generator, *, mode: str) -> Image.Image:
    return image.convert(mode)


def _check_sizes(name: str, *sizes: int) -> None:
    if any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"{name}: sizes must be whole numbers of pixels, at least 1, got {sizes}")


def _check_interpolation(name: str, interpolation: str) -> None:
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"{name}: interpolation must be one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}"
        )


# The name in a line of transforms, and the factory that its arguments are for.
HOST_OPERATIONS: dict[str, Callable[..., HostOp]] = {
    "augmix": augmix.augmix,
    "decode": decode,
    "center_crop": center_crop,
    "gray": gray,
    "random_crop": random_crop,
    "random_resize_short": random_resize_short,
    "random_resized_crop": random_resized_crop,
    "resize": resize,
    "resize_short": resize_short,
    "rgb": rgb,
}
