"""Accuracy on classes that were learned and on classes that never were, together and apart.

Rates are means over classes, not over images, as the field reports them (Xian et al. 2018, "Zero-Shot
Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly", arXiv:1707.00600). Generalized
zero-shot learning lets every image choose among all classes: U and S are the rates of images of unseen and
seen classes, H = 2 U S / (U + S). Calibrated stacking takes delta off the scores of the seen classes, which
otherwise win too often; the area under the curve of U over S, as delta runs through all numbers, is AUSUC
(Chao et al. 2016, arXiv:1605.04253).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Scored(NamedTuple):
    """Images with a score for each class.

    Attributes:
      scores: float [N, C].
      labels: integer [N] in [0, C).
    """

    scores: np.ndarray
    labels: np.ndarray


def class_mean(hits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean over classes of the share of hits in each. Args: hits bool [N]; labels integer [N]."""
    _, at, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return float(np.mean(np.bincount(at, hits) / counts))


def accuracy_among(images: Scored, classes: np.ndarray) -> float:
    """Returns the mean over classes of top-1 accuracy where an image chooses among some classes.

    Args:
      images: whose labels are among those classes.
      classes: bool [C]; of equal scores the lowest class counts.
    """
    predicted = np.where(classes, images.scores, -np.inf).argmax(axis=1)
    return class_mean(predicted == images.labels, images.labels)


def harmonic_mean(unseen: float, seen: float) -> float:
    """Returns H = 2 U S / (U + S); 0 where both are 0."""
    return 2 * unseen * seen / (unseen + seen) if unseen + seen else 0.0


def generalized(seen: Scored, unseen: Scored, is_seen: np.ndarray, *, delta: float = 0.0) -> dict[str, float]:
    """Measures images that choose among all classes.

    Args:
      seen, unseen: images of the classes of each kind.
      is_seen: bool [C].
      delta: to take off the scores of the seen classes.

    Returns:
      {"unseen": U, "seen": S, "harmonic_mean": H}, in [0, 1]; of equal scores the lowest class counts.
    """
    rates = {}
    for name, images in (("unseen", unseen), ("seen", seen)):
        predicted = (images.scores - delta * is_seen).argmax(axis=1)
        rates[name] = class_mean(predicted == images.labels, images.labels)
    return rates | {"harmonic_mean": harmonic_mean(rates["unseen"], rates["seen"])}


def learned_classes(task: Any) -> np.ndarray:
    """Returns which of the run's C classes are learned, bool [C].

    Args:
      task: num_classes and class_counts are read.

    Raises:
      ValueError: all are.
    """
    is_seen = np.array(task.class_counts or (1,) * task.num_classes) > 0
    if is_seen.all():
        raise ValueError(
            f"all {len(is_seen)} classes of the run are learned, so none is unseen: set "
            "config.data.signatures to the file that describes every class, and config.data.known_classes to "
            "those to learn"
        )
    return is_seen


def signatures_of(task: Any) -> np.ndarray:
    """Returns the signatures of the run's classes, float64 [C, a].

    Raises:
      ValueError: it has none.
    """
    if not task.signatures:
        raise ValueError(
            "this evaluator needs the signatures of classes: set config.data.signatures to their file"
        )
    return np.asarray(task.signatures, np.float64)


def measured_by_report(*, calibrated: bool) -> tuple[str, ...]:
    """Returns the names of what `report` returns; calibrated: with a delta."""
    kinds = ("generalized", "calibrated") if calibrated else ("generalized",)
    rates = [f"{kind}_{rate}" for kind in kinds for rate in ("unseen", "seen", "harmonic_mean")]
    return ("num_examples", "num_seen", "accuracy", *rates, "ausuc", "best_harmonic_mean")


