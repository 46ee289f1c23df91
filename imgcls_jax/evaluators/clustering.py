"""How well clusters found without labels agree with the classes.

Accuracy is that of the best one-to-one assignment of clusters to classes (the Hungarian method). As in the
unsupervised protocol, the assignment uses the labels of the split that is measured; clusters beyond the
number of classes count as errors. With `fit_split` there is also the accuracy of a many-to-one map: each
cluster gets the class that most of its examples have in that split, which should be the training one. That is
the usual figure where there are more clusters than classes. Mutual information is normalized by the
arithmetic mean of the entropies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.metrics.cluster import contingency_matrix

from imgcls_jax.contracts.evaluator import (
    Examples,
    Measured,
    OpenSplit,
    Predict,
    SplitFacts,
    check_splits,
    embedded,
    make_collector,
)
from imgcls_jax.losses import kmeans, nearest_centroid

KMEANS_STARTS = 5  # of which the one with the lowest objective is kept


def reads(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what is read of what the objective predicts."""
    return (options.get("key", "logits"),)


MEASURES = (
    *("num_examples", "num_clusters", "accuracy", "nmi", "ari", "mapped_accuracy", "silhouette"),
    *("subhead_accuracy_mean", "subhead_accuracy_best"),
)


def check(splits: Mapping[str, SplitFacts], options: Mapping[str, Any], task: Any) -> None:
    """Raises ValueError where k-means has fewer examples than clusters."""
    check_splits(splits)
    fitted, clusters = splits.get("fit_split", splits["split"]), options["num_clusters"] or task.num_classes
    if options["key"] == "embedding" and clusters > fitted.num_examples:
        raise ValueError(
            f"clustering: k-means finds {clusters} clusters among the {fitted.num_examples} examples of "
            f"{fitted.name!r}, too few: set num_clusters"
        )


