"""Weighted k-nearest-neighbor classification: how good embeddings are without any further training.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", arXiv:1805.01978
(2018), section 3.4, with k = 200; Caron et al. (DINO), arXiv:2104.14294 (2021), with k = 20; temperature 0.07
in both. The search is exact over the whole training split, by the current network and without augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.contracts.evaluator import (
    Measured,
    OpenSplit,
    Predict,
    SplitFacts,
    check_shared_classes,
    check_splits,
    embedded,
    embedding,
    make_collector,
)
from imgcls_jax.losses import l2_normalize
from imgcls_jax.metrics.intervals import check_resamples, of_means

QUERIES, EXAMPLES = 1024, 2048  # compared at a time; larger blocks outgrow a cache

READS = ("embedding",)  # of what the objective predicts


def check(splits: Mapping[str, SplitFacts], options: Mapping[str, Any], task: Any) -> None:
    """Raises ValueError where k exceeds the number of training examples, or splits do not go together."""
    check_splits(splits)
    train, most = splits["train_split"], _sizes(options["k"])[-1]
    neighbors = train.num_examples - (options["split"] == options["train_split"])
    if most > neighbors:
        raise ValueError(_too_many(most, train.name, neighbors))
    check_shared_classes("train_split", splits["split"], train)


def measures(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the numbers that `make` with these options measures."""
    return ("num_examples", *(f"accuracy_k{size}" for size in _sizes(options["k"])))


def _sizes(k: int | Sequence[int]) -> list[int]:
    return sorted({k} if isinstance(k, int) else set(k))


def _too_many(k: int, split: str, neighbors: int) -> str:
    return f"knn: k = {k} is more than the {neighbors} neighbors that train_split = {split!r} offers an image"


