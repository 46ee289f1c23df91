"""Choices of examples: which indices of a data set to take, and the source that holds those alone.

Every choice depends on the labels and a seed alone, so it is the same on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from imgcls_jax.data.source import GatheringSource, Indices, Source


def shuffled_in_classes(labels: Indices, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the examples sorted by class and shuffled within each, and the rank of each in its class."""
    order = np.lexsort([np.random.PCG64(seed).random_raw(len(labels)), np.asarray(labels)])
    counts = np.unique(labels, return_counts=True)[1]
    return order, np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)


def stratified_split(labels: Indices, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits N examples at random, class by class.

    Of n examples of a class floor(n * fraction + 1/2) are held out.

    Args:
        labels: integers [N]; constant labels give a plain random split.
        fraction: part to hold out, in (0, 1).
        seed: non-negative integer; the same labels, fraction and seed give the same split everywhere.

    Returns:
        (train_indices, test_indices): int64, sorted, disjoint, together 0..N-1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the held-out fraction must lie between 0 and 1 (both excluded), got {fraction}")
    # Raw PCG64 words, because numpy does not promise that permutation() stays the same across versions.
    counts = np.unique(labels, return_counts=True)[1]
    order, rank_in_class = shuffled_in_classes(labels, seed)
    held_out = np.floor(np.round(counts * fraction, 9) + 0.5)  # 45 * 0.7 is 31.4999... where 31.5 is meant
    is_test = rank_in_class < np.repeat(held_out, counts)
    return np.sort(order[~is_test]), np.sort(order[is_test])


def balanced_subset(labels: Indices, per_class: int, seed: int) -> np.ndarray:
    """Chooses the same number of examples of every class at random.

    Args:
        labels: integers [N].
        per_class: how many of each class that occurs, at least 1.
        seed: non-negative integer; the same labels, number and seed give the same choice everywhere, and a
            larger number keeps all that a smaller one chose.

    Returns:
        int64 [per_class * K], sorted.

    Raises:
        ValueError: a class has fewer examples.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if per_class < 1 or counts.min() < per_class:
        raise ValueError(
            f"class {classes[counts.argmin()]} has {counts.min()} examples; cannot choose {per_class} of each"
        )
    order, rank_in_class = shuffled_in_classes(labels, seed)
    return np.sort(order[rank_in_class < per_class])


def long_tailed_subset(labels: Indices, factor: float, seed: int) -> np.ndarray:
    """Makes a data set long-tailed: class sizes fall exponentially from the first class to the last.

    Eq.: n_c = floor(n factor^(-c / (K - 1))), n the size of the largest class, so that the first class has
    factor times as many as the last (Cui et al. 2019, arXiv:1901.05555); a class that has fewer keeps all.

    Args:
        labels: integers [N] in [0, K), K at least 2.
        factor: at least 1.
        seed: non-negative integer; a larger factor keeps a part of what a smaller one keeps.

    Returns:
        int64 [n], sorted.

    Raises:
        ValueError: factor is below 1, or leaves a class without examples.
    """
    if factor < 1:
        raise ValueError(f"an imbalance factor is at least 1; got {factor}")
    counts = np.bincount(labels)
    sizes = np.floor(counts.max() * float(factor) ** (-np.arange(len(counts)) / max(len(counts) - 1, 1)))
    if np.minimum(sizes, counts).min() < 1:
        raise ValueError(
            f"an imbalance factor of {factor} leaves one of {len(counts)} classes without examples"
        )
    order, rank_in_class = shuffled_in_classes(labels, seed)
    return np.sort(order[rank_in_class < sizes[np.asarray(labels)[order]]])


def oversampled(labels: Indices) -> np.ndarray:
    """Repeats the examples of smaller classes until each has as many as the largest.

    Args:
        labels: integers [N].

    Returns:
        int64 [n], class by class; an example comes as often as any other of its class, to within one.
    """
    labels = np.asarray(labels)
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    largest = max(len(own) for own in members)
    return np.concatenate([np.resize(own, largest) for own in members])


def grouped(order: Indices, labels: Indices, size: int) -> np.ndarray:
    """Reorders an epoch so that images of a class follow each other in groups.

    A group takes the next examples of its class in `order`, and stands where its first one stood among the
    others. What remains of each class, fewer than a group, comes last.

    Args:
        order: integers [N], of a shuffle.
        labels: integers [n], indexed by `order`.
        size: of a group, at least 1.

    Returns:
        int64 [N], the entries of `order`.
    """
    own = np.asarray(labels)[order]
    by_class = np.argsort(own, kind="stable")
    starts, counts = (found[own[by_class]] for found in _runs(own))
    rank = np.arange(len(own)) - starts
    leader = rank - rank % size
    whole = leader + size <= counts
    return np.asarray(order)[by_class[np.lexsort((rank, by_class[starts + leader], ~whole))]]


def _runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each class begins once labels are sorted, and how many it has."""
    counts = np.bincount(labels)
    return np.cumsum(counts) - counts, counts


class Subset:
    """A source that holds some elements of another.

    Args:
        source: the other one.
        indices: integers [n] into it.
    """

    def __init__(self, source: Source, indices: Indices) -> None:
        self.source, self.indices = source, np.asarray(indices)
        self.class_names = source.class_names
        self.labels = None if source.labels is None else source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.indices[index])]

    def describe(self, index: int) -> str:
        return self.source.describe(int(self.indices[index]))


