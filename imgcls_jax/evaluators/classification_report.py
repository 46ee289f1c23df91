"""Single-label classification in full: the confusion matrix, rates of each class, ranking and calibration.

Everything is computed from the probabilities of the whole split at once, on the host. The prediction is the
most probable class. A tie of the label with another class counts as an error, as in the evaluator
`classification` and among the top K: the prediction is then the lowest of the other classes that tie, so that
a network which has collapsed does not score on the first class. A rate whose denominator is zero counts as 0,
in means too; a ranking metric of a class that the split lacks, or that fills it, is None and left out of the
mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from imgcls_jax.contracts.evaluator import (
    MAX_MISTAKES,
    Examples,
    Measured,
    Mistakes,
    OpenSplit,
    Predict,
    Shown,
    SplitFacts,
    check_known,
    check_splits,
    make_collector,
)
from imgcls_jax.metrics import selective
from imgcls_jax.metrics.calibration import best_temperature, calibration, cross_entropy
from imgcls_jax.metrics.intervals import check_resamples, intervals
from imgcls_jax.metrics.ranking import mean_of_known, ranking, resampled_ranking
from imgcls_jax.metrics.rates import rates

READS = ("logits",)  # of what the objective predicts
RATES = ("precision", "recall", "f1", "f_beta")
# Probabilities that are ranked anew in every resample; a thousand resamples of so many take some minutes.
MAX_RANKED = 5_000_000


def measures(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the numbers that `make` with these options measures."""
    means = [f"{average}_{rate}" for average in ("macro", "weighted", "micro") for rate in RATES]
    ranks = [f"top{k}_accuracy" for k in ((5,) if options["top_k"] is None else options["top_k"])]
    groups = [f"{group}_accuracy" for group in ("many", "medium", "few") if options["shots"]]
    others = ("num_examples", "accuracy", "error_rate", "balanced_accuracy", "ece", *selective.MEASURES)
    scaled = ("temperature", "loss", "scaled_loss", "scaled_ece") if options["temperature_split"] else ()
    return (*others, *means, "macro_roc_auc", "macro_average_precision", *ranks, *groups, *scaled)


def check(splits: Mapping[str, SplitFacts], options: Mapping[str, Any], task: Any) -> None:
    """Raises ValueError for a split that cannot be measured so."""
    check_splits(splits)
    for field, own in splits.items():
        check_known(field, own, task.num_classes)
    fitted = splits.get("temperature_split")
    shared = len(set(fitted.files()) & set(splits["split"].files())) if fitted else 0
    if fitted and shared:
        raise ValueError(
            f"{shared} images of temperature_split = {fitted.name!r} are measured, too: name a split of "
            f"images that {splits['split'].name!r} does not hold"
        )


