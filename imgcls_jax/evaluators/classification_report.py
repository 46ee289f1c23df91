"""Single-label classification in full: the confusion matrix, rates of each class, ranking and calibration.

Everything is computed by scikit-learn from the probabilities of the whole split at once, on the host. The
prediction is the most probable class. A tie of the label with another class counts as an error, as in the
evaluator `classification` and among the top K: the prediction is then the lowest of the other classes that
tie, so that a network which has collapsed does not score on the first class. A rate whose denominator is zero
counts as 0, in means too; a ranking metric of a class that the split lacks, or that fills it, is None and
left out of the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import metrics as sklearn_metrics

from imgcls_jax.contracts.evaluator import (
    OpenSplit,
    Predict,
    SplitFacts,
    check_known,
    check_splits,
    make_collector,
)
from imgcls_jax.metrics.ranking import mean_of_known, ranking

READS = ("logits",)  # of what the objective predicts
RATES = ("precision", "recall", "f1", "f_beta")


def measures(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the numbers that `make` with these options measures."""
    means = [f"{average}_{rate}" for average in ("macro", "weighted", "micro") for rate in RATES]
    ranks = [f"top{k}_accuracy" for k in ((5,) if options["top_k"] is None else options["top_k"])]
    groups = [f"{group}_accuracy" for group in ("many", "medium", "few") if options["shots"]]
    others = ("num_examples", "accuracy", "error_rate", "balanced_accuracy", "ece")
    return (*others, *means, "macro_roc_auc", "macro_average_precision", *ranks, *groups)


def check(splits: Mapping[str, SplitFacts], options: Mapping[str, Any], task: Any) -> None:
    """Raises ValueError for a split that cannot be measured so."""
    check_splits(splits)
    check_known("split", splits["split"], task.num_classes)


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

    Returns:
      A function that returns what `report` does, and many_accuracy, medium_accuracy and few_accuracy, the
      means of the recalls of those classes, None where there is none; only with shots.

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

    def probabilities(params: Any, objective_state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        logits = predict(params, objective_state, batch)["logits"].astype(jnp.float32)
        return {"probabilities": jax.nn.softmax(logits)}

    collect = make_collector(probabilities, open_split)

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        found = collect(params, objective_state, split)
        result = report(
            found["probabilities"], found["label"], beta=beta, top_k=ranks, calibration_bins=calibration_bins
        )
        if shots:
            recall, support, sizes = map(np.array, (result["recall"], result["support"], task.class_counts))
            result |= accuracy_by_shots(recall, support, sizes, shots)
        return result

    return evaluate


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
      expected calibration error; lists of K: precision, recall, specificity, f1, f_beta, roc_auc,
      average_precision, support; confusion_matrix, K lists of K counts, a row a true class; reliability,
      lists of a number a bin: count, confidence and accuracy (means, None where a bin is empty). Rates lie
      in [0, 1].
    """
    classes = np.arange(probabilities.shape[1])
    rows = np.arange(len(labels))
    rank = np.sum(probabilities >= probabilities[rows, labels][:, None], axis=1) - 1
    hits = rank == 0
    others = probabilities.copy()
    others[rows, labels] = -1
    predicted = np.where(hits, labels, others.argmax(axis=1))
    confusion = sklearn_metrics.confusion_matrix(labels, predicted, labels=classes)
    result: dict[str, Any] = {
        "num_examples": len(labels),
        "accuracy": float(hits.mean()),
        "error_rate": float(1 - hits.mean()),
    }
    for average in ("macro", "weighted", "micro"):
        rates = _rates(labels, predicted, classes, beta, average)
        result |= {f"{average}_{name}": float(value) for name, value in rates.items()}
    for k in top_k:
        result[f"top{k}_accuracy"] = float(np.mean(rank < k))
    lists = {name: value.tolist() for name, value in _rates(labels, predicted, classes, beta, None).items()}
    support = confusion.sum(axis=1)
    false_positive = confusion.sum(axis=0) - confusion.diagonal()
    negatives = len(labels) - support
    lists["specificity"] = ((negatives - false_positive) / np.maximum(negatives, 1)).tolist()
    lists["support"] = support.tolist()
    present = support > 0
    result["balanced_accuracy"] = float(np.mean(np.array(lists["recall"])[present]))
    lists |= ranking(labels[:, None] == classes, probabilities)
    for name in ("roc_auc", "average_precision"):
        result[f"macro_{name}"] = mean_of_known(lists[name])
    reliability, ece = calibration(probabilities.max(axis=1), hits, bins=calibration_bins)
    return (
        result | {"ece": ece} | lists | {"confusion_matrix": confusion.tolist(), "reliability": reliability}
    )


def _rates(
    labels: np.ndarray, predicted: np.ndarray, classes: np.ndarray, beta: float, average: str | None
) -> dict[str, Any]:
    options = dict(labels=classes, average=average, zero_division=0)
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(labels, predicted, **options)
    f_beta = sklearn_metrics.fbeta_score(labels, predicted, beta=beta, **options)
    return {"precision": precision, "recall": recall, "f1": f1, "f_beta": f_beta}


def calibration(
    confidence: np.ndarray, hits: np.ndarray, *, bins: int
) -> tuple[dict[str, list[float | None]], float]:
    """Compares how sure predictions are with how often they are right.

    Eq.: ECE = sum_b n_b / N |accuracy_b - confidence_b|, over equally wide bins (i / bins, (i + 1) / bins]
    (Guo et al. 2017, arXiv:1706.04599).

    Args:
      confidence: float [N] in [0, 1], the probability of the predicted class.
      hits: bool [N].
      bins: how many.

    Returns:
      {"count", "confidence", "accuracy"}, a list of `bins` each, and the error.
    """
    at = np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    sums = {"confidence": np.bincount(at, confidence, bins), "accuracy": np.bincount(at, hits, bins)}
    columns: dict[str, list[float | None]] = {"count": [int(n) for n in count]}
    for name, total in sums.items():
        columns[name] = [float(value / n) if n else None for value, n in zip(total, count, strict=True)]
    ece = float(np.abs(sums["accuracy"] - sums["confidence"]).sum() / len(hits))
    return columns, ece


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
