"""Cross-validation: which fold of the training split each example belongs to.

A fold depends on labels, groups and a seed alone, so it is the same on every machine, and whatever else the
section `data` chooses of the training split.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from imgcls_jax.data.subsets import shuffled_in_classes

Labels = np.ndarray | None


def fold_numbers(source: Any, folds: int, seed: int) -> np.ndarray:
    """Shares out the examples of a source among folds.

    Examples are shuffled within each stratum and dealt one after the other, so fold sizes differ by at most
    1, over all and in each stratum. A stratum is a class; a set of labels, where an image has several; all
    examples, where the source does not know its labels. Where the source has `groups`, groups stay whole:
    from the largest on, each goes to the fold in which its strata are rarest so far.

    Args:
        source: of N examples, with `labels` and perhaps `groups`, integers [N].
        folds: at least 2.
        seed: non-negative integer.

    Returns:
        int64 [N], in [0, folds).

    Raises:
        ValueError: fewer examples, or groups, than folds.
    """
    strata, groups = _strata(source.labels, len(source)), getattr(source, "groups", None)
    if groups is not None:
        return _whole_groups(strata, np.asarray(groups), folds, seed)
    if len(source) < folds:
        raise ValueError(f"{len(source)} examples do not make {folds} folds")
    numbers = np.empty(len(source), np.int64)
    numbers[shuffled_in_classes(strata, seed)[0]] = np.arange(len(source)) % folds
    return numbers


def how(source: Any) -> str:
    """Returns by what the folds of a source are stratified, for the log."""
    labels = source.labels
    by = (
        "at random" if labels is None else f"stratified by {'class' if labels.ndim == 1 else 'set of labels'}"
    )
    return by if getattr(source, "groups", None) is None else f"{by}, groups kept whole"


def _strata(labels: Labels, count: int) -> np.ndarray:
    """Returns the stratum of each example, int64 [N] from 0 on."""
    if labels is None:
        return np.zeros(count, np.int64)
    return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)


def _whole_groups(strata: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Returns fold numbers [N] that are the same within each group."""
    group = np.unique(groups, return_inverse=True)[1]
    sizes, totals = np.bincount(group), np.bincount(strata)
    if len(sizes) < folds:
        raise ValueError(f"{len(sizes)} groups do not make {folds} folds")
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    held, examples = np.zeros((folds, len(totals))), np.zeros(folds)
    numbers = np.empty(len(strata), np.int64)
    for chosen in np.lexsort([np.random.PCG64(seed).random_raw(len(sizes)), -sizes]):
        own = members[chosen]
        present, counts = np.unique(strata[own], return_counts=True)
        # What this group adds to the sum of squared shares of its strata, and of all examples, in a fold.
        cost = held[:, present] @ (counts / totals[present]) + examples * (len(own) / len(strata))
        fold = int(np.argmin(cost))
        held[fold, present] += counts
        examples[fold] += len(own)
        numbers[own] = fold
    return numbers
