"""Zero-shot classification by a closed form on embeddings and class signatures: ESZSL.

    W = (X^T X + 10^alpha I)^-1 X^T Y S (S^T S + 10^gamma I)^-1

with X [n, D] the embeddings of the training images, Y [n, z] their classes one-hot, S [z, a] the signatures
of the z classes that are learned. A class of signature s scores x^T W s (Romera-Paredes and Torr, "An
embarrassingly simple approach to zero-shot learning", ICML 2015). W is the minimum of
|X W S^T - Y|^2 + 10^alpha |W S^T|^2 + 10^gamma |X W|^2 + 10^(alpha + gamma) |W|^2.

alpha and gamma are those of the best accuracy on learned classes that are held out in turn, as is delta of
calibrated stacking, for which a part of the images of the others is kept back, too. No image and no signature
of an unseen class takes part in a choice.

Differences from the paper: embeddings and signatures have norm 1, so that one range of exponents suits every
network; held-out folds in place of the paper's single validation set; Y is 0 and 1, not -1 and 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.preprocessing import normalize

from imgcls_jax.contracts.evaluator import OpenSplit, Predict, embedding, make_collector
from imgcls_jax.data.subsets import stratified_split
from imgcls_jax.metrics.zero_shot import (
    Scored,
    accuracy_among,
    learned_classes,
    measured_by_report,
    report,
    signatures_of,
    stacking_curve,
)

READS = ("embedding",)  # of what the objective predicts

KEPT_BACK = 0.2  # of the images of each class, for delta
EXPONENTS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # the paper's


def measures(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the numbers that `make` measures."""
    del options
    return (*measured_by_report(calibrated=True), *Chosen._fields)


