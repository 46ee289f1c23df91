"""Weighted k-nearest-neighbour classification of embeddings: what a representation is worth as it stands.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", arXiv:1805.01978
(2018), section 3.4, with k = 200; Caron et al. (DINO), arXiv:2104.14294 (2021), with k = 20; temperature 0.07
in both. The search is exact over the whole training split, by the current network and without augmentation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.evaluators.collect import OpenSplit, Predict, embedding, make_collector
from imgcls_jax.losses import l2_normalize

QUERIES, EXAMPLES = 256, 16384  # compared at a time: 16 MiB of similarities


def make(
    predict: Predict,
    open_split: OpenSplit,
    *,
    task: Any,
    split: str,
    train_split: str = "train",
    k: int | Sequence[int] = 20,
    temperature: float = 0.07,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, carry) -> metrics.

    Args:
      predict: (params, carry, batch) -> {"embedding": float [B, D], ...}.
      open_split: split -> its batches, each example once, with label int [B] and mask bool [B].
      task: not read: the labels may be of classes that were never trained on.
      split: to classify; where it is train_split, an example is no neighbour of itself.
      train_split: whose examples vote.
      k: how many vote, or several such numbers.
      temperature: of the weights, positive.

    Returns:
      A function that returns num_examples and accuracy_k20, in [0, 1], for k = 20, and so on.

    Raises:
      ValueError: k or temperature is not positive; later, where k exceeds the number of training examples.
    """
    sizes = sorted({k} if isinstance(k, int) else set(k))
    if not sizes or sizes[0] < 1 or not temperature > 0:
        raise ValueError(f"knn needs k of at least 1 and a positive temperature; got {k} and {temperature}")
    del task
    collect = make_collector(embedding(predict), open_split)
    leave_one_out = split == train_split

    def evaluate(params: Any, carry: Any) -> dict[str, Any]:
        bank = collect(params, carry, train_split)
        queries = bank if leave_one_out else collect(params, carry, split)
        if sizes[-1] > len(bank["label"]) - leave_one_out:
            raise ValueError(
                f"knn: k = {sizes[-1]} is more than there are training examples, {len(bank['label'])}"
            )
        similarity, index = nearest(
            queries["embedding"], bank["embedding"], k=sizes[-1], leave_one_out=leave_one_out
        )
        labels, num_classes = bank["label"][index], int(bank["label"].max()) + 1
        metrics: dict[str, Any] = {"num_examples": len(queries["label"])}
        for size in sizes:
            scores = vote(
                similarity[:, :size], labels[:, :size], num_classes=num_classes, temperature=temperature
            )
            metrics[f"accuracy_k{size}"] = float(np.mean(scores.argmax(axis=1) == queries["label"]))
        return metrics

    return evaluate


def nearest(
    queries: np.ndarray, examples: np.ndarray, *, k: int, leave_one_out: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k most similar examples of each query, exactly, on the device and by blocks of both.

    Args:
      queries: float [n, D].
      examples: float [N, D], N at least k, at least k + 1 with leave_one_out.
      k: how many.
      leave_one_out: whether query i is example i, and no neighbour of itself.

    Returns:
      Cosines float32 [n, k], falling, and positions int32 [n, k]; of equally similar ones the first.
    """
    positions = np.arange(len(examples), dtype=np.int32)
    bank = jax.device_put((_chunks(examples, EXAMPLES), _chunks(positions, EXAMPLES, filler=-1)))
    rows = np.arange(len(queries), dtype=np.int32) if leave_one_out else np.full(len(queries), -2, np.int32)
    found = [
        _nearest(*chunk, bank, k=k)
        for chunk in zip(_chunks(queries, QUERIES), _chunks(rows, QUERIES, filler=-2), strict=True)
    ]
    similarity, index = (np.concatenate(parts)[: len(queries)] for parts in zip(*found, strict=True))
    return similarity, index


def vote(similarity: np.ndarray, labels: np.ndarray, *, num_classes: int, temperature: float) -> np.ndarray:
    """Scores classes by the neighbours' labels, each weighted by its similarity.

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


def _chunks(array: np.ndarray, most: int, filler: int = 0) -> np.ndarray:
    """Returns the rows of an array in equal chunks of at most `most`, padded: [chunks, rows, ...]."""
    count = -(-len(array) // most)
    rows = -(-len(array) // count)
    padding = [(0, count * rows - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, padding, constant_values=filler).reshape(count, rows, *array.shape[1:])


@functools.partial(jax.jit, static_argnames="k")
def _nearest(
    queries: jax.Array, rows: jax.Array, bank: tuple[jax.Array, jax.Array], *, k: int
) -> tuple[jax.Array, jax.Array]:
    """Merges block after block into the k most similar examples of each query.

    Args:
      queries: float [b, D].
      rows: int [b], the position that is no neighbour of each query.
      bank: embedding float [blocks, n, D] and position int [blocks, n], -1 where there is no example.
      k: how many.

    Returns:
      Cosines float32 [b, k], falling, and positions int [b, k].
    """
    queries = l2_normalize(queries)

    def merge(best: tuple[jax.Array, jax.Array], block: tuple[jax.Array, jax.Array]) -> Any:
        embedding, positions = block
        similarity = jnp.matmul(queries, l2_normalize(embedding).T, precision="highest")
        absent = (positions < 0) | (positions == rows[:, None])
        similarity = jnp.concatenate([best[0], jnp.where(absent, -jnp.inf, similarity)], axis=1)
        positions = jnp.broadcast_to(positions, (len(queries), len(positions)))
        positions = jnp.concatenate([best[1], positions], axis=1)
        similarity, at = jax.lax.top_k(similarity, k)
        return (similarity, jnp.take_along_axis(positions, at, axis=1)), None

    none = jnp.full((len(queries), k), -jnp.inf), jnp.zeros((len(queries), k), bank[1].dtype)
    return jax.lax.scan(merge, none, bank)[0]
