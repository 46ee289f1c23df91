"""AugMix (Hendrycks et al. 2019, arXiv:1912.02781) as a host operation: the image mixed with changed ones.

Eq.: (1 - m) x + m sum_i w_i chain_i(x), with m from Beta(alpha, alpha), w from Dirichlet(alpha, ..., alpha)
and each chain one to three of nine changes, none of which is like a corruption of ImageNet-C. Its level, from
U(0.1, severity), says how strong a change is; 10 is the most.

  autocontrast, equalize    always the same
  posterize                 4 - floor(0.4 level) bits
  rotate                    floor(3 level) degrees, either sign
  solarize                  from 256 - floor(25.6 level) on
  shear                     0.03 level pixels a pixel, either sign
  translation               floor(level / 30 of the side) pixels, either sign

Differences: the authors mix normalized images in floats, here the result is rounded to 8 bits. Their code has
the side of the data set as a constant, here each image has its own. The Jensen-Shannon loss of the paper,
which compares an image with two mixed ones, is `js_weight` of objectives/supervised.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from imgcls_jax.data.host_operation import HostOp

LARGEST = 10  # level
LEAST = 0.1
DEEPEST = 3  # chain where the depth is drawn
Change = Callable[[Image.Image, float, float], Image.Image]


def augmix(severity: float = 3, width: int = 3, depth: int = 0, alpha: float = 1.0) -> HostOp:
    """Mix the image with `width` chains of changes.

    Args:
      severity: the largest level, in [0.1, 10].
      width: chains, at least 1.
      depth: changes of a chain; 0 draws 1, 2 or 3 for each chain.
      alpha: of the Beta and the Dirichlet distribution, above 0.
    """
    if not LEAST <= severity <= LARGEST:
        raise ValueError(f"augmix: severity lies in [{LEAST}, {LARGEST}], got {severity!r}")
    if not isinstance(width, int) or width < 1 or not isinstance(depth, int) or depth < 0:
        raise ValueError(
            f"augmix: width and depth are whole numbers, at least 1 and 0; got {width!r} and {depth!r}"
        )
    if not 0 < alpha < math.inf:
        raise ValueError(f"augmix: alpha must be above 0, got {alpha!r}")
    arguments = dict(severity=severity, width=width, depth=depth, alpha=alpha)
    return HostOp("augmix", _augmix, True, tuple(arguments.items()))


def _augmix(
    image: Image.Image, rng: np.random.Generator, *, severity: float, width: int, depth: int, alpha: float
) -> Image.Image:
    weights, share = rng.dirichlet([alpha] * width), rng.beta(alpha, alpha)
    mixed = (1 - share) * np.asarray(image, np.float64)
    for weight in weights:
        changed = image
        for _ in range(depth or int(rng.integers(1, DEEPEST, endpoint=True))):
            change = CHANGES[int(rng.integers(len(CHANGES)))]
            changed = change(changed, rng.uniform(LEAST, severity) / LARGEST, rng.choice([-1.0, 1.0]))
        mixed += share * weight * np.asarray(changed)
    return Image.fromarray(np.round(mixed).clip(0, 255).astype(np.uint8), image.mode)


def autocontrast(image: Image.Image, strength: float, sign: float) -> Image.Image:
    """Each change takes an image "L" or "RGB", a strength in [0, 1] and a sign, 1 or -1."""
    del strength, sign
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, strength: float, sign: float) -> Image.Image:
    del strength, sign
    return ImageOps.equalize(image)


def posterize(image: Image.Image, strength: float, sign: float) -> Image.Image:
    del sign
    return ImageOps.posterize(image, 4 - int(4 * strength))


def solarize(image: Image.Image, strength: float, sign: float) -> Image.Image:
    del sign
    return ImageOps.solarize(image, 256 - int(256 * strength))


def rotate(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return image.rotate(sign * int(30 * strength), resample=Image.Resampling.BILINEAR)


def shear_x(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return _affine(image, 1, sign * 0.3 * strength, 0, 0, 1, 0)


def shear_y(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return _affine(image, 1, 0, 0, sign * 0.3 * strength, 1, 0)


def translate_x(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return _affine(image, 1, 0, sign * int(image.width / 3 * strength), 0, 1, 0)


def translate_y(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return _affine(image, 1, 0, 0, 0, 1, sign * int(image.height / 3 * strength))


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Reads the pixel (x, y) at (a x + b y + c, d x + e y + f); what lies outside is 0."""
    bilinear = Image.Resampling.BILINEAR
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=bilinear)


CHANGES: tuple[Change, ...] = (
    autocontrast,
    equalize,
    posterize,
    rotate,
    solarize,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
