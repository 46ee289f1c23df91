"""How well a network tells images of classes that it never learned from images of those it did.

An image counts as unknown where its score falls below a threshold. Scores: the largest probability
(Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
Networks", arXiv:1610.02136, 2017), the largest logit (Vaze et al., "Open-Set Recognition: a Good Closed-Set
Classifier is All You Need?", arXiv:2110.06207, 2022) and the cosine to the nearest training example (Sun et
al., "Out-of-Distribution Detection with Deep Nearest Neighbors", arXiv:2204.06507, 2022, with k = 1). With
`data.known_classes` every split has its held-out classes under "unknown:SPLIT".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import roc_auc_score

from imgcls_jax.contracts.evaluator import (
    Examples,
    OpenSplit,
    Predict,
    SplitFacts,
    check_known,
    check_splits,
    make_collector,
)
from imgcls_jax.evaluators.knn import nearest
from imgcls_jax.losses import label_rank


def reads(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what is read of what the objective predicts."""
    return ("logits", "embedding") if options.get("train_split") else ("logits",)


def check(splits: Mapping[str, SplitFacts], options: Mapping[str, Any], task: Any) -> None:
    """Raises ValueError where `split` is not of known classes, or the unknown are the known."""
    check_splits(splits)
    for field in ("split", "train_split"):
        if field in splits:
            check_known(field, splits[field], task.num_classes)
    if splits["unknown_split"].name == splits["split"].name:
        raise ValueError("open_set: split and unknown_split are the same images; name another unknown_split")


def measures(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the numbers that `make` with these options measures."""
    scores = ("max_probability", "max_logit", *(["nearest_cosine"] if options["train_split"] else []))
    separated = [f"{score}_{key}" for score in scores for key in ("auroc", "threshold", "false_accepts")]
    return ("num_examples", "num_unknown", "accuracy", *separated)


def make(
    predict: Predict,
    open_split: OpenSplit,
    *,
    task: Any,
    split: str,
    unknown_split: str = "unknown:{split}",
    train_split: str = "",
    accept: float = 0.95,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {"logits": float [B, K]}, with "embedding": float [B, D]
        where there is a train_split.
      open_split: split -> its batches, each example once, with label int [B] and mask bool [B].
      task: not read.
      split: of known classes.
      unknown_split: of other classes, whose labels play no part; "{split}" in it stands for split.
      train_split: where the nearest example is looked for; "" for no such score.
      accept: part of the known that a threshold lets through, in (0, 1).

    Returns:
      A function that returns num_examples, of known classes, num_unknown, accuracy, of the known without any
      threshold, and for each score, max_probability, max_logit and nearest_cosine: _auroc, of known against
      unknown; _threshold, the score below which 1 - accept of the known lie; and _false_accepts, the part of
      the unknown at or above it. The threshold is fitted on `split`: it describes the ranking, and is no
      estimate for further images.

    Raises:
      ValueError: accept is out of range.
    """
    del task
    if not 0 < accept < 1:
        raise ValueError(f"open_set: accept lies between 0 and 1, both excluded; got {accept}")

    columns = functools.partial(_columns, predict, bool(train_split))
    collect = make_collector(columns, open_split)

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        known = collect(params, objective_state, split)
        unknown = collect(params, objective_state, unknown_split.replace("{split}", split))
        bank = collect(params, objective_state, train_split)["embedding"] if train_split else None
        metrics: dict[str, Any] = {
            "num_examples": len(known["label"]),
            "num_unknown": len(unknown["label"]),
            "accuracy": float(np.mean(known["hit"])),
        }
        of_unknown = _scores(unknown, bank)
        for name, score in _scores(known, bank).items():
            separated = separation(score, of_unknown[name], accept=accept)
            metrics |= {f"{name}_{key}": value for key, value in separated.items()}
        return metrics

    return evaluate


def _columns(
    predict: Predict, embed: bool, params: Any, objective_state: Any, batch: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Returns the columns of a collector; `embed` keeps the embedding."""
    outputs = predict(params, objective_state, batch)
    logits = outputs["logits"].astype(jnp.float32)
    kept = {
        "hit": label_rank(logits, batch["label"]) == 0,  # not read of labels that the network does not know
        "max_probability": jnp.max(jax.nn.softmax(logits), axis=-1),
        "max_logit": jnp.max(logits, axis=-1),
    }
    return kept | ({"embedding": outputs["embedding"].astype(jnp.float32)} if embed else {})


def _scores(found: Examples, bank: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns each score of the examples, float [N]; bank: embeddings of the training examples, or None."""
    named = {name: found[name] for name in ("max_probability", "max_logit")}
    if bank is not None:
        named["nearest_cosine"] = nearest(found["embedding"], bank, k=1)[0][:, 0]
    return named


def separation(known: np.ndarray, unknown: np.ndarray, *, accept: float) -> dict[str, float]:
    """Measures how far a score sets the known apart.

    Args:
      known, unknown: float [n] and [m], higher for what looks known.
      accept: part of the known to let through.

    Returns:
      {"auroc", "threshold", "false_accepts"}: the area under the ROC curve; the largest known score that at
      least `accept` of the known reach; the part of the unknown that reach it too.
    """
    truth = np.repeat([True, False], [len(known), len(unknown)])
    threshold = np.sort(known)[len(known) - int(np.ceil(np.round(accept * len(known), 9)))]
    return {
        "auroc": float(roc_auc_score(truth, np.concatenate([known, unknown]))),
        "threshold": float(threshold),
        "false_accepts": float(np.mean(unknown >= threshold)),
    }
