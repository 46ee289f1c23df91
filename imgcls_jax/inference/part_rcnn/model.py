"""What a fitted Part R-CNN consists of, and its classifier.

Zhang et al. 2014, "Part-based R-CNNs for Fine-grained Category Detection", arXiv:1407.3867.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.svm import LinearSVC

from imgcls_jax.data import proposals
from imgcls_jax.inference.part_rcnn.detectors import Detector
from imgcls_jax.inference.part_rcnn.geometry import Prior
from imgcls_jax.inference.part_rcnn.trunk import Trunk

REGIONS = ("root", "head", "body")
PARTS = REGIONS[1:]
CHOICES = ("box", "mg", "np")
POWER = 0.3  # of the features (the authors' release, commit 0124640)


@dataclasses.dataclass(frozen=True)
class Options:
    """How regions are found and described.

    Attributes:
      proposals: "selective_search" or "grid".
      padding: pixels of surroundings in a crop of 227, in proportion for other sizes.
      slack: pixels by which a part may lie outside the root, in an image scaled to 500 pixels of width.
      alpha: the exponent of the places' density.
      neighbours: training images of the prior "np".
    """

    proposals: str = "grid"
    padding: int = 0
    slack: float = 10.0
    alpha: float = 0.1
    neighbours: int = 20

    def __post_init__(self) -> None:
        if self.proposals not in proposals.METHODS:
            raise ValueError(f"proposals are one of {', '.join(proposals.METHODS)}; got {self.proposals!r}")
        if not 0 <= self.padding < 113:
            raise ValueError(f"padding is at least 0 and less than half of a crop of 227; got {self.padding}")
        if not (0 <= self.slack < math.inf and 0 <= self.alpha < math.inf and self.neighbours >= 1):
            raise ValueError(
                "slack and alpha are numbers of at least 0, neighbours at least 1; got "
                f"{self.slack}, {self.alpha}, {self.neighbours}"
            )


class Classifier(NamedTuple):
    """A linear classifier, one against the rest.

    Attributes:
      weight: float32 [K, F].
      bias: float32 [K].
    """

    weight: np.ndarray
    bias: np.ndarray

    def decide(self, features: np.ndarray) -> np.ndarray:
        """Returns a margin for each class, float32 [N, K]; features: float [N, F] of `described`."""
        return features @ self.weight.T + self.bias


@dataclasses.dataclass(frozen=True)
class PartRCNN:
    """A fitted Part R-CNN.

    Attributes:
      options: of its regions.
      class_names: K names.
      trunks: of root, head and body.
      detectors: of root, head and body.
      priors: of head and body.
      neighbours: float32 [N, D], embeddings of the training images' roots.
      places: float64 [N, 2, 4], of head and body in them; NaN where hidden.
      classifier: on `described` embeddings.
    """

    options: Options
    class_names: tuple[str, ...]
    trunks: tuple[Trunk, ...]
    detectors: tuple[Detector, ...]
    priors: tuple[Prior, ...]
    neighbours: np.ndarray
    places: np.ndarray
    classifier: Classifier


def described(embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """Returns what the classifier reads, float32 [N, sum of D]: sign(x) |x|^0.3 of root, head and body.

    Args:
      embeddings: of each region, float [N, D]; rows of zeros where it is not there.
    """
    return signed_power(np.concatenate(embeddings, axis=1), POWER).astype(np.float32)


def signed_power(values: np.ndarray, power: float) -> np.ndarray:
    """Returns sign(x) |x|^power."""
    return np.sign(values) * np.abs(values) ** power


def fit_classifier(features: np.ndarray, labels: np.ndarray, cost: float) -> Classifier:
    """Returns the linear SVM, one class against the rest, of all K classes 0..K-1.

    Args:
      features: float [N, F] of `described`.
      labels: int [N]; each class has an example.
      cost: scikit-learn's C.
    """
    machine = LinearSVC(C=cost, random_state=0).fit(features, labels)
    weight, bias = machine.coef_, machine.intercept_
    if len(weight) == 1:  # of two classes scikit-learn keeps the second alone
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    return Classifier(weight.astype(np.float32), bias.astype(np.float32))
