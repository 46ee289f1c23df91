"""Device operations of the input pipeline: a batch of images at a time, inside the jitted train step.

A factory such as `flip(p=0.5)` returns a `DeviceOp`, called as `op(rng, images)`: images float32 [B, H, W, C]
to the same, in [0, 1] until `normalize`. Every random operation draws for each image separately, and image
i's draw depends on (rng, i) alone: neither on the other images, nor on the size of the batch, nor on how it
is split over devices. `compose` chains operations into the `augment` of a step.

A public function here that is annotated to return a `DeviceOp` is an operation that a config's line may name
(see `imgcls_jax.data.transforms.parse`); to add one, write one.

The usual order is geometric, colour, `normalize`, erasing. `cutout` and `random_erasing` fill with 0, which
is black before `normalize` and the mean after it; the colour operations need [0, 1], so they stand before it.
`p` is the probability, in [0, 1], that an image is changed.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

LUMINANCE = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision rounds it
ERASING_TRIES = 10  # as torchvision's RandomErasing
CROP_TRIES = 10  # as torchvision's RandomResizedCrop
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclasses.dataclass(frozen=True)
class DeviceOp:
    """One operation on a batch: its name, `function(rng, images) -> images`, and whether it reads `rng`."""

    name: str
    function: Callable[[jax.Array, jax.Array], jax.Array]
    random: bool

    def __call__(self, rng: jax.Array, images: jax.Array) -> jax.Array:
        return self.function(rng, images)


def compose(ops: Sequence[DeviceOp]) -> Callable[[jax.Array, dict], dict]:
    """Chain operations into the device side of a split's input pipeline.

    Args:
      ops: operations, applied in order; operation k draws from fold_in(rng, k). May be empty.

    Returns:
      augment(rng, batch) -> batch, whose "image", uint8 [B, H, W, C], became float32, divided by 255 and
      passed through the operations; other entries are untouched. It raises ValueError, at trace time, on an
      "image" of another rank or dtype.
    """

    def augment(rng: jax.Array, batch: dict) -> dict:
        images = batch["image"]
        if images.ndim != 4 or images.dtype != jnp.uint8:
            raise ValueError(
                f'batch["image"] must be uint8 [B, H, W, C], got {images.dtype} {images.shape}: images '
                "travel as uint8 and become float once, here; mend the source or the host operations"
            )
        images = images.astype(jnp.float32) / 255
        for position, op in enumerate(ops):
            images = op(jax.random.fold_in(rng, position), images)
        return {**batch, "image": images}

    return augment


# ---- geometry


def flip(p: float = 0.5) -> DeviceOp:
    """Mirror left and right with probability `p`."""
    _check_probability("flip", p)

    def mirror(rng: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.where(_chance(rng, images, p), images[:, :, ::-1], images)

    return DeviceOp("flip", mirror, random=True)


def vertical_flip(p: float = 0.5) -> DeviceOp:
    """Mirror top and bottom with probability `p`."""
    _check_probability("vertical_flip", p)

    def mirror(rng: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.where(_chance(rng, images, p), images[:, ::-1], images)

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
    _check_choice("pad_and_crop", "mode", mode, ("constant", "reflect"))

    def crop(rng: jax.Array, images: jax.Array) -> jax.Array:
        padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
        offsets = jax.random.randint(rng, (len(images), 2), 0, 2 * pad + 1)
        cut = jax.vmap(lambda image, o: jax.lax.dynamic_slice(image, (o[0], o[1], 0), images.shape[1:]))
        return cut(padded, offsets)

    return DeviceOp("pad_and_crop", crop, random=True)


def rotate(degrees: float, order: str = "nearest") -> DeviceOp:
    """Rotate about the centre by an angle from U(-degrees, degrees), positive counter-clockwise; 0 comes in.

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
    """Rotate and scale about the centre, then shift, in one resampling; what lies outside is 0.

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
    low, high = _check_range("affine", "scale", scale)
    _check_choice("rotate and affine", "order", order, ("nearest", "bilinear"))

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
    """Rotate and scale each image about its centre, then shift it; zeros come in from outside.

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
    centre = (height - 1) / 2, (width - 1) / 2
    down = jnp.arange(height) - centre[0] - shifts[:, :1]  # [B, H]
    right = jnp.arange(width) - centre[1] - shifts[:, 1:]  # [B, W]
    cos, sin = (jnp.cos(angles) / scales)[:, None, None], (jnp.sin(angles) / scales)[:, None, None]
    rows = centre[0] + cos * down[:, :, None] + sin * right[:, None]  # [B, H, W], where to read
    columns = centre[1] + cos * right[:, None] - sin * down[:, :, None]
    if order == "nearest":
        return read(images, jnp.round(rows).astype(jnp.int32), jnp.round(columns).astype(jnp.int32))
    top, left = jnp.floor(rows), jnp.floor(columns)
    y, x = (rows - top)[..., None], (columns - left)[..., None]
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)
    upper = (1 - x) * read(images, top, left) + x * read(images, top, left + 1)
    lower = (1 - x) * read(images, top + 1, left) + x * read(images, top + 1, left + 1)
    return (1 - y) * upper + y * lower