class GatheredSubset(Subset):
    """A subset of a source in memory, which gathers whole batches."""

    source: GatheringSource

    def gather(self, indices: Indices) -> dict[str, np.ndarray]:
        """Returns the source's columns for integer indices [B] into the subset."""
        return self.source.gather(self.indices[indices])


def subset(source: Source, indices: Indices) -> Subset:
    """Returns a source that holds the elements `indices` of another."""
    return (GatheredSubset if hasattr(source, "gather") else Subset)(source, indices)


class WithoutImages:
    """A source whose examples are another's labels alone.

    Args:
        source: the other one, whose labels are known without reading an example.
    """

    def __init__(self, source: Source) -> None:
        if source.labels is None:
            raise ValueError("the source does not know its labels without reading each example")
        self.source, self.labels, self.class_names = source, source.labels, source.class_names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"label": np.int32(self.labels[index])}

    def gather(self, indices: Indices) -> dict[str, np.ndarray]:
        """Returns {"label": int32 [B], or [B, K]} for integer indices [B]."""
        return {"label": self.labels[indices].astype(np.int32)}

    def describe(self, index: int) -> str:
        return self.source.describe(index)


class Relabeled(Subset):
    """A subset whose classes come in another order.

    Args:
        subset: what it holds.
        order: a permutation of the classes 0..K-1; order[i] is the class that becomes i.
    """

    def __init__(self, subset: Subset, order: Indices) -> None:
        super().__init__(subset.source, subset.indices)
        self._label_of = np.argsort(order).astype(np.int32)
        self.class_names = tuple(subset.class_names[old] for old in order)
        self.labels = None if subset.labels is None else self._label_of[subset.labels]

    def __getitem__(self, index: int) -> dict[str, Any]:
        element = super().__getitem__(index)
        return element | {"label": self._label_of[element["label"]]}


class GatheredRelabeled(Relabeled, GatheredSubset):
    """The same of a source in memory."""

    def gather(self, indices: Indices) -> dict[str, np.ndarray]:
        """Returns the source's columns for integer indices [B] into the subset."""
        found = super().gather(indices)
        return found | {"label": self._label_of[found["label"]]}


def relabeled(subset: Subset, order: Indices) -> Subset:
    """Returns a subset whose classes come in the order given; itself where that is theirs."""
    if np.array_equal(order, np.arange(len(order))):
        return subset
    return (GatheredRelabeled if isinstance(subset, GatheredSubset) else Relabeled)(subset, order)
