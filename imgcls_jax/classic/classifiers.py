"""Classifiers by name, on one vector an image: support vector machines and a forest, by scikit-learn.

C is chosen by cross-validation inside the training examples. The decision values found there also give a
temperature, so that a softmax of the values is a probability (Guo et al. 2017, arXiv:1706.04599).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from imgcls_jax.classic import kernels
from imgcls_jax.metrics.calibration import best_temperature

OF_HISTOGRAMS = ("hellinger_svm", "intersection_svm", "chi2_svm")
LINEAR = ("linear_svm", "hellinger_svm")
NAMES = ("linear_svm", "hellinger_svm", "intersection_svm", "chi2_svm", "rbf_svm", "forest")
COSTS = (
    0.01,
    0.1,
    1.0,
    10.0,
    100.0,
)  # C, for features of a mean norm of 1 or kernels of a mean diagonal of 1
FOLDS = 5
TREES = 500
MAX_KERNEL_ROWS = 20_000  # a kernel of so many training examples takes 3 GiB

Represent = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A fitted classifier.

    Attributes:
      represent: from features, float32 [n, D], to the rows that the model reads.
      model: of scikit-learn.
      temperature: by which decision values are divided.
      cost: C; None for a forest.
      accuracy: by cross-validation inside the training examples; None where there was none.
    """

    represent: Represent
    model: Any
    temperature: float
    cost: float | None
    accuracy: float | None

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns the classes' logits, float32 [n, K], of features, float32 [n, D]."""
        return (decide(self.model, self.represent(features)) / self.temperature).astype(np.float32)


def fit(name: str, features: np.ndarray, labels: np.ndarray, num_classes: int, seed: int) -> Classifier:
    """Fits a classifier.

    Args:
      name: one of NAMES.
      features: float32 [N, D], of the training examples.
      labels: integer [N] in [0, K).
      num_classes: K.
      seed: of folds, trees and liblinear.

    Raises:
      ValueError: a class has no example, there are too many for a kernel, or a kernel of histograms meets
        negative features.
    """
    counts = np.bincount(labels, minlength=num_classes)
    if num_classes < 2 or not counts.all():
        raise ValueError(
            f"a classifier needs two classes and a training example of each; the {num_classes} classes have "
            f"{counts.min()} to {counts.max()}"
        )
    if name in OF_HISTOGRAMS and features.min() < 0:
        raise ValueError(
            f"{name} compares histograms, and these features have negative values: take linear_svm, rbf_svm "
            "or forest"
        )
    if name == "forest":
        forest = RandomForestClassifier(TREES, n_jobs=-1, random_state=seed).fit(features, labels)
        return Classifier(lambda rows: rows, forest, 1.0, None, None)
    if name not in LINEAR and len(labels) > MAX_KERNEL_ROWS:
        raise ValueError(
            f"{name} compares all pairs of training examples, at most {MAX_KERNEL_ROWS:,} of them; got "
            f"{len(labels):,}: take linear_svm, hellinger_svm or forest"
        )
    represent = _scaled(name, features) if name in LINEAR else _compared(name, features)
    rows = represent(features)
    cost, held, accuracy = _choose(name, rows, labels, min(FOLDS, int(counts.min())), seed)
    temperature = 1.0 if held is None else best_temperature(held, labels)
    return Classifier(represent, _svm(name, cost, seed).fit(rows, labels), temperature, cost, accuracy)


def _scaled(name: str, features: np.ndarray) -> Represent:
    """Returns the function that scales features, or their roots, to a mean norm of 1 over the training.

    Features of more numbers than there are training examples are turned into the space of the examples: a
    linear SVM decides the same there, and many times sooner.
    """
    shape: Represent = np.sqrt if name == "hellinger_svm" else lambda rows: rows
    known = shape(features)
    norm = np.float32(np.linalg.norm(known, axis=1).mean() or 1)
    if len(known) >= known.shape[1]:
        return lambda rows: shape(rows) / norm
    basis = np.linalg.qr(known.T)[0] / norm  # [D, N]
    return lambda rows: shape(rows) @ basis


def _compared(name: str, features: np.ndarray) -> Represent:
    """Returns the function from features [n, D] to their kernel with the training examples, [n, N]."""
    if name == "intersection_svm":
        mean = float(features.sum(axis=1, dtype=np.float64).mean()) or 1.0  # of k(x, x)
        return lambda rows: kernels.intersection(rows, features) / mean
    if name == "chi2_svm":
        width = float(kernels.chi_square(features, features).mean()) or 1.0
        return lambda rows: np.exp(-kernels.chi_square(rows, features) / width)
    scaler = StandardScaler().fit(features)
    known = scaler.transform(features)
    gamma = 1 / (known.shape[1] * float(known.var()) or 1.0)
    return lambda rows: np.exp(-gamma * euclidean_distances(scaler.transform(rows), known, squared=True))


def _svm(name: str, cost: float, seed: int) -> Any:
    if name in LINEAR:
        return LinearSVC(C=cost, max_iter=10_000, random_state=seed)
    return SVC(C=cost, kernel="precomputed")


def _choose(
    name: str, rows: np.ndarray, labels: np.ndarray, folds: int, seed: int
) -> tuple[float, np.ndarray | None, float | None]:
    """Returns the C that classifies best by cross-validation, the decision values [N, K] of the folds that
    were held out, and their accuracy; (1, None, None) where a class has one example alone."""
    if folds < 2:
        return 1.0, None, None
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))
    best: tuple[float, np.ndarray | None, float] = (1.0, None, -1.0)
    for cost in COSTS:
        held = np.zeros((len(labels), int(labels.max()) + 1))
        for inside, outside in splits:
            kernel = name not in LINEAR
            fitted, asked = (rows[of][:, inside] if kernel else rows[of] for of in (inside, outside))
            held[outside] = decide(_svm(name, cost, seed).fit(fitted, labels[inside]), asked)
        accuracy = float(np.mean(held.argmax(axis=1) == labels))
        if accuracy > best[2]:
            best = cost, held, accuracy
    return best


def decide(model: Any, rows: np.ndarray) -> np.ndarray:
    """Returns a model's decision values, float64 [n, K]; of a forest the logarithms of the probabilities."""
    if isinstance(model, RandomForestClassifier):
        return np.log(np.maximum(model.predict_proba(rows), 1e-6))
    values = model.decision_function(rows)
    return np.stack([-values, values], axis=1) / 2 if values.ndim == 1 else values
