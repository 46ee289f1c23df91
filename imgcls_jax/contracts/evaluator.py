"""Collects a network's outputs for every example of a split on the host, and checks them.

Evaluators that need all examples at once share this. The network runs in evaluation mode, on images after
data.eval_transforms: no statistics move, nothing is random.

An evaluator's file may export check(splits, options, task), which is called before the first step: it raises
ValueError where the splits cannot be measured so. `splits` are {keyword: SplitFacts} of the keywords that end
in "split", `options` all keyword arguments of `make`.

An evaluator may return its metrics as `Measured`, which carries what pictures are drawn from: the trackers of
train.loggers receive those.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

Predict = Callable[[Any, Any, dict[str, jax.Array]], dict[str, jax.Array]]
OpenSplit = Callable[[str], Iterable[dict[str, jax.Array]]]
Examples = dict[str, np.ndarray]
MAX_MISTAKES, MAX_EMBEDDED = 24, 2000  # held out for pictures


class Mistakes(NamedTuple):
    """Examples that a network gets wrong, the surest first.

    Attributes:
      example: integer [M], positions in the split.
      label, predicted: integer [M] in [0, K).
      confidence: float [M] in [0, 1], of what is predicted.
    """

    example: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray


class Shown(NamedTuple):
    """What pictures of an evaluation are drawn from.

    Attributes:
      split: that was measured.
      mistakes: None where there are none, or positions are not known.
      embedding, label: float [N, D] and integer [N]; None where none are computed.
    """

    split: str
    mistakes: Mistakes | None = None
    embedding: np.ndarray | None = None
    label: np.ndarray | None = None


class Measured(dict[str, Any]):
    """The metrics of an evaluation, and what pictures of it are drawn from.

    Args:
      metrics: as of any evaluator.
      shown: no part of them.
    """

    def __init__(self, metrics: Mapping[str, Any], shown: Shown):
        super().__init__(metrics)
        self.shown = shown


def embedded(split: str, examples: Examples) -> Shown:
    """Returns evenly chosen examples of a split, at most MAX_EMBEDDED, with "embedding" and "label"."""
    chosen = slice(None, None, -(-len(examples["label"]) // MAX_EMBEDDED))
    return Shown(split, None, examples["embedding"][chosen], examples["label"][chosen])


class SplitFacts(NamedTuple):
    """What is known of a split before any of its images is read.

    Attributes:
      name: of the split.
      num_examples: N.
      class_names: of its labels.
      class_counts: examples of each class; () where that is not known, and where an image has several labels.
      multi_label: whether labels are [N, K], of 0 and 1.
      files: returns the paths of its image files; none where the images are no files.
    """

    name: str
    num_examples: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    multi_label: bool
    files: Callable[[], Collection[str]] = frozenset


def check_labels(given_multi_label: bool, *, multi_label: bool) -> None:
    """Raises ValueError for labels [B] in a multi-label evaluator, and for labels [B, K] in any other."""
    if given_multi_label != multi_label:
        one, any_number = "one label an image", "any number of labels an image"
        measured, given = (any_number, one) if multi_label else (one, any_number)
        other = "classification" if multi_label else "multilabel"
        raise ValueError(f"this evaluator measures {measured}, and the data give {given}: use {other!r}")


def check_splits(splits: Mapping[str, SplitFacts], *, multi_label: bool = False) -> None:
    """Raises ValueError for a split without an example, and for one of the other kind of labels."""
    for field, split in splits.items():
        if not split.num_examples:
            raise ValueError(f"{field} = {split.name!r} has no example")
        check_labels(split.multi_label, multi_label=multi_label)


def check_known(field: str, split: SplitFacts, num_classes: int) -> None:
    """Raises ValueError for a split of classes that the network does not know, where its predictions are
    compared with labels."""
    if len(split.class_names) != num_classes:
        raise ValueError(
            f"{field} = {split.name!r} has {len(split.class_names)} classes, and the network knows "
            f"{num_classes}: name a split of those"
        )


def check_shared_classes(field: str, split: SplitFacts, fitted: SplitFacts) -> None:
    """Raises ValueError where no class of a split occurs in the one that is fitted on."""
    own, other = split.class_counts, fitted.class_counts
    if own and other and not any(a and b for a, b in zip(own, other, strict=False)):
        raise ValueError(
            f"no class of split = {split.name!r} is in {field} = {fitted.name!r}: name splits of the same "
            "classes"
        )


def make_collector(
    columns: Predict, open_split: OpenSplit, *, multi_label: bool | None = False
) -> Callable[[Any, Any, str], Examples]:
    """Returns the function (params, objective_state, split) -> Examples, the same on every process.

    Args:
      columns: (params, objective_state, batch) -> {name: array [B, ...]}, traced: the values to keep for each
        example. Float columns must be finite.
      open_split: split -> its batches, each example once, with label int [B, ...] and mask bool [B].
      multi_label: whether labels must be [B, K], of 0 and 1, and not [B]; None for either.

    Returns:
      A function to {name: array [N, ...]}, a row an example in the split's order, with "label" among them.
    """

    @jax.jit
    def kept(params: Any, objective_state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return columns(params, objective_state, batch) | {"label": batch["label"], "mask": batch["mask"]}

    def collect(params: Any, objective_state: Any, split: str) -> Examples:
        """Raises ValueError where no example could be read or the labels are of the other kind, and
        FloatingPointError for a NaN or an infinity."""
        parts = []
        for batch in open_split(split):
            if multi_label is not None:
                check_labels(batch["label"].ndim == 2, multi_label=multi_label)
            part = multihost_utils.process_allgather(kept(params, objective_state, batch), tiled=True)
            mask = part.pop("mask")
            parts.append({name: column[mask] for name, column in part.items()})
        if not sum(len(part["label"]) for part in parts):
            raise ValueError(f"no example of the split {split!r} could be read: nothing to evaluate")
        examples = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for name, column in examples.items():
            if column.dtype.kind == "f" and not np.isfinite(column).all():
                raise FloatingPointError(
                    f"{name} of the split {split!r} holds a NaN or an infinity: the network has diverged"
                )
        return examples

    return collect


def embedding(predict: Predict) -> Predict:
    """Returns the columns of a collector that keeps the embeddings, float32 [N, D]."""

    def columns(params: Any, objective_state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"embedding": predict(params, objective_state, batch)["embedding"].astype(jnp.float32)}

    return columns