def report(
    seen: Scored, unseen: Scored, is_seen: np.ndarray, *, delta: float | None = None
) -> dict[str, Any]:
    """Measures images of seen and unseen classes, as every evaluator of zero-shot learning tells it.

    Args:
      seen, unseen: images of the classes of each kind.
      is_seen: bool [C].
      delta: of calibrated stacking, chosen without these images; None for no such figures.

    Returns:
      num_examples, of unseen classes, and num_seen;
      accuracy: where images of unseen classes choose among these alone (zero-shot learning);
      generalized_unseen, _seen and _harmonic_mean: U, S and H (generalized zero-shot learning);
      calibrated_unseen, _seen and _harmonic_mean: the same at delta;
      ausuc, and best_harmonic_mean, H at the best delta for these very images, which no choice exceeds.

    Raises:
      ValueError: an image of the one kind among those of the other.
    """
    for images, kind, what in ((seen, True, "seen"), (unseen, False, "unseen")):
        labels = images.labels
        wrong = labels[(labels >= len(is_seen)) | (is_seen[np.minimum(labels, len(is_seen) - 1)] != kind)]
        if len(wrong):
            raise ValueError(
                f"the split of {what} classes holds an image of class {wrong[0]}; of the run's "
                f"{len(is_seen)} classes {int(is_seen.sum())} are learned: name the splits SPLIT and "
                "unknown:SPLIT"
            )
    curve = stacking_curve(seen, unseen, is_seen)
    result: dict[str, Any] = {
        "num_examples": len(unseen.labels),
        "num_seen": len(seen.labels),
        "accuracy": accuracy_among(unseen, ~is_seen),
    }
    for prefix, own in (("generalized", 0.0), ("calibrated", delta)):
        if own is not None:
            rates = generalized(seen, unseen, is_seen, delta=own)
            result |= {f"{prefix}_{name}": rate for name, rate in rates.items()}
    return result | {"ausuc": curve.area, "best_harmonic_mean": curve.best()[1]}


class Curve(NamedTuple):
    """Calibrated stacking at every delta that matters.

    Attributes:
      deltas: float [M], rising: U and S are the same from above one up to the next, that one included; the
        last is infinite.
      unseen, seen: float [M], U and S there.
    """

    deltas: np.ndarray
    unseen: np.ndarray
    seen: np.ndarray

    @property
    def area(self) -> float:
        """AUSUC, in [0, 1]."""
        return float(np.sum((self.seen[:-1] - self.seen[1:]) * (self.unseen[:-1] + self.unseen[1:]) / 2))

    def best(self) -> tuple[float, float]:
        """Returns (delta, H) of the largest harmonic mean, delta from the middle of where it is reached."""
        means = [harmonic_mean(u, s) for u, s in zip(self.unseen, self.seen, strict=True)]
        at = int(np.argmax(means))
        around = self.deltas[max(at - 1, 0) : at + 1]
        finite = around[np.isfinite(around)]
        return float(finite.mean()) if len(finite) else 0.0, float(means[at])


def stacking_curve(seen: Scored, unseen: Scored, is_seen: np.ndarray) -> Curve:
    """Returns U and S for every delta.

    An image turns from a seen class to an unseen one where delta exceeds the lead of the best seen class, so
    these leads are all that matters. Where the two are equal the seen class counts.

    Args:
      seen, unseen: images of the classes of each kind.
      is_seen: bool [C].
    """
    leads = [_lead(images, is_seen) for images in (seen, unseen)]
    deltas = np.append(np.unique(np.concatenate(leads)), np.inf)
    turned = [  # the rate of hits among the images that delta turns to unseen classes
        _below(deltas, lead, _hit_among_own_kind(images, is_seen) * _weights(images.labels))
        for lead, images in zip(leads, (seen, unseen), strict=True)
    ]
    return Curve(deltas, turned[1], turned[0][-1] - turned[0])


def _lead(images: Scored, is_seen: np.ndarray) -> np.ndarray:
    """Returns how far the best seen class is ahead of the best unseen one, float [N]."""
    return images.scores[:, is_seen].max(axis=1) - images.scores[:, ~is_seen].max(axis=1)


def _hit_among_own_kind(images: Scored, is_seen: np.ndarray) -> np.ndarray:
    """Returns whether the label has the best score among the classes of its kind, bool [N]."""
    own_kind = is_seen == is_seen[images.labels][:, None]
    return np.where(own_kind, images.scores, -np.inf).argmax(axis=1) == images.labels


def _below(bounds: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the sum of the weights float [N] of the values [N] below each bound, float [M]."""
    order = np.argsort(values)
    return np.append(0.0, np.cumsum(weights[order]))[np.searchsorted(values[order], bounds)]


def _weights(labels: np.ndarray) -> np.ndarray:
    """Returns what each image counts, float [N]: 1 / (classes that occur * images of its class)."""
    _, at, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1.0 / (len(counts) * counts[at])