def make(
    predict: Predict,
    open_split: OpenSplit,
    *,
    task: Any,
    split: str,
    unseen_split: str = "unknown:{split}",
    train_split: str = "train",
    alphas: Sequence[float] = EXPONENTS,
    gammas: Sequence[float] = EXPONENTS,
    folds: int = 5,
    fold_seed: int = 0,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {"embedding": float [B, D], ...}.
      open_split: split -> its batches, each example once, with label int [B] and mask bool [B].
      task: num_classes, class_counts and signatures are read.
      split: to score, of the classes that are learned.
      unseen_split: to score, of the others; "{split}" in it stands for split.
      train_split: to learn from.
      alphas, gammas: exponents to choose among.
      folds: parts of the learned classes that are held out in turn, at least 2. delta depends on how many
        classes are unseen beside how many: hold out as large a part as that.
      fold_seed: which classes and images make a fold.

    Returns:
      A function that returns what `report` of metrics/zero_shot.py returns, and alpha, gamma, delta and
      held_out_accuracy as they were chosen.

    Raises:
      ValueError: no signatures, no unseen class, no exponents, or fewer than two classes in a fold.
    """
    is_seen, signatures = learned_classes(task), normalize(signatures_of(task))
    if not alphas or not gammas or not 2 <= folds <= is_seen.sum() / 2:
        raise ValueError(
            f"eszsl needs alphas, gammas, and folds from 2 to half of the {is_seen.sum()} learned classes; "
            f"got {tuple(alphas)}, {tuple(gammas)} and {folds}"
        )
    collect = make_collector(embedding(predict), open_split)

    def collected(params: Any, objective_state: Any, name: str) -> Scored:
        examples = collect(params, objective_state, name.replace("{split}", split))
        return Scored(normalize(examples["embedding"].astype(np.float64)), examples["label"])

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        train = collected(params, objective_state, train_split)
        grid = list(itertools.product(alphas, gammas))
        chosen = choose(*train, signatures, is_seen, grid=grid, folds=folds, seed=fold_seed)
        weights = Eszsl(*train, signatures, is_seen).weights(chosen.alpha, chosen.gamma)
        seen, unseen = (
            Scored(rows @ weights @ signatures.T, labels)
            for rows, labels in (collected(params, objective_state, name) for name in (split, unseen_split))
        )
        return report(seen, unseen, is_seen, delta=chosen.delta) | chosen._asdict()

    return evaluate


class Eszsl:
    """The closed form for every alpha and gamma: two eigendecompositions, and no inverse.

    Args:
      embeddings: X, float64 [n, D].
      labels: integer [n] in [0, C), of learned classes.
      signatures: float64 [C, a].
      learned: bool [C], the classes whose signatures make S.

    Attributes:
      left, right: eigenvectors of X^T X float64 [D, D] and of S^T S [a, a].
    """

    def __init__(
        self, embeddings: np.ndarray, labels: np.ndarray, signatures: np.ndarray, learned: np.ndarray
    ) -> None:
        described = signatures * learned[:, None]  # the other rows add nothing
        self._of_x, self.left = np.linalg.eigh(embeddings.T @ embeddings)
        self._of_s, self.right = np.linalg.eigh(described.T @ described)
        self._product = self.left.T @ (embeddings.T @ described[labels]) @ self.right  # [D, a]

    def between(self, alpha: float, gamma: float) -> np.ndarray:
        """Returns left^T W right, float64 [D, a]."""
        return self._product / ((self._of_x + 10.0**alpha)[:, None] * (self._of_s + 10.0**gamma))

    def weights(self, alpha: float, gamma: float) -> np.ndarray:
        """Returns W float64 [D, a]."""
        return self.left @ self.between(alpha, gamma) @ self.right.T


class Chosen(NamedTuple):
    """What the held-out classes chose.

    Attributes:
      alpha, gamma: exponents.
      delta: of calibrated stacking, the mean of the folds'.
      held_out_accuracy: of that alpha and gamma, the mean of the folds'.
    """

    alpha: float
    gamma: float
    delta: float
    held_out_accuracy: float


def choose(
    embeddings: np.ndarray,
    labels: np.ndarray,
    signatures: np.ndarray,
    learned: np.ndarray,
    *,
    grid: Sequence[tuple[float, float]],
    folds: int,
    seed: int,
) -> Chosen:
    """Chooses alpha, gamma and delta by classes held out of the learned ones.

    Args:
      embeddings: float64 [n, D], of training images.
      labels: integer [n] in [0, C), of learned classes.
      signatures: float64 [C, a]; those of classes that are not learned are not read.
      learned: bool [C].
      grid: pairs of alpha and gamma; of equally good ones the first is chosen.
      folds, seed: as `make` has them.
    """
    classes = np.random.default_rng(seed).permutation(np.flatnonzero(learned))
    fitted = np.zeros(len(labels), bool)
    fitted[stratified_split(labels, KEPT_BACK, seed)[0]] = True
    if fitted.all():
        raise ValueError(f"eszsl keeps {KEPT_BACK:.0%} of each class's images back, and none has enough")
    accuracies, parts = np.zeros((folds, len(grid))), []
    for fold in range(folds):
        held_out = np.isin(np.arange(len(learned)), classes[fold::folds])
        others, is_new = learned & ~held_out, held_out[labels]
        trained = fitted & ~is_new
        solved = Eszsl(embeddings[trained], labels[trained], signatures, others)
        # Rotated once, so that a setting costs two small products.
        rows, columns = embeddings @ solved.left, solved.right.T @ (signatures * learned[:, None]).T
        for at, setting in enumerate(grid):
            scores = rows[is_new] @ (solved.between(*setting) @ columns)
            accuracies[fold, at] = accuracy_among(Scored(scores, labels[is_new]), held_out)
        parts.append((solved, rows, columns, others, is_new))
    best = int(accuracies.mean(axis=0).argmax())
    position = np.cumsum(learned) - 1  # of a class among the learned ones
    deltas = []
    for solved, rows, columns, others, is_new in parts:
        scores = rows @ (solved.between(*grid[best]) @ columns[:, learned])
        kept, new = (Scored(scores[own], position[labels[own]]) for own in (~fitted & ~is_new, is_new))
        deltas.append(stacking_curve(kept, new, others[learned]).best()[0])
    return Chosen(*grid[best], float(np.mean(deltas)), float(accuracies.mean(axis=0)[best]))
