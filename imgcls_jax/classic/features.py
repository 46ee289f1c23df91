"""The features by name, each fitted to training images: a function from an image to one vector."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from imgcls_jax.classic import coding, fisher, histograms, pyramid, sift

NAMES = ("hog", "lbp", "sift_bow", "sift_llc", "sift_fisher")
# What each reads of Options.
FIELDS: dict[str, tuple[str, ...]] = {
    "hog": (),
    "lbp": (),
    "sift_bow": ("step", "patches", "words", "descriptors"),
    "sift_llc": ("step", "patches", "words", "descriptors"),
    "sift_fisher": ("step", "patches", "gaussians", "descriptors"),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Of dense SIFT and its codes.

    Attributes:
      step: pixels between two descriptors.
      patches: sides of the patches, in pixels.
      words: of the codebook.
      gaussians: of the Fisher vector's mixture.
      descriptors: about so many of the training images fit codebook or mixture.
    """

    step: int = 4
    patches: tuple[int, ...] = (16, 24, 32)
    words: int = 256
    gaussians: int = 64
    descriptors: int = 100_000

    def of(self, name: str) -> dict[str, object]:
        """Returns what a feature reads, by name."""
        return {field: getattr(self, field) for field in FIELDS[name]}


class Feature(NamedTuple):
    """A feature that is fitted.

    Attributes:
      describe: from an image, uint8 [H, W, C], to float32 [D].
      fitted: what was learned from the training images, by name.
    """

    describe: Callable[[np.ndarray], np.ndarray]
    fitted: dict[str, np.ndarray]


def fit(name: str, images: Iterable[np.ndarray], num_images: int, options: Options, seed: int) -> Feature:
    """Fits a feature to training images.

    Args:
      name: one of NAMES.
      images: uint8 [H, W, C] each; read once, and only by features of SIFT.
      num_images: how many they are.
      options: of the features of SIFT.
      seed: of the descriptors drawn, of k-means and of the mixture.

    Raises:
      ValueError: an image is too small, there are too few descriptors, or a package is missing.
    """
    if name in ("hog", "lbp"):
        return Feature(histograms.hog if name == "hog" else histograms.lbp, {})
    describe = functools.partial(sift.dense_sift, step=options.step, patches=options.patches)
    sample = np.concatenate([*_drawn(images, describe, -(-options.descriptors // num_images), seed)])
    if name == "sift_fisher":
        mixture = fisher.fit_mixture(sample, options.gaussians, seed)
        return Feature(lambda image: fisher.fisher_vector(describe(image)[1], mixture), mixture._asdict())
    words = coding.codebook(sample, options.words, seed)
    encode = bag_of_words if name == "sift_bow" else llc
    return Feature(lambda image: encode(*describe(image), words), {"words": words})


def _drawn(
    images: Iterable[np.ndarray],
    describe: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    count: int,
    seed: int,
) -> Iterator[np.ndarray]:
    """Yields at most `count` descriptors of each image."""
    rng = np.random.default_rng(seed)
    for image in images:
        descriptors = describe(image)[1]
        yield rng.choice(descriptors, min(count, len(descriptors)), replace=False)


def bag_of_words(points: np.ndarray, descriptors: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Returns the spatial pyramid of an image's words, float32 [21 K]: histograms, levels weighted.

    Args:
      points: float32 [n, 2], in 0..1.
      descriptors: float32 [n, D].
      words: float32 [K, D].
    """
    codes = coding.hard_codes(descriptors, words)
    return pyramid.histogram(pyramid.pooled(points, *codes, len(words), largest=False))


def llc(points: np.ndarray, descriptors: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Returns the spatial pyramid of LLC's codes, float32 [21 K]: the largest of each cell, norm 1.

    Args: as of `bag_of_words`.
    """
    codes = coding.llc_codes(descriptors, words, neighbours=min(coding.NEIGHBOURS, len(words)))
    vector = pyramid.pooled(points, *codes, len(words), largest=True).ravel()
    return vector / max(np.linalg.norm(vector), 1e-12)
