"""Retrieval between images and captions: how often an image finds a caption of its own, and the reverse.

Recall@k by the protocol of Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image
Descriptions", arXiv:1412.2306 (2015), which CLIP (arXiv:2103.00020) uses too: the candidates of an image are
all captions of the split, and it is a hit where one of its own is among the k most similar; the candidates of
a caption are all images. A candidate as similar as the right one counts as more similar, so that an embedding
which is the same for all finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.contracts.evaluator import OpenSplit, Predict, make_collector
from imgcls_jax.losses import l2_normalize

READS = ("embedding", "text_embedding")  # of what the objective predicts
ROWS = 1024  # queries compared at a time


def measures(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the numbers that `make` with these options measures."""
    ways = ("image_to_text", "text_to_image")
    recalls = [f"{way}_recall_k{size}" for way in ways for size in _sizes(options["k"])]
    return ("num_examples", "num_captions", *recalls)


def _sizes(k: int | Sequence[int]) -> list[int]:
    return sorted({k} if isinstance(k, int) else set(k))


def make(
    predict: Predict,
    open_split: OpenSplit,
    *,
    task: Any,
    split: str,
    k: int | Sequence[int] = (1, 5, 10),
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {"embedding": float [B, D], "text_embedding": float
        [B, n, D]}; batch["text"], int [B, n, L], has rows of zeros where an image has fewer captions.
      open_split: split -> its batches, each example once, with mask bool [B].
      task: not read.
      split: to evaluate on.
      k: how many candidates count, or several such numbers.

    Returns:
      A function that returns num_examples, num_captions and, in [0, 1], image_to_text_recall_k1,
      text_to_image_recall_k1 and so on for each k.

    Raises:
      ValueError: k is not positive; later, where no image has a caption.
    """
    sizes = _sizes(k)
    if not sizes or sizes[0] < 1:
        raise ValueError(f"image_text needs k of at least 1; got {k}")
    del task

    def columns(params: Any, objective_state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        outputs = predict(params, objective_state, batch)
        return {
            "embedding": l2_normalize(outputs["embedding"]),
            "text_embedding": l2_normalize(outputs["text_embedding"]),
            "is_caption": jnp.any(batch["text"] != 0, axis=-1),
        }

    collect = make_collector(columns, open_split)

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        found = collect(params, objective_state, split)
        images, captions = np.nonzero(found["is_caption"])  # [M], by image
        if not len(images):
            raise ValueError(f"no image of the split {split!r} has a caption")
        to_text, to_image = ranks(found["embedding"], found["text_embedding"][images, captions], images)
        metrics: dict[str, Any] = {"num_examples": len(found["embedding"]), "num_captions": len(images)}
        for name, rank in (("image_to_text", to_text), ("text_to_image", to_image)):
            metrics |= {f"{name}_recall_k{size}": float(np.mean(rank < size)) for size in sizes}
        return metrics

    return evaluate


def ranks(images: np.ndarray, texts: np.ndarray, image_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns at which rank, counted from 0, each query finds what belongs to it.

    Args:
      images: float32 [N, D], of norm 1.
      texts: float32 [M, D], of norm 1.
      image_of: int [M], the image that each text belongs to.

    Returns:
      int [n], of the n images that have a text, the number of texts of other images that are at least as
      similar as the best of its own; int [M], of each text the number of other images that are at least as
      similar as its own.
    """
    to_text, to_image = [], []
    for start in range(0, len(images), ROWS):
        cosines = images[start : start + ROWS] @ texts.T  # [b, M]
        own = np.arange(start, start + len(cosines))[:, None] == image_of
        cosines, own = cosines[own.any(axis=1)], own[own.any(axis=1)]
        best = np.where(own, cosines, -np.inf).max(axis=1, keepdims=True)
        to_text.append(np.sum((cosines >= best) & ~own, axis=1))
    for start in range(0, len(texts), ROWS):
        cosines = texts[start : start + ROWS] @ images.T  # [b, N]
        right = image_of[start : start + ROWS]
        at_least = cosines >= cosines[np.arange(len(cosines)), right][:, None]
        to_image.append(at_least.sum(axis=1) - 1)  # its own is one of them
    return np.concatenate(to_text), np.concatenate(to_image)
