"""Image files as a network takes them, after all transforms, and the same to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.data import transforms
from imgcls_jax.data.image_files import outputs_of_files
from imgcls_jax.figures import drawing
from imgcls_jax.inference.trained import Trained

MOST_IMAGES = 48  # of a picture


class Images(NamedTuple):
    """Image files as a network takes them.

    Attributes:
      paths: of the files.
      prepared: float32 [n, H, W, C], after all of the evaluation line.
      shown: float32 [n, H, W, 1 or 3] in [0, 1], the same to look at.
    """

    paths: list[Path]
    prepared: np.ndarray
    shown: np.ndarray


def check_count(paths: Sequence[Path], most: int = MOST_IMAGES) -> None:
    """Raises ValueError where there are no images, or too many for a picture."""
    if not 1 <= len(paths) <= most:
        raise ValueError(
            f"this picture is of 1 to {most} images" if most > 1 else "this picture is of one image"
        )


def read_images(
    trained: Trained, paths: Sequence[Path], most: int = MOST_IMAGES
) -> tuple[Images, dict[Path, str]]:
    """Reads image files, and says why some could not be.

    Raises:
      ValueError: none could, or they are more than `most`.
    """
    check_count(paths, most)
    prepare = jax.jit(lambda images: trained.data.prepare({"image": images})["image"])
    line = trained.data.settings.eval_transforms
    found = list(outputs_of_files(paths, line, trained.source_shape, prepare, batch_size=8))
    errors = {path: error for path, _, error in found if error}
    good = [(path, image) for path, image, error in found if not error]
    if not good:
        raise ValueError("; ".join(f"{path}: {error}" for path, error in errors.items()))
    prepared = np.stack([image for _, image in good])
    return Images([path for path, _ in good], prepared, unnormalized(line, prepared)), errors


def unnormalized(line: str, images: np.ndarray) -> np.ndarray:
    """Returns images to look at: the inverse of the line's `normalize`, which is affine.

    Where other operations made other channels after it, each image is stretched by its own least and largest
    values.

    Args:
      line: of transforms that made them.
      images: float [n, H, W, C].

    Returns:
      float32 [n, H, W, 1 or 3] in [0, 1].
    """
    channels = images.shape[-1]
    if channels not in (1, 3):
        return np.stack([drawing.stretched(image) for image in images.mean(axis=-1, keepdims=True)])
    black, white = gray(line, 0.0, channels), gray(line, 1.0, channels)
    return np.clip((images - black) / (white - black), 0, 1)


def gray(line: str, level: float, channels: int) -> np.ndarray:
    """Returns what a line's `normalize` makes of a gray level, float32 [C].

    Where other channels follow it, such as gradients, any gray is 0.

    Args:
      line: of transforms.
      level: in [0, 1].
      channels: C, of the images after it.
    """
    if channels not in (1, 3):
        return np.zeros(channels, np.float32)
    pixel = jnp.full((1, 1, 1, channels), level)
    for op in transforms.parse(line)[1]:
        pixel = op(jax.random.key(0), pixel) if op.name == "normalize" else pixel
    return np.asarray(pixel)[0, 0, 0]


def network_of(trained: Trained) -> str:
    """Returns a few words on what is looked at."""
    return f"{trained.settings.model.variant}, step {trained.step:,}"
