"""TrivialAugment and AutoAugment as operations on the device, from the changes of RandAugment.

TrivialAugment (Mueller and Hutter 2021, arXiv:2103.10158), its wide ranges: one change an image. AutoAugment
(Cubuk et al. 2018, arXiv:1805.09501): one of 25 pairs of changes an image, as found on ImageNet, CIFAR-10 or
SVHN; the tables are the paper's appendix A.

Differences of AutoAugment from the paper, all torchvision's: the changes are as strong as `rand_augment` has
them at a third of the level; brightness, color, contrast and sharpness have a random sign, where the authors
go from 0.1 to 1.9; and what comes in from outside is black. Resampling is that of rand_augment.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.data.device_operation import DeviceOp, check_choice
from imgcls_jax.data.rand_augment import (
    RAND_AUGMENT_RANGES,
    WIDE_RANGES,
    Change,
    apply_changes,
    check_channels,
)

TRIVIAL_LEVELS = 31
AUTO_LEVELS = 10
# Each line is a pair of changes: name, probability and, where it has one, level of 0 to 9.
POLICIES = {
    "imagenet": """
        posterize 0.4 8, rotate 0.6 9
        solarize 0.6 5, autocontrast 0.6
        equalize 0.8, equalize 0.6
        posterize 0.6 7, posterize 0.6 6
        equalize 0.4, solarize 0.2 4
        equalize 0.4, rotate 0.8 8
        solarize 0.6 3, equalize 0.6
        posterize 0.8 5, equalize 1.0
        rotate 0.2 3, solarize 0.6 8
        equalize 0.6, posterize 0.4 6
        rotate 0.8 8, saturation 0.4 0
        rotate 0.4 9, equalize 0.6
        equalize 0.0, equalize 0.8
        invert 0.6, equalize 1.0
        saturation 0.6 4, contrast 1.0 8
        rotate 0.8 8, saturation 1.0 2
        saturation 0.8 8, solarize 0.8 7
        sharpness 0.4 7, invert 0.6
        shear_x 0.6 5, equalize 1.0
        saturation 0.4 0, equalize 0.6
        equalize 0.4, solarize 0.2 4
        solarize 0.6 5, autocontrast 0.6
        invert 0.6, equalize 1.0
        saturation 0.6 4, contrast 1.0 8
        equalize 0.8, equalize 0.6
    """,
    "cifar10": """
        invert 0.1, contrast 0.2 6
        rotate 0.7 2, translate_x 0.3 9
        sharpness 0.8 1, sharpness 0.9 3
        shear_y 0.5 8, translate_y 0.7 9
        autocontrast 0.5, equalize 0.9
        shear_y 0.2 7, posterize 0.3 7
        saturation 0.4 3, brightness 0.6 7
        sharpness 0.3 9, brightness 0.7 9
        equalize 0.6, equalize 0.5
        contrast 0.6 7, sharpness 0.6 5
        saturation 0.7 7, translate_x 0.5 8
        equalize 0.3, autocontrast 0.4
        translate_y 0.4 3, sharpness 0.2 6
        brightness 0.9 6, saturation 0.2 8
        solarize 0.5 2, invert 0.0
        equalize 0.2, autocontrast 0.6
        equalize 0.2, equalize 0.6
        saturation 0.9 9, equalize 0.6
        autocontrast 0.8, solarize 0.2 8
        brightness 0.1 3, saturation 0.7 0
        solarize 0.4 5, autocontrast 0.9
        translate_y 0.9 9, translate_y 0.7 9
        autocontrast 0.9, solarize 0.8 3
        equalize 0.8, invert 0.1
        translate_y 0.7 9, autocontrast 0.9
    """,
    "svhn": """
        shear_x 0.9 4, invert 0.2
        shear_y 0.9 8, invert 0.7
        equalize 0.6, solarize 0.6 6
        invert 0.9, equalize 0.6
        equalize 0.6, rotate 0.9 3
        shear_x 0.9 4, autocontrast 0.8
        shear_y 0.9 8, invert 0.4
        shear_y 0.9 5, solarize 0.2 6
        invert 0.9, autocontrast 0.8
        equalize 0.6, rotate 0.9 3
        shear_x 0.9 4, solarize 0.3 3
        shear_y 0.8 8, invert 0.7
        equalize 0.9, translate_y 0.6 6
        invert 0.9, equalize 0.6
        contrast 0.3 3, rotate 0.8 4
        invert 0.8, translate_y 0.0 2
        shear_y 0.7 6, solarize 0.4 8
        invert 0.6, rotate 0.8 4
        shear_y 0.3 7, translate_x 0.9 3
        shear_x 0.1 6, invert 0.6
        solarize 0.7 2, translate_y 0.6 7
        shear_y 0.8 4, invert 0.8
        shear_x 0.7 9, translate_y 0.8 3
        shear_y 0.8 5, autocontrast 0.7
        shear_x 0.7 2, invert 0.1
    """,
}


def trivial_augment() -> DeviceOp:
    """Apply one change of RandAugment's 14, as strong as one of 31 levels, both drawn; before `normalize`.

    The largest level is 0.99 of shear, 32 pixels, 135 degrees, a factor of 1 +- 0.99 and 2 bits.
    """

    def change(rng: jax.Array, images: jax.Array) -> jax.Array:
        check_channels("trivial_augment", images)
        kind_rng, level_rng, sign_rng = jax.random.split(rng, 3)
        count = (len(images),)
        kinds = jax.random.randint(kind_rng, count, 0, len(Change))
        levels = jax.random.randint(level_rng, count, 0, TRIVIAL_LEVELS)
        signs = jax.random.rademacher(sign_rng, count, jnp.float32)
        return apply_changes(images, kinds, levels / (TRIVIAL_LEVELS - 1), signs, WIDE_RANGES)

    return DeviceOp("trivial_augment", change, random=True)


def auto_augment(policy: str = "imagenet") -> DeviceOp:
    """Apply one of a policy's 25 pairs of changes, each with its own probability; before `normalize`.

    Args:
      policy: "imagenet", "cifar10" or "svhn", the data set on which it was found.
    """
    check_choice("auto_augment", "policy", policy, tuple(POLICIES))
    pairs = read_policy(POLICIES[policy])

    def change(rng: jax.Array, images: jax.Array) -> jax.Array:
        check_channels("auto_augment", images)
        pair_rng, *layer_rngs = jax.random.split(rng, 3)
        count = (len(images),)
        drawn = jnp.asarray(pairs)[jax.random.randint(pair_rng, count, 0, len(pairs))]  # [B, 2, 3]
        for layer, layer_rng in enumerate(layer_rngs):
            chance_rng, sign_rng = jax.random.split(layer_rng)
            kinds, probabilities, strengths = (drawn[:, layer, column] for column in range(3))
            happens = jax.random.uniform(chance_rng, count) < probabilities
            kinds = jnp.where(happens, kinds, Change.IDENTITY).astype(jnp.int32)
            signs = jax.random.rademacher(sign_rng, count, jnp.float32)
            images = apply_changes(images, kinds, strengths, signs, RAND_AUGMENT_RANGES)
        return images

    return DeviceOp("auto_augment", change, random=True)


def read_policy(table: str) -> np.ndarray:
    """Reads a table of POLICIES.

    Returns:
      float32 [25, 2, 3]: of each pair's changes the `Change`, its probability and its strength in [0, 1].
    """
    pairs = [[_read_change(*text.split()) for text in line.split(",")] for line in table.strip().splitlines()]
    return np.array(pairs, np.float32)


def _read_change(name: str, probability: str, level: str = "0") -> tuple[int, float, float]:
    if name == "invert":  # solarize from 0 on
        return Change.SOLARIZE, float(probability), 1.0
    return Change[name.upper()], float(probability), int(level) / (AUTO_LEVELS - 1)
