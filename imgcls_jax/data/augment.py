"""The device side of a pipeline: the table of device operations, and `compose`, which chains them.

The usual order is geometric, photometric, `normalize`, erasing. To add an operation, write a factory that
returns a `DeviceOp` and add its line to `DEVICE_OPERATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from imgcls_jax.data import auto_augment, blurring, erasing, geometric, photometric, rand_augment
from imgcls_jax.data.device_operation import DeviceOp

# The name in a line of transforms, and the factory that its arguments are for.
DEVICE_OPERATIONS: dict[str, Callable[..., DeviceOp]] = {
    "affine": geometric.affine,
    "alternating_flip": geometric.alternating_flip,
    "auto_augment": auto_augment.auto_augment,
    "color_jitter": photometric.color_jitter,
    "cutout": erasing.cutout,
    "flip": geometric.flip,
    "gaussian_blur": photometric.gaussian_blur,
    "grayscale": photometric.grayscale,
    "median_blur": blurring.median_blur,
    "motion_blur": blurring.motion_blur,
    "normalize": photometric.normalize,
    "optical_distortion": geometric.optical_distortion,
    "pad_and_crop": geometric.pad_and_crop,
    "rand_augment": rand_augment.rand_augment,
    "random_erasing": erasing.random_erasing,
    "resized_crop": geometric.resized_crop,
    "rotate": geometric.rotate,
    "sobel": photometric.sobel,
    "solarize": photometric.solarize,
    "three_augment": photometric.three_augment,
    "trivial_augment": auto_augment.trivial_augment,
    "upsample": geometric.upsample,
    "vertical_flip": geometric.vertical_flip,
}


def compose(ops: Sequence[DeviceOp]) -> Callable[[jax.Array, dict], dict]:
    """Chains operations into the device side of a split's input pipeline.

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
            images = op(jax.random.fold_in(rng, position), images, *(batch[key] for key in op.reads))
        return {**batch, "image": images}

    return augment