def read(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """images [B, H, W, C] at int32 [B, h, w] coordinates, 0 outside: [B, h, w, C]."""
    size, height, width, channels = images.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    flat = jnp.clip(rows, 0, height - 1) * width + jnp.clip(columns, 0, width - 1)
    pick = jax.vmap(lambda pixels, index: pixels.at[index].get(mode="promise_in_bounds"))
    return jnp.where(inside[..., None], pick(images.reshape(size, -1, channels), flat), 0)


def resized_crop(
    scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (0.75, 4 / 3)
) -> DeviceOp:
    """Crop a random part and enlarge it to the size of the whole; bilinear.

    The part is never larger than the result, so nothing needs antialiasing. At the crop's border the filter
    sees the pixels beyond it, as that of the host operation `random_resized_crop` does.

    Args:
      scale: share of the image's area, from U(low, high), 0 < low <= high <= 1.
      ratio: width/height of the part, log-uniform in (low, high), 0 < low <= high. Of 10 draws the first that
        fits the image is taken; where none does, the largest centred part whose ratio lies within the bounds.
    """
    smallest, largest = _check_range("resized_crop", "scale", scale)
    if largest > 1:
        raise ValueError(f"resized_crop: scale is a share of the image's area, at most 1, got {scale!r}")
    narrow, wide = _check_range("resized_crop", "ratio", ratio)

    def enlarge(rng: jax.Array, images: jax.Array) -> jax.Array:
        area_rng, ratio_rng, corner_rng = jax.random.split(rng, 3)
        sides, draws = images.shape[1:3], (len(images), CROP_TRIES)
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
    """(height, width) of the largest part of an image whose width/height lies within the bounds."""
    height, width = sides
    aspect = min(max(width / height, narrow), wide)
    return min(height, max(1, round(width / aspect))), min(width, max(1, round(height * aspect)))


def enlarged(images: jax.Array, corners: jax.Array, sizes: jax.Array) -> jax.Array:
    """Each image's part at the size of the whole; its top left corner and size are float [B, 2], pixels."""
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


# ---- colour


def color_jitter(
    brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0, p: float = 1.0
) -> DeviceOp:
    """Change brightness, contrast, saturation and hue, in an order drawn for each image.

    Args:
      brightness, contrast, saturation: the factor is from U(max(0, 1 - x), 1 + x), x at least 0.
      hue: the shift, in turns, is from U(-hue, hue), hue in [0, 0.5].
      p: probability that an image is changed at all.
    """
    spreads = (brightness, contrast, saturation)
    if any(not 0 <= spread < math.inf for spread in spreads) or not 0 <= hue <= 0.5:
        raise ValueError(
            f"color_jitter: expected strengths of at least 0 and hue in [0, 0.5], got {spreads}, {hue!r}"
        )
    _check_probability("color_jitter", p)

    def change(rng: jax.Array, images: jax.Array) -> jax.Array:
        _check_rgb("color_jitter", images)
        chance_rng, factor_rng, shift_rng, order_rng = jax.random.split(rng, 4)
        low = jnp.array([max(0.0, 1 - spread) for spread in spreads])
        factors = jax.random.uniform(factor_rng, (len(images), 3), minval=low, maxval=1 + jnp.array(spreads))
        shifts = jax.random.uniform(shift_rng, (len(images),), minval=-hue, maxval=hue) if hue else None
        order = jnp.argsort(jax.random.uniform(order_rng, (len(images), 4)), axis=1)
        changed = jitter(images, factors, shifts, order)
        return changed if p == 1 else jnp.where(_chance(chance_rng, images, p), changed, images)

    return DeviceOp("color_jitter", change, random=True)


def jitter(images: jax.Array, factors: jax.Array, shifts: jax.Array | None, order: jax.Array) -> jax.Array:
    """The four colour changes, each image in its own order.

    Brightness, contrast and saturation are blends clip(f·x + (1 - f)·base, 0, 1) with 0, the image's mean
    luminance and the pixel's luminance; hue turns the colour circle (HSV). The blends differ in their base
    alone, and the factor 1 changes nothing: so the costly hue is computed once, between three blends before
    it and three after it, of which each image uses three. They are loops since XLA, given them in a row,
    would fuse them and compute each blend anew for every channel of the next.

    Args:
      images: float [B, H, W, 3] in [0, 1].
      factors: float [B, 3], at least 0: brightness, contrast, saturation.
      shifts: float [B], hue shift in turns, or None for no change of hue.
      order: int [B, 4], a permutation of (BRIGHTNESS, CONTRAST, SATURATION, HUE) per image.

    Returns:
      float [B, H, W, 3] in [0, 1].
    """
    turn = jnp.argmax(order == HUE, axis=1)  # [B], the place of hue in the order

    def blend(place: jax.Array, images: jax.Array) -> jax.Array:
        # place 0, 1, 2: before hue; 3, 4, 5: the same three blends, after it
        step, after = place % 3, place >= 3
        which = jnp.where(step < turn, order[:, step], order[:, step + 1])  # hue skipped
        factor = jnp.take_along_axis(factors, which[:, None], axis=1)[:, 0]
        factor = _per_image(jnp.where((step >= turn) == after, factor, 1))
        which, grey = _per_image(which), luminance(images)
        base = jnp.where(which == CONTRAST, grey.mean(axis=(1, 2, 3), keepdims=True), grey)
        base = jnp.where(which == BRIGHTNESS, 0, base)
        return jnp.clip(factor * images + (1 - factor) * base, 0, 1)

    images = jax.lax.fori_loop(0, 3, blend, images)
    if shifts is not None:
        images = _turn_hue(images, shifts[:, None, None])
    return jax.lax.fori_loop(3, 6, blend, images)


def luminance(images: jax.Array) -> jax.Array:
    """Grey value .2989 R + .587 G + .114 B of images [B, H, W, 3]: [B, H, W, 1]."""
    red, green, blue = (images[..., channel : channel + 1] for channel in range(3))
    return LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue


def _turn_hue(images: jax.Array, shifts: jax.Array) -> jax.Array:
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    rise = jnp.where(is_red, green - blue, jnp.where(is_green, blue - red, red - green))
    start = jnp.where(is_red, 0.0, jnp.where(is_green, 2.0, 4.0))
    sixths = start + rise / jnp.where(chroma > 0, chroma, 1) + 6 * shifts
    channels = []
    for n in (5, 3, 1):
        k = n + sixths
        k = k - 6 * jnp.floor(k / 6)  # k % 6, which costs six times as much on a CPU
        channels.append(value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))
    return jnp.stack(channels, axis=-1)


