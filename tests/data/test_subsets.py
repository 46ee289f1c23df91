"""imgcls_jax.data.subsets: what each choice of examples holds, and that a seed fixes it."""

import numpy as np
import pytest

from imgcls_jax.data.subsets import grouped, long_tailed_subset, oversampled, stratified_split

# ---- stratified_split


def test_split_rounds_each_class_and_is_disjoint():
    labels = np.random.default_rng(0).permutation(np.repeat([3, 5, 9], [10, 7, 1]))
    train, test = stratified_split(labels, 0.25, seed=4)
    assert sorted([*train, *test]) == list(range(18))
    assert (np.diff(train) > 0).all() and (np.diff(test) > 0).all()
    assert [int((labels[test] == name).sum()) for name in (3, 5, 9)] == [3, 2, 0]  # 2.5, 1.75, 0.25


def test_split_is_pinned_and_depends_on_the_seed():
    labels = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert stratified_split(labels, 0.4, seed=0)[1].tolist() == [2, 3, 6, 8]
    assert len({tuple(stratified_split(labels, 0.4, seed=seed)[1]) for seed in range(8)}) > 4


def test_split_rounds_exactly_where_binary_fractions_do_not():
    assert len(stratified_split(np.zeros(45), 0.7, seed=0)[1]) == 32  # 31.5, though 45 * 0.7 < 31.5


def test_split_gives_the_counts_of_the_random_cub_protocol():
    train, test = stratified_split(np.zeros(11788), 1191 / 11788, seed=0)
    assert (len(train), len(test)) == (10597, 1191)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_split_refuses_fractions_outside(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_split([0, 1], fraction, seed=0)


# ---- long_tailed_subset, oversampled


def test_the_long_tail_falls_exponentially():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [1000, 1000, 1000, 1000, 90]))
    kept = long_tailed_subset(labels, 100, seed=0)
    assert np.bincount(labels[kept]).tolist() == [1000, 316, 100, 31, 10]
    assert (np.diff(kept) > 0).all()
    milder = long_tailed_subset(labels, 10, seed=0)
    assert np.bincount(labels[milder]).tolist() == [1000, 562, 316, 177, 90]  # the last has no more
    assert set(kept) <= set(milder) and set(kept) != set(long_tailed_subset(labels, 100, seed=1))
    assert long_tailed_subset(labels, 1, seed=0).tolist() == list(range(len(labels)))
    for factor in (0.5, 2000):
        with pytest.raises(ValueError, match="imbalance factor"):
            long_tailed_subset(labels, factor, seed=0)


def test_oversampling_evens_the_classes():
    labels = np.array([0, 1, 0, 0, 2, 0, 0, 1])
    indices = oversampled(labels)
    assert np.bincount(labels[indices]).tolist() == [5, 5, 5]
    assert np.bincount(indices).tolist() == [1, 3, 1, 1, 5, 1, 1, 2]


def test_groups_stand_where_their_first_example_stood():
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 2])
    # In this order the classes are 2 0 1 0 1 1 0 0.
    assert grouped([7, 2, 1, 0, 3, 5, 4, 6], labels, 2).tolist() == [2, 0, 1, 3, 4, 6, 7, 5]
    assert grouped([7, 2, 1, 0], labels, 1).tolist() == [7, 2, 1, 0]


def test_batches_hold_whole_groups():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 23))
    order = grouped(np.random.default_rng(1).permutation(230), labels, 4)
    assert sorted(order) == list(range(230))
    for batch in labels[order][:200].reshape(-1, 8):
        assert set(np.bincount(batch)) <= {0, 4, 8}
    assert np.bincount(labels[order][200:]).tolist() == [3] * 10
