"""The embeddings of a split on the host, for evaluators that look at all of them together.

Prediction is in evaluation mode and the images come by the evaluation line: no statistics move, nothing is
random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

Predict = Callable[[Any, Any, dict[str, jax.Array]], dict[str, jax.Array]]
OpenSplit = Callable[[str], Iterable[dict[str, jax.Array]]]


class Embedded(NamedTuple):
    """The examples of a split, in its order.

    Attributes:
      embedding: float32 [N, D].
      label: int32 [N].
    """

    embedding: np.ndarray
    label: np.ndarray


def make_embedder(predict: Predict, open_split: OpenSplit) -> Callable[[Any, Any, str], Embedded]:
    """Returns the function (params, carry, split) -> Embedded, the same on every process.

    Args:
      predict: (params, carry, batch) -> {"embedding": float [B, D], ...}.
      open_split: split -> its batches, each example once, with label int [B] and mask bool [B].
    """

    @jax.jit
    def columns(params: Any, carry: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
        embedding = predict(params, carry, batch)["embedding"]
        return embedding.astype(jnp.float32), batch["label"], batch["mask"]

    def embed(params: Any, carry: Any, split: str) -> Embedded:
        """Raises ValueError where nothing could be read, FloatingPointError for a NaN or an infinity."""
        parts = []
        for batch in open_split(split):
            embedding, label, mask = multihost_utils.process_allgather(
                columns(params, carry, batch), tiled=True
            )
            parts.append(Embedded(embedding[mask], label[mask]))
        if not sum(len(part.label) for part in parts):
            raise ValueError(f"no example of the split {split!r} could be read: nothing to evaluate")
        embedded = Embedded(*map(np.concatenate, zip(*parts, strict=True)))
        if not np.isfinite(embedded.embedding).all():
            raise FloatingPointError(
                f"embeddings of the split {split!r} hold a NaN or an infinity: the network has diverged"
            )
        return embedded

    return embed