def make(
    predict: Predict,
    open_split: OpenSplit,
    *,
    task: Any,
    split: str,
    train_split: str = "train",
    k: int | Sequence[int] = 20,
    temperature: float = 0.07,
    bootstrap: int = 0,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {"embedding": float [B, D], ...}.
      open_split: split -> its batches, each example once, with label int [B] and mask bool [B].
      task: not read: the labels may be of classes that were never trained on.
      split: to classify; where it is train_split, an example is no neighbor of itself.
      train_split: whose examples vote.
      k: how many vote, or several such numbers.
      temperature: of the weights, positive.
      bootstrap: resamples of the split, such as 1000, for intervals at 95 %, the neighbors being those at
        hand; 0 for none.

    Returns:
      A function that returns num_examples and accuracy_k20, in [0, 1], for k = 20, and so on; with bootstrap
      intervals, {name: [low, high]}.

    Raises:
      ValueError: k, temperature or bootstrap is out of range; later, where examples could not be read and
        fewer than k are left.
    """
    sizes = _sizes(k)
    if not sizes or sizes[0] < 1 or not temperature > 0:
        raise ValueError(f"knn needs k of at least 1 and a positive temperature; got {k} and {temperature}")
    check_resamples("knn", bootstrap)
    del task
    collect = make_collector(embedding(predict), open_split)
    leave_one_out = split == train_split

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        bank = collect(params, objective_state, train_split)
        queries = bank if leave_one_out else collect(params, objective_state, split)
        if sizes[-1] > len(bank["label"]) - leave_one_out:
            raise ValueError(_too_many(sizes[-1], train_split, len(bank["label"]) - leave_one_out))
        similarity, index = nearest(
            queries["embedding"], bank["embedding"], k=sizes[-1], leave_one_out=leave_one_out
        )
        labels, num_classes = bank["label"][index], int(bank["label"].max()) + 1
        hits = {}
        for size in sizes:
            scores = vote(
                similarity[:, :size], labels[:, :size], num_classes=num_classes, temperature=temperature
            )
            hits[f"accuracy_k{size}"] = scores.argmax(axis=1) == queries["label"]
        metrics: dict[str, Any] = {"num_examples": len(queries["label"])}
        metrics |= {name: float(np.mean(own)) for name, own in hits.items()}
        metrics |= {"intervals": of_means(hits, resamples=bootstrap)} if bootstrap else {}
        return Measured(metrics, embedded(split, queries))

    return evaluate


def nearest(
    queries: np.ndarray, examples: np.ndarray, *, k: int, leave_one_out: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k most similar examples of each query, exactly, on the device and by blocks of both.

    Args:
      queries: float [n, D].
      examples: float [N, D], N at least k, at least k + 1 with leave_one_out.
      k: how many.
      leave_one_out: whether query i is example i, and no neighbor of itself.

    Returns:
      Cosines float32 [n, k], falling, and positions int32 [n, k]; of equally similar ones the first.
    """
    own = np.arange(len(queries)) if leave_one_out else np.full(len(queries), -1)
    chunks = [slice(start, start + QUERIES) for start in range(0, len(queries), QUERIES)]
    sides = [(l2_normalize(jnp.asarray(queries[chunk])), own[chunk].astype(np.int32)) for chunk in chunks]
    best = [(jnp.full((len(row), k), -jnp.inf), jnp.zeros((len(row), k), jnp.int32)) for _, row in sides]
    for start in range(0, len(examples), EXAMPLES):
        block = jax.device_put(examples[start : start + EXAMPLES])
        best = [_merge(found, *side, block, np.int32(start)) for found, side in zip(best, sides, strict=True)]
    similarity, index = (np.concatenate(parts) for parts in zip(*jax.device_get(best), strict=True))
    return similarity, index


def vote(similarity: np.ndarray, labels: np.ndarray, *, num_classes: int, temperature: float) -> np.ndarray:
    """Scores classes by the neighbors' labels, each weighted by its similarity.

    Eq.: score_c = sum_{i: y_i = c} exp(s_i / t), here divided by the largest weight, which changes no order
    and cannot overflow.

    Args:
      similarity: float [B, k], cosines.
      labels: int [B, k] in [0, num_classes).
      num_classes: K.
      temperature: t, positive.

    Returns:
      float32 [B, K]; of equal scores the argmax is the lowest class.
    """
    weights = np.exp((similarity - similarity.max(axis=1, keepdims=True)) / temperature)
    scores = np.zeros((len(labels), num_classes), np.float32)
    np.add.at(scores, (np.arange(len(labels))[:, None], labels), weights)
    return scores


@jax.jit
def _merge(
    best: tuple[jax.Array, jax.Array], queries: jax.Array, own: jax.Array, block: jax.Array, start: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Merges a block of examples into the most similar ones of each query.

    Args:
      best: cosines float32 [b, k], falling, and positions int32 [b, k], of the blocks before.
      queries: float32 [b, D], of norm 1.
      own: int32 [b], the position that is no neighbor of each query.
      block: float [m, D].
      start: the position of its first example.

    Returns:
      best, with this block.
    """
    k = best[0].shape[1]
    block = jnp.asarray(block, jnp.float32)
    # The products are divided by the norms, not the block: it is read, and never written again.
    similarity = jnp.matmul(queries, block.T, precision="highest") * _inverse_norms(block)
    here = start + jnp.arange(len(block), dtype=jnp.int32)
    similarity = jnp.where(here == own[:, None], -jnp.inf, similarity)
    nearest_here, at = jax.lax.top_k(similarity, min(k, len(block)))
    similarity, chosen = jax.lax.top_k(jnp.concatenate([best[0], nearest_here], axis=1), k)
    positions = jnp.concatenate([best[1], start + at], axis=1)
    return similarity, jnp.take_along_axis(positions, chosen, axis=1)


def _inverse_norms(block: jax.Array) -> jax.Array:
    """Returns 1 / |x| of each row of float32 [m, D], at any magnitude; finite where a row is zeros."""
    squared = jnp.sum(block**2, axis=1)

    def scaled(block: jax.Array) -> jax.Array:
        largest = jnp.max(jnp.abs(block), axis=1)
        largest = jnp.where(largest > 1e-30, largest, 1.0)
        squared = jnp.sum((block / largest[:, None]) ** 2, axis=1)  # at least 1 but for zeros
        return jax.lax.rsqrt(jnp.maximum(squared, 0.5)) / largest

    # To scale the rows first takes three more passes: only where squares leave float32's range.
    safe = jnp.all((squared > 1e-20) & (squared < 1e37))
    return jax.lax.cond(safe, lambda _: jax.lax.rsqrt(squared), scaled, block)
