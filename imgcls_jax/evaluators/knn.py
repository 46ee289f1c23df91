"""Weighted k-nearest-neighbour classification of embeddings: what a representation is worth as it stands.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", arXiv:1805.01978
(2018), section 3.4, with k = 200; Caron et al. (DINO), arXiv:2104.14294 (2021), with k = 20; temperature 0.07
in both. The search is exact over the whole training split, by the current network and without augmentation.
"""

from __future__ import annotations

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
      task: num_classes is read.
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
    collect = make_collector(embedding(predict), open_split)
    leave_one_out = split == train_split

    @jax.jit
    def classes(queries: jax.Array, rows: jax.Array, examples: tuple[jax.Array, ...]) -> jax.Array:
        similarity, labels = _nearest(
            queries, examples, k=sizes[-1], excluded=rows if leave_one_out else None
        )
        scores = [
            vote(similarity[:, :n], labels[:, :n], num_classes=task.num_classes, temperature=temperature)
            for n in sizes
        ]
        return jnp.stack([jnp.argmax(score, axis=1) for score in scores], axis=1)  # [b, len(sizes)]

    def evaluate(params: Any, carry: Any) -> dict[str, Any]:
        bank = collect(params, carry, train_split)
        queries = bank if leave_one_out else collect(params, carry, split)
        if sizes[-1] > len(bank["label"]) - leave_one_out:
            raise ValueError(
                f"knn: k = {sizes[-1]} is more than there are training examples, {len(bank['label'])}"
            )
        examples = jax.device_put(
            (
                _chunks(bank["embedding"], EXAMPLES),
                _chunks(bank["label"], EXAMPLES),
                _chunks(np.arange(len(bank["label"])), EXAMPLES, filler=-1),
            )
        )
        positions = np.arange(len(queries["label"]))
        chunks = zip(_chunks(queries["embedding"], QUERIES), _chunks(positions, QUERIES), strict=True)
        predicted = np.concatenate([classes(*chunk, examples) for chunk in chunks])[: len(positions)]
        accuracy = np.mean(predicted == queries["label"][:, None], axis=0)
        by_k = {f"accuracy_k{size}": float(value) for size, value in zip(sizes, accuracy, strict=True)}
        return {"num_examples": len(queries["label"])} | by_k

    return evaluate


def vote(similarity: jax.Array, labels: jax.Array, *, num_classes: int, temperature: float) -> jax.Array:
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
    weights = jnp.exp((similarity - jnp.max(similarity, axis=1, keepdims=True)) / temperature)
    rows = jnp.arange(len(labels))[:, None]
    return jnp.zeros((len(labels), num_classes), jnp.float32).at[rows, labels].add(weights)


def _chunks(array: np.ndarray, most: int, filler: int = 0) -> np.ndarray:
    """Returns the rows of an array in equal chunks of at most `most`, padded: [chunks, rows, ...]."""
    count = -(-len(array) // most)
    rows = -(-len(array) // count)
    padding = [(0, count * rows - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, padding, constant_values=filler).reshape(count, rows, *array.shape[1:])


def _nearest(
    queries: jax.Array, examples: tuple[jax.Array, ...], *, k: int, excluded: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Finds the k most similar examples of each query, chunk by chunk; of equally similar ones the first.

    Args:
      queries: float [b, D].
      examples: embedding float [chunks, n, D], label int [chunks, n] and position int [chunks, n], -1 where
        there is no example.
      k: how many.
      excluded: int [b], the position that is no neighbour of each query.

    Returns:
      Cosines float32 [b, k], falling, and labels int [b, k].
    """
    queries = l2_normalize(queries)

    def merge(best: tuple[jax.Array, jax.Array], chunk: tuple[jax.Array, ...]) -> Any:
        embedding, labels, positions = chunk
        similarity = jnp.matmul(queries, l2_normalize(embedding).T, precision="highest")
        absent = positions < 0
        if excluded is not None:
            absent |= positions == excluded[:, None]
        similarity = jnp.concatenate([best[0], jnp.where(absent, -jnp.inf, similarity)], axis=1)
        labels = jnp.concatenate([best[1], jnp.broadcast_to(labels, (len(queries), len(labels)))], axis=1)
        similarity, at = jax.lax.top_k(similarity, k)
        return (similarity, jnp.take_along_axis(labels, at, axis=1)), None

    none = jnp.full((len(queries), k), -jnp.inf), jnp.zeros((len(queries), k), examples[1].dtype)
    return jax.lax.scan(merge, none, examples)[0]
