"""Device operations that change pixel values: color, blur, normalization.

The color operations need images in [0, 1], so they stand before `normalize`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from imgcls_jax.data.device_operation import (
    DeviceOp,
    chance,
    check_probability,
    check_range,
    check_rgb,
    per_image,
)

LUMINANCE = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision rounds it
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
LIKE = ("torchvision", "tensorflow")  # whose contrast and saturation
THREE_AUGMENT_KERNEL = 13  # pixels, three of the largest width to each side
BORDERS = ("reflect", "zeros")


def color_jitter(
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    p: float = 1.0,
    like: str = "torchvision",
) -> DeviceOp:
    """Change brightness, contrast, saturation and hue, in an order drawn for each image.

    Args:
      brightness, contrast, saturation: the factor is from U(max(0, 1 - x), 1 + x), x at least 0.
      hue: the shift, in turns, is from U(-hue, hue), hue in [0, 0.5].
      p: probability that an image is changed at all.
      like: "torchvision" or "tensorflow": what contrast and saturation are, as `jitter` has it. The second is
        what the authors of SimCLR (arXiv:2002.05709) trained with.
    """
    spreads = (brightness, contrast, saturation)
    if any(not 0 <= spread < math.inf for spread in spreads) or not 0 <= hue <= 0.5:
        raise ValueError(
            f"color_jitter: expected strengths of at least 0 and hue in [0, 0.5], got {spreads}, {hue!r}"
        )
    check_probability("color_jitter", p)
    _check_choice("color_jitter", "like", like, LIKE)

    def change(rng: jax.Array, images: jax.Array) -> jax.Array:
        check_rgb("color_jitter", images)
        chance_rng, factor_rng, shift_rng, order_rng = jax.random.split(rng, 4)
        low = jnp.array([max(0.0, 1 - spread) for spread in spreads])
        factors = jax.random.uniform(factor_rng, (len(images), 3), minval=low, maxval=1 + jnp.array(spreads))
        shifts = jax.random.uniform(shift_rng, (len(images),), minval=-hue, maxval=hue) if hue else None
        order = jnp.argsort(jax.random.uniform(order_rng, (len(images), 4)), axis=1)
        changed = jitter(images, factors, shifts, order, like=like)
        return changed if p == 1 else jnp.where(chance(chance_rng, images, p), changed, images)

    return DeviceOp("color_jitter", change, random=True)


def jitter(
    images: jax.Array,
    factors: jax.Array,
    shifts: jax.Array | None,
    order: jax.Array,
    *,
    like: str = "torchvision",
) -> jax.Array:
    """Applies the four color changes to each image, in an order of its own.

    Brightness, contrast and saturation are blends clip(f·x + (1 - f)·base, 0, 1); hue turns the color circle
    (HSV). The base of brightness is 0, and

                   "torchvision"                  "tensorflow"
      contrast     the image's mean luminance     the mean of each channel
      saturation   the pixel's luminance          V = max(R, G, B) of the pixel

    The last multiplies S = (V - min(R, G, B)) / V of HSV by f, up to 1: f is cut at 1 / S there. The blends
    differ in their base and the factor 1 changes nothing: so the costly hue is computed once, between three
    blends before it and three after it, of which each image uses three. They are loops since XLA, given them
    in a row, would fuse them and compute each blend anew for every channel of the next.

    Args:
      images: float [B, H, W, 3] in [0, 1].
      factors: float [B, 3], at least 0: brightness, contrast, saturation.
      shifts: float [B], hue shift in turns, or None for no change of hue.
      order: int [B, 4], a permutation of (BRIGHTNESS, CONTRAST, SATURATION, HUE) per image.
      like: one of LIKE.

    Returns:
      float [B, H, W, 3] in [0, 1].
    """
    turn = jnp.argmax(order == HUE, axis=1)  # [B], the place of hue in the order

    def blend(place: jax.Array, images: jax.Array) -> jax.Array:
        # place 0, 1, 2: before hue; 3, 4, 5: the same three blends, after it
        step, after = place % 3, place >= 3
        which = jnp.where(step < turn, order[:, step], order[:, step + 1])  # hue skipped
        factor = jnp.take_along_axis(factors, which[:, None], axis=1)[:, 0]
        factor = per_image(jnp.where((step >= turn) == after, factor, 1))
        which = per_image(which)
        if like == "tensorflow":
            value = jnp.max(images, axis=-1, keepdims=True)
            saturation = (value - jnp.min(images, axis=-1, keepdims=True)) / jnp.where(value > 0, value, 1)
            # Of a gray pixel any factor keeps all channels at V.
            most = 1 / jnp.where(saturation > 0, saturation, 1)
            factor = jnp.where(which == SATURATION, jnp.minimum(factor, most), factor)
            means, pixels = images.mean(axis=(1, 2), keepdims=True), value
        else:
            pixels = luminance(images)
            means = pixels.mean(axis=(1, 2, 3), keepdims=True)
        base = jnp.where(which == BRIGHTNESS, 0, jnp.where(which == CONTRAST, means, pixels))
        return jnp.clip(factor * images + (1 - factor) * base, 0, 1)

    images = jax.lax.fori_loop(0, 3, blend, images)
    if shifts is not None:
        images = _turn_hue(images, shifts[:, None, None])
    return jax.lax.fori_loop(3, 6, blend, images)


def luminance(images: jax.Array) -> jax.Array:
    """Returns the luminance .2989 R + .587 G + .114 B, [B, H, W, 1], of images [B, H, W, 3]."""
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


def grayscale(p: float = 0.2) -> DeviceOp:
    """Replace R, G and B by the luminance with probability `p`; three channels stay."""
    check_probability("grayscale", p)

    def fade(rng: jax.Array, images: jax.Array) -> jax.Array:
        check_rgb("grayscale", images)
        return jnp.where(chance(rng, images, p), luminance(images), images)

    return DeviceOp("grayscale", fade, random=0 < p < 1)


def solarize(threshold: float = 0.5, p: float = 0.2) -> DeviceOp:
    """Invert the values at or above `threshold`, in [0, 1], with probability `p`; before `normalize`."""
    check_probability("solarize", p)
    if not 0 <= threshold <= 1:
        raise ValueError(
            f"solarize: threshold must lie in [0, 1], the range of the images, got {threshold!r}"
        )

    def invert(rng: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.where(chance(rng, images, p) & (images >= threshold), 1 - images, images)

    return DeviceOp("solarize", invert, random=0 < p < 1)


def three_augment() -> DeviceOp:
    """Do one of three things to each image, drawn: grayscale, solarize, Gaussian blur; before `normalize`.

    Solarize inverts from 0.5 on, and the width of the blur is from U(0.1, 2) pixels. It is 3-Augment without
    its crop, flip and color jitter: `random_resized_crop`, `flip` and `color_jitter(0.3, 0.3, 0.3)`.

    Difference: Pillow, which the authors use, composes its Gaussian of three means.

    Reference: DeiT III, Touvron et al., 2022, arXiv:2204.07118, section 3.2.
    """

    def change(rng: jax.Array, images: jax.Array) -> jax.Array:
        check_rgb("three_augment", images)
        choice_rng, sigma_rng = jax.random.split(rng)
        choices = per_image(jax.random.randint(choice_rng, (len(images),), 0, 3))
        sigmas = jax.random.uniform(sigma_rng, (len(images),), minval=0.1, maxval=2.0)
        blurred = blur(images, sigmas, THREE_AUGMENT_KERNEL)
        solarized = jnp.where(images >= 0.5, 1 - images, images)
        return jnp.where(choices == 0, luminance(images), jnp.where(choices == 1, solarized, blurred))

    return DeviceOp("three_augment", change, random=True)


def gaussian_blur(
    sigma: tuple[float, float] = (0.1, 2.0),
    p: float = 0.5,
    kernel_size: int | None = None,
    border: str = "reflect",
) -> DeviceOp:
    """Blur with probability `p`, the width in pixels from U(sigma).

    Args:
      sigma: (low, high), 0 < low <= high.
      p: probability.
      kernel_size: odd number of pixels; None for about a tenth of the shorter side, at least 3.
      border: what lies around an image: "reflect", as in torchvision, or "zeros", as in SimCLR's code, which
        darkens the edges.
    """
    low, high = check_range("gaussian_blur", "sigma", sigma)
    check_probability("gaussian_blur", p)
    _check_choice("gaussian_blur", "border", border, BORDERS)
    if kernel_size is not None and (
        not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0
    ):
        raise ValueError(f"gaussian_blur: kernel_size must be odd and positive, or None, got {kernel_size!r}")

    def smooth(rng: jax.Array, images: jax.Array) -> jax.Array:
        chance_rng, sigma_rng = jax.random.split(rng)
        sigmas = jax.random.uniform(sigma_rng, (len(images),), minval=low, maxval=high)
        width = kernel_size or max(3, min(images.shape[1:3]) // 10 // 2 * 2 + 1)
        return jnp.where(chance(chance_rng, images, p), blur(images, sigmas, width, border=border), images)

    return DeviceOp("gaussian_blur", smooth, random=True)


def blur(images: jax.Array, sigmas: jax.Array, kernel_size: int, *, border: str = "reflect") -> jax.Array:
    """Blurs images [B, H, W, C], each with its own Gaussian width of sigmas [B], in pixels.

    This is a matrix product along each axis. XLA would fuse shifted sums with the operations before them, and
    compute those again for every tap.
    """
    radius = kernel_size // 2
    weights = jax.nn.softmax(-0.5 * ((jnp.arange(kernel_size) - radius) / sigmas[:, None]) ** 2)  # [B, taps]

    def matrix(side: int) -> jax.Array:
        mode = "reflect" if border == "reflect" else "constant"
        identity = jnp.pad(jnp.eye(side), ((radius, radius), (0, 0)), mode=mode)
        taps = jnp.stack([identity[tap : tap + side] for tap in range(kernel_size)])
        return jnp.einsum("bt,tij->bij", weights, taps, precision="highest")  # [B, side, side]

    images = jnp.einsum("bij,bjwc->biwc", matrix(images.shape[1]), images, precision="highest")
    return jnp.einsum("bij,bhjc->bhic", matrix(images.shape[2]), images, precision="highest")


def _check_choice(operation: str, argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{operation}: {argument} must be one of {', '.join(choices)}, got {value!r}")


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
                f"1 or {channels} values; change the line, or add the host operation gray or rgb"
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
        gray = jnp.pad(images.mean(axis=-1), ((0, 0), (1, 1), (1, 1)))  # [B, H + 2, W + 2]
        tall = gray[:, :-2] + 2 * gray[:, 1:-1] + gray[:, 2:]
        broad = gray[:, :, :-2] + 2 * gray[:, :, 1:-1] + gray[:, :, 2:]
        return jnp.stack([tall[:, :, :-2] - tall[:, :, 2:], broad[:, :-2] - broad[:, 2:]], axis=-1)

    return DeviceOp("sobel", gradients, random=False)
