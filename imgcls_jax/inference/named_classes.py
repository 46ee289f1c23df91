"""Which classes a network names for an image: by rank, by threshold, or none, where it is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

THRESHOLD = 0.5  # of each label, where an image has any number of them


def named_classes(
    row: np.ndarray,
    class_names: Sequence[str],
    top_k: int | None,
    *,
    threshold: float = 0.0,
    unknown_below: float = 0.0,
) -> list[dict[str, Any]]:
    """Returns [{"class", "probability"}, ...], the likeliest first.

    Args:
      row: probabilities, float [K].
      class_names: K names.
      top_k: how many, at most K; None for all.
      threshold: a class of a lower probability is not named; there may be none.
      unknown_below: where even the largest probability is below this, no class is named.
    """
    best = np.argsort(-row, kind="stable")[:top_k] if row.max() >= unknown_below else ()
    return [{"class": class_names[k], "probability": float(row[k])} for k in best if row[k] >= threshold]


def chosen_by(top_k: int | None, threshold: float | None, *, multi_label: bool) -> tuple[int | None, float]:
    """Returns the largest number of classes to name, None for all, and the least probability of each.

    Args:
      top_k, threshold: as the command line has them; None where it does not.
      multi_label: whether an image has any number of labels.
    """
    if threshold is None:
        threshold = THRESHOLD if multi_label and top_k is None else 0.0
        return top_k if multi_label else top_k or 1, threshold
    return top_k, threshold