def greyscale(p: float = 0.2) -> DeviceOp:
    """Replace R, G and B by the luminance with probability `p`; three channels stay."""
    _check_probability("greyscale", p)

    def fade(rng: jax.Array, images: jax.Array) -> jax.Array:
        _check_rgb("greyscale", images)
        return jnp.where(_chance(rng, images, p), luminance(images), images)

    return DeviceOp("greyscale", fade, random=True)


def solarize(threshold: float = 0.5, p: float = 0.2) -> DeviceOp:
    """Invert the values at or above `threshold`, in [0, 1], with probability `p`; before `normalize`."""
    _check_probability("solarize", p)
    if not 0 <= threshold <= 1:
        raise ValueError(
            f"solarize: threshold must lie in [0, 1], the range of the images, got {threshold!r}"
        )

    def invert(rng: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.where(_chance(rng, images, p) & (images >= threshold), 1 - images, images)

    return DeviceOp("solarize", invert, random=True)


def gaussian_blur(
    sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5, kernel_size: int | None = None
) -> DeviceOp:
    """Blur with probability `p`, the width in pixels from U(sigma); borders are reflected.

    Args:
      sigma: (low, high), 0 < low <= high.
      p: probability.
      kernel_size: odd number of pixels; None for about a tenth of the shorter side, at least 3.
    """
    low, high = _check_range("gaussian_blur", "sigma", sigma)
    _check_probability("gaussian_blur", p)
    if kernel_size is not None and (
        not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0
    ):
        raise ValueError(f"gaussian_blur: kernel_size must be odd and positive, or None, got {kernel_size!r}")

    def smooth(rng: jax.Array, images: jax.Array) -> jax.Array:
        chance_rng, sigma_rng = jax.random.split(rng)
        sigmas = jax.random.uniform(sigma_rng, (len(images),), minval=low, maxval=high)
        width = kernel_size or max(3, min(images.shape[1:3]) // 10 // 2 * 2 + 1)
        return jnp.where(_chance(chance_rng, images, p), blur(images, sigmas, width), images)

    return DeviceOp("gaussian_blur", smooth, random=True)


def blur(images: jax.Array, sigmas: jax.Array, kernel_size: int) -> jax.Array:
    """Gaussian blur of images [B, H, W, C], each by its own of sigmas [B], in pixels.

    A matrix product along each axis: shifted sums would be fused with, and so repeat, the operations before.
    """
    radius = kernel_size // 2
    weights = jax.nn.softmax(-0.5 * ((jnp.arange(kernel_size) - radius) / sigmas[:, None]) ** 2)  # [B, taps]

    def matrix(side: int) -> jax.Array:
        identity = jnp.pad(jnp.eye(side), ((radius, radius), (0, 0)), mode="reflect")
        taps = jnp.stack([identity[tap : tap + side] for tap in range(kernel_size)])
        return jnp.einsum("bt,tij->bij", weights, taps, precision="highest")  # [B, side, side]

    images = jnp.einsum("bij,bjwc->biwc", matrix(images.shape[1]), images, precision="highest")
    return jnp.einsum("bij,bhjc->bhic", matrix(images.shape[2]), images, precision="highest")


# ---- erasing and normalisation


def cutout(size: int, p: float = 1.0) -> DeviceOp:
    """Fill a size x size square with 0; its centre is any pixel, so at the border a part of it is lost.

    Reference: DeVries and Taylor, 2017, arXiv:1708.04552.
    """
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"cutout: size must be a whole number of pixels, at least 1, got {size!r}")
    _check_probability("cutout", p)

    def cut(rng: jax.Array, images: jax.Array) -> jax.Array:
        chance_rng, centre_rng = jax.random.split(rng)
        corners = (
            jax.random.randint(centre_rng, (len(images), 2), 0, jnp.array(images.shape[1:3])) - size // 2
        )
        hole = _rectangles(images, corners, jnp.full_like(corners, size))
        return jnp.where(hole & _chance(chance_rng, images, p), 0, images)

    return DeviceOp("cutout", cut, random=True)


def random_erasing(
    p: float = 0.5, area: tuple[float, float] = (0.02, 0.33), ratio: tuple[float, float] = (0.3, 3.3)
) -> DeviceOp:
    """Fill a random rectangle with 0 with probability `p`; after `normalize` that is the mean.

    Args:
      p: probability; a little less in effect, as an image whose 10 draws all do not fit stays as it is.
      area: the share of the image is from U(low, high), 0 < low <= high <= 1.
      ratio: height/width is log-uniform in (low, high), 0 < low <= high.

    Reference: Zhong et al., 2017, arXiv:1708.04896.
    """
    _check_probability("random_erasing", p)
    smallest, largest = _check_range("random_erasing", "area", area)
    if largest > 1:
        raise ValueError(f"random_erasing: area is a share of the image, at most 1, got {area!r}")
    flattest, tallest = map(math.log, _check_range("random_erasing", "ratio", ratio))

    def erase(rng: jax.Array, images: jax.Array) -> jax.Array:
        chance_rng, area_rng, ratio_rng, corner_rng = jax.random.split(rng, 4)
        sides, draws = jnp.array(images.shape[1:3]), (len(images), ERASING_TRIES)
        areas = sides.prod() * jax.random.uniform(area_rng, draws, minval=smallest, maxval=largest)
        ratios = jnp.exp(jax.random.uniform(ratio_rng, draws, minval=flattest, maxval=tallest))
        sizes = jnp.round(jnp.sqrt(jnp.stack([areas * ratios, areas / ratios], axis=-1))).astype(jnp.int32)
        fits = jnp.all(sizes < sides, axis=-1)  # [B, tries]
        size = jnp.take_along_axis(sizes, jnp.argmax(fits, axis=1)[:, None, None], axis=1)[:, 0]  # [B, 2]
        corners = jax.random.randint(corner_rng, size.shape, 0, jnp.maximum(sides - size, 0) + 1)
        hole = _rectangles(images, corners, size) & _per_image(fits.any(axis=1))
        return jnp.where(hole & _chance(chance_rng, images, p), 0, images)

    return DeviceOp("random_erasing", erase, random=True)


def normalize(mean: float | tuple[float, ...], std: float | tuple[float, ...]) -> DeviceOp:
    """(x - mean) / std, on the [0, 1] scale; each one number, or a tuple of one a channel; std above 0."""
    means, stds = (tuple(x) if isinstance(x, tuple | list) else (x,) for x in (mean, std))
    if not all(math.isfinite(x) for x in means + stds) or any(x <= 0 for x in stds):
        raise ValueError(f"normalize: mean must be finite and std above 0, got mean {mean!r}, std {std!r}")

    def standardize(rng: jax.Array, images: jax.Array) -> jax.Array:
        channels = images.shape[-1]
        if any(len(x) not in (1, channels) for x in (means, stds)):
            raise ValueError(
                f"normalize: the images have {channels} channel(s), so mean {means} and std {stds} must have "
                f"1 or {channels} values; mend the line, or put grey or rgb among its host operations"
            )
        return (images - jnp.array(means, images.dtype)) / jnp.array(stds, images.dtype)

    return DeviceOp("normalize", standardize, random=False)


def sobel() -> DeviceOp:
    """Replace the channels by two: the horizontal and vertical Sobel gradients of their mean; zeros around.

    The gradients are of brightness falling to the right and downwards, at most 4 times its range.

    It stands after `normalize`.

    Reference: the front end of DeepCluster, Caron et al., 2018, arXiv:1807.05520.
    """

    def gradients(rng: jax.Array, images: jax.Array) -> jax.Array:
        grey = jnp.pad(images.mean(axis=-1), ((0, 0), (1, 1), (1, 1)))  # [B, H + 2, W + 2]
        tall = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
        broad = grey[:, :, :-2] + 2 * grey[:, :, 1:-1] + grey[:, :, 2:]
        return jnp.stack([tall[:, :, :-2] - tall[:, :, 2:], broad[:, :-2] - broad[:, 2:]], axis=-1)

    return DeviceOp("sobel", gradients, random=False)


def _rectangles(images: jax.Array, corners: jax.Array, sizes: jax.Array) -> jax.Array:
    """bool [B, H, W, 1], true within the rectangles whose top left corners and sizes are int [B, 2]."""
    inside = []
    for axis in (0, 1):
        offsets = jnp.arange(images.shape[axis + 1]) - corners[:, axis, None]
        inside.append((offsets >= 0) & (offsets < sizes[:, axis, None]))
    return inside[0][:, :, None, None] & inside[1][:, None, :, None]


def _per_image(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]


def _chance(rng: jax.Array, images: jax.Array, p: float) -> jax.Array:
    """bool [B, 1, 1, 1], true with probability p, one draw an image."""
    return _per_image(jax.random.uniform(rng, (len(images),)) < p)


def _check_rgb(name: str, images: jax.Array) -> None:
    if images.shape[-1] != 3:
        raise ValueError(
            f"{name} needs RGB images [B, H, W, 3], got {images.shape}: leave it out of the line, or put rgb "
            "among the host operations"
        )


def _check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p is a probability, in [0, 1], got {p!r}")


def _check_choice(name: str, argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: {argument} must be one of {', '.join(choices)}, got {value!r}")


def _check_range(name: str, argument: str, bounds: tuple[float, float]) -> tuple[float, float]:
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] < math.inf:
        raise ValueError(f"{name}: {argument} must be (low, high) with 0 < low <= high, got {bounds!r}")
    return bounds[0], bounds[1]