def make(
    predict: Predict,
    open_split: OpenSplit,
    *,
    task: Any,
    split: str,
    beta: float = 2.0,
    top_k: Sequence[int] | None = None,
    calibration_bins: int = 15,
    shots: Sequence[int] = (),
    temperature_split: str = "",
    bootstrap: int = 0,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {"logits": float [B, K], ...}.
      open_split: split -> its batches, each example once, with label int [B] and mask bool [B].
      task: num_classes K and class_counts are read.
      split: to evaluate on.
      beta: of F-beta, positive; above 1 it leans to recall.
      top_k: further ranks to count, each below K; None for 5 where there are more classes, else for none.
      calibration_bins: equally wide bins of confidence.
      shots: (a, b) sorts the classes by their training examples: few below a, many above b, else medium; Liu
        et al. 2019, arXiv:1904.05160, have (20, 100). () for no such groups.
      temperature_split: of images that were neither trained on nor are measured; there one temperature is
        fitted by which all logits are divided (Guo et al. 2017, arXiv:1706.04599). No prediction changes by
        it. "" for none.
      bootstrap: resamples of the images, such as 1000, for intervals at 95 %; 0 for none.

    Returns:
      A function that returns what `report` does, and
      many_accuracy, medium_accuracy and few_accuracy, with shots: the means of the recalls of those classes,
        None where there is none;
      temperature, with temperature_split, and loss (nats), scaled_loss and scaled_ece: cross-entropy before
        and after the division, and the calibration error after it; "ece" is that before;
      intervals, with bootstrap: {name: [low, high]} of the other numbers, where the temperature stays; those
        of macro_roc_auc and macro_average_precision only up to MAX_RANKED probabilities.

    Raises:
      ValueError: a field is out of range.
    """
    ranks = tuple(top_k) if top_k is not None else (5,) if task.num_classes > 5 else ()
    if not beta > 0 or calibration_bins < 1 or any(not 1 <= k < task.num_classes for k in ranks):
        raise ValueError(
            "classification_report needs a positive beta, calibration_bins of at least 1, and ranks top_k "
            f"from 1 to {task.num_classes - 1}; got {beta}, {calibration_bins} and {ranks}"
        )
    if len(shots) and (len(shots) != 2 or not 0 < shots[0] <= shots[1] or not task.class_counts):
        raise ValueError(
            "classification_report: shots are two rising numbers of examples, and need a source that counts "
            f"its labels without reading every example; got {tuple(shots)}"
        )
    if temperature_split == split:
        raise ValueError(
            f"classification_report: temperature_split = {temperature_split!r} is the split measured: name "
            "another, of images that were not trained on"
        )
    check_resamples("classification_report", bootstrap)
    groups = (np.array(task.class_counts), tuple(shots)) if shots else None

    def columns(params: Any, objective_state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        logits = predict(params, objective_state, batch)["logits"].astype(jnp.float32)
        kept = {"logits": logits} if temperature_split else {}
        kept |= {"index": batch["index"]} if "index" in batch else {}
        return kept | {"probabilities": jax.nn.softmax(logits)}

    collect = make_collector(columns, open_split)

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        found = collect(params, objective_state, split)
        answers = answers_of(found["probabilities"], found["label"])
        how = _How(beta, ranks, calibration_bins, groups)
        result = _report(found["probabilities"], answers, how)
        scaled = None
        if temperature_split:
            scaled = _Scaled(found, collect(params, objective_state, temperature_split))
            result |= {"temperature": scaled.temperature} | scaled.numbers(
                answers, np.ones(len(answers.labels), int), how
            )
        if bootstrap:
            result["intervals"] = _intervals(found["probabilities"], answers, how, scaled, bootstrap)
        if "index" not in found:
            return result
        return Measured(result, Shown(split, _mistakes(found["index"], answers)))

    return evaluate


class Answers(NamedTuple):
    """What a network says of N examples.

    Attributes:
      labels: integer [N] in [0, K).
      predicted: integer [N] in [0, K).
      rank: integer [N], how many other classes are at least as probable as the label.
      hits: bool [N], whether that is none.
      confidence: float [N], the largest probability.
      num_classes: K.
    """

    labels: np.ndarray
    predicted: np.ndarray
    rank: np.ndarray
    hits: np.ndarray
    confidence: np.ndarray
    num_classes: int


class _How(NamedTuple):
    """Options of `make`: groups are (training examples of each class, shots), or None."""

    beta: float
    top_k: Sequence[int]
    bins: int
    groups: tuple[np.ndarray, Sequence[int]] | None = None


def answers_of(probabilities: np.ndarray, labels: np.ndarray) -> Answers:
    """Returns what probabilities, float [N, K], say of examples of labels, integer [N]."""
    rows = np.arange(len(labels))
    rank = np.sum(probabilities >= probabilities[rows, labels][:, None], axis=1) - 1
    hits = rank == 0
    others = probabilities.copy()
    others[rows, labels] = -1
    predicted = np.where(hits, labels, others.argmax(axis=1))
    return Answers(labels, predicted, rank, hits, probabilities.max(axis=1), probabilities.shape[1])


def _mistakes(index: np.ndarray, answers: Answers) -> Mistakes:
    """Returns what a network gets wrong with most confidence."""
    wrong = np.flatnonzero(~answers.hits)
    rows = wrong[np.argsort(-answers.confidence[wrong], kind="stable")][:MAX_MISTAKES]
    return Mistakes(index[rows], answers.labels[rows], answers.predicted[rows], answers.confidence[rows])


def report(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    beta: float = 2.0,
    top_k: Sequence[int] = (),
    calibration_bins: int = 15,
) -> dict[str, Any]:
    """Measures predictions.

    Args:
      probabilities: float [N, K], rows that sum to 1.
      labels: integer [N] in [0, K).
      beta, top_k, calibration_bins: as in `make`.

    Returns:
      num_examples; accuracy, error_rate, balanced_accuracy (the mean recall of the classes that occur);
      macro_, weighted_ (by support) and micro_ means of precision, recall, f1 and f_beta; topK_accuracy;
      macro_roc_auc (one class against the rest) and macro_average_precision (no interpolation); ece, the
      expected calibration error; what `metrics.selective` measures; lists of K: precision, recall,
      specificity, f1, f_beta, roc_auc, average_precision, support; confusion_matrix, K lists of K counts, a
      row a true class; reliability, lists of a number a bin: count, confidence and accuracy (means, None
      where a bin is empty); risk_coverage, lists of a number a point: coverage and risk. Rates lie in [0, 1].
    """
    how = _How(beta, top_k, calibration_bins)
    return _report(probabilities, answers_of(probabilities, labels), how)


def _report(probabilities: np.ndarray, answers: Answers, how: _How) -> dict[str, Any]:
    labels, classes = answers.labels, np.arange(answers.num_classes)
    confusion = confusion_matrix(labels, answers.predicted, labels=classes)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    by_class = rates(confusion.diagonal(), support, predicted, beta=how.beta)
    lists = {name: values.tolist() for name, values in by_class.items()}
    negatives = len(labels) - support
    false_positive = predicted - confusion.diagonal()
    lists["specificity"] = ((negatives - false_positive) / np.maximum(negatives, 1)).tolist()
    lists["support"] = support.tolist()
    lists |= ranking(labels[:, None] == classes, probabilities)
    result = {"num_examples": len(labels)} | _numbers(answers, np.ones(len(labels), int), how)
    for name in ("roc_auc", "average_precision"):
        result[f"macro_{name}"] = mean_of_known(lists[name])
    reliability, _ = calibration(answers.confidence, answers.hits, bins=how.bins)
    curve = selective.risk_coverage(answers.confidence, answers.hits)
    return (
        result
        | lists
        | {"confusion_matrix": confusion.tolist(), "reliability": reliability, "risk_coverage": curve}
    )


def _numbers(answers: Answers, counts: np.ndarray, how: _How) -> dict[str, Any]:
    """Returns the numbers that examples give which count so often, integer [N]."""
    labels, hits, examples = answers.labels, answers.hits, counts.sum()
    support, predicted, right = (
        np.bincount(of, weights, answers.num_classes)
        for of, weights in ((labels, counts), (answers.predicted, counts), (labels, counts * hits))
    )
    by_class = rates(right, support, predicted, beta=how.beta)
    together = rates(right.sum(), support.sum(), predicted.sum(), beta=how.beta)
    accuracy = float(counts @ hits / examples)
    numbers: dict[str, Any] = {"accuracy": accuracy, "error_rate": 1 - accuracy}
    numbers |= {f"macro_{name}": float(values.mean()) for name, values in by_class.items()}
    numbers |= {f"weighted_{name}": float(values @ support / examples) for name, values in by_class.items()}
    numbers |= {f"micro_{name}": float(value) for name, value in together.items()}
    numbers |= {f"top{k}_accuracy": float(counts @ (answers.rank < k) / examples) for k in how.top_k}
    numbers["balanced_accuracy"] = float(by_class["recall"][support > 0].mean())
    drawn = np.repeat(np.arange(len(labels)), counts)
    numbers["ece"] = _ece(answers.confidence[drawn], hits[drawn], how.bins)
    numbers |= selective.selective(answers.confidence[drawn], hits[drawn])
    if how.groups:
        numbers |= accuracy_by_shots(by_class["recall"], support, *how.groups)
    return numbers


def _ece(confidence: np.ndarray, hits: np.ndarray, bins: int) -> float:
    return calibration(confidence, hits, bins=bins)[1]


class _Scaled:
    """Logits divided by the temperature that suits another split best.

    Args:
      found: "logits" float [N, K] and "label" of the split measured.
      fit: the same of the other.
    """

    def __init__(self, found: Examples, fit: Examples):
        self.temperature = best_temperature(fit["logits"], fit["label"])
        scaled = found["logits"] / self.temperature
        self._losses = {
            name: cross_entropy(logits, found["label"])
            for name, logits in (("loss", found["logits"]), ("scaled_loss", scaled))
        }
        self._confidence = softmax(scaled, axis=1).max(axis=1)

    def numbers(self, answers: Answers, counts: np.ndarray, how: _How) -> dict[str, float]:
        """Returns loss, scaled_loss and scaled_ece of examples that count so often, integer [N]."""
        drawn = np.repeat(np.arange(len(counts)), counts)
        means = {name: float(counts @ losses / counts.sum()) for name, losses in self._losses.items()}
        return means | {"scaled_ece": _ece(self._confidence[drawn], answers.hits[drawn], how.bins)}


def _intervals(
    probabilities: np.ndarray, answers: Answers, how: _How, scaled: _Scaled | None, resamples: int
) -> dict[str, Any]:
    ranked = None
    if probabilities.size <= MAX_RANKED:
        ranked = resampled_ranking(answers.labels[:, None] == np.arange(answers.num_classes), probabilities)

    def measure(counts: np.ndarray) -> dict[str, Any]:
        numbers = _numbers(answers, counts, how)
        if ranked is not None:
            numbers |= {f"macro_{name}": value for name, value in ranked(counts).items()}
        return numbers if scaled is None else numbers | scaled.numbers(answers, counts, how)

    return intervals(measure, len(answers.labels), resamples=resamples)


def accuracy_by_shots(
    recall: np.ndarray, support: np.ndarray, sizes: np.ndarray, shots: Sequence[int]
) -> dict[str, float | None]:
    """Returns the mean recall of the classes with many, a medium number of and few training examples.

    Args:
      recall: float [K].
      support: integer [K], examples of the class in the split measured; those with none are left out.
      sizes: integer [K], training examples.
      shots: (a, b); few is below a, many above b.
    """
    few, many = sizes < shots[0], sizes > shots[1]
    groups = {"many": many, "medium": ~few & ~many, "few": few}
    chosen = {name: group & (support > 0) for name, group in groups.items()}
    return {
        f"{name}_accuracy": float(recall[group].mean()) if group.any() else None
        for name, group in chosen.items()
    }