def make(
    predict: Predict,
    open_split: OpenSplit,
    *,
    task: Any,
    split: str,
    key: str = "logits",
    fit_split: str = "",
    num_clusters: int = 0,
    silhouette_examples: int = 2000,
    seed: int = 0,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {key: float [B, D], ...}; "subhead_logits" float [B, S, K]
        and "embedding" are read where they are there.
      open_split: split -> its batches, each example once, with label int [B] and mask bool [B].
      task: num_classes is read.
      split: to evaluate on.
      key: of predict's output. "embedding" is clustered by k-means, with the centroids of fit_split where
        there is one; of any other the largest entry is the cluster.
      fit_split: split whose labels fit the many-to-one map; "" for no such map.
      num_clusters: of k-means; 0 for the number of classes.
      silhouette_examples: at most so many, drawn at random; 0 leaves the silhouette out.
      seed: of k-means and of that draw.

    Returns:
      A function that returns num_examples, num_clusters (those with members), accuracy (one-to-one), nmi, ari
      and, where their inputs exist: mapped_accuracy (many-to-one), silhouette (of the embedding, in [-1, 1]),
      subhead_accuracy_mean, and subhead_accuracy_best, an upper bound that knows the labels.

    Raises:
      ValueError: a number is out of range; later, where the prediction has no such key.
    """
    if num_clusters == 1 or min(num_clusters, silhouette_examples, seed) < 0:
        raise ValueError(
            "clustering: num_clusters is 0 or at least 2, silhouette_examples and seed are at least 0; got "
            f"{num_clusters}, {silhouette_examples} and {seed}"
        )

    columns = functools.partial(_columns, predict, key, bool(silhouette_examples))
    collect = make_collector(columns, open_split)

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        found = {name: collect(params, objective_state, name) for name in (fit_split, split) if name}
        if key == "embedding":
            fit = found[fit_split or split]
            centroids = _centroids(fit["embedding"], num_clusters or task.num_classes, seed)
            for examples in found.values():
                examples["clusters"] = np.asarray(nearest_centroid(examples["embedding"], centroids)[0])
        metrics = agreement(found[split])
        if fit_split:
            metrics["mapped_accuracy"] = mapped_accuracy(found[fit_split], found[split])
        if "embedding" in found[split] and silhouette_examples:
            metrics |= _silhouette(found[split], silhouette_examples, seed)
        return Measured(metrics, embedded(split, found[split])) if "embedding" in found[split] else metrics

    return evaluate


def _columns(
    predict: Predict,
    key: str,
    embed: bool,
    params: Any,
    objective_state: Any,
    batch: dict[str, jax.Array],
) -> dict[str, jax.Array]:
    """Returns the columns of a collector; `embed` keeps the embedding where there is one."""
    outputs = predict(params, objective_state, batch)
    if key not in outputs:
        raise ValueError(f"evals: the prediction has no output {key!r}; it has {', '.join(outputs)}")
    kept = {}
    if key != "embedding":
        kept["clusters"] = jnp.argmax(outputs[key], axis=-1)
        kept["largest"] = jnp.max(outputs[key], axis=-1)  # not finite where an entry is a NaN
    if key == "logits" and "subhead_logits" in outputs:
        kept["subheads"] = jnp.argmax(outputs["subhead_logits"], axis=-1)  # [B, S]
    if key == "embedding" or embed and "embedding" in outputs:
        kept["embedding"] = outputs["embedding"].astype(jnp.float32)
    return kept


def agreement(examples: Examples) -> dict[str, Any]:
    """Compares clusters with labels.

    Args:
      examples: "label" and "clusters", integer [N]; perhaps "subheads", integer [N, S].

    Returns:
      The metrics of `make` that need nothing else.
    """
    labels, clusters = examples["label"], examples["clusters"]
    metrics = {
        "num_examples": len(labels),
        "num_clusters": len(np.unique(clusters)),
        "accuracy": one_to_one_accuracy(clusters, labels),
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
    }
    if "subheads" in examples:
        each = [one_to_one_accuracy(own, labels) for own in examples["subheads"].T]
        metrics |= {"subhead_accuracy_mean": float(np.mean(each)), "subhead_accuracy_best": max(each)}
    return metrics


def mapped_accuracy(fit: Examples, examples: Examples) -> float:
    """Returns the accuracy on `examples` of the many-to-one map that `fit` gives."""
    classes = majority_classes(fit["clusters"], fit["label"])
    mapped = np.array([classes.get(cluster, -1) for cluster in examples["clusters"].tolist()])
    return float(np.mean(mapped == examples["label"]))


def one_to_one_accuracy(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy under the best assignment of clusters to classes, each to one other at most.

    Args:
      clusters, labels: integer [N].

    Returns:
      In [0, 1].
    """
    counts = contingency_matrix(labels, clusters)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels))


def majority_classes(clusters: np.ndarray, labels: np.ndarray) -> dict[int, int]:
    """Returns the most frequent class of each cluster that has members; of equal ones the lowest.

    Args:
      clusters, labels: integer [N].
    """
    counts = contingency_matrix(labels, clusters)
    return dict(
        zip(np.unique(clusters).tolist(), np.unique(labels)[counts.argmax(axis=0)].tolist(), strict=True)
    )


def _centroids(embedding: np.ndarray, num_clusters: int, seed: int) -> jax.Array:
    found = [
        kmeans(rng, jnp.asarray(embedding), num_clusters=num_clusters, num_iterations=50)
        for rng in jax.random.split(jax.random.key(seed), KMEANS_STARTS)
    ]
    return min(found, key=lambda result: float(result.objectives[-1])).centroids


def _silhouette(examples: Examples, most: int, seed: int) -> dict[str, float]:
    """Returns {"silhouette"}, or nothing where the sample has no two clusters or no two of one cluster."""
    embedding, clusters = examples["embedding"], examples["clusters"]
    sample = np.random.default_rng(seed).permutation(len(clusters))[:most]
    if not 2 <= len(np.unique(clusters[sample])) < len(sample):
        return {}
    return {"silhouette": float(silhouette_score(embedding[sample], clusters[sample]))}
