"""Confident learning by hand, and against a known share of wrong labels."""

import numpy as np
import pytest

from imgcls_jax.data.label_errors import find_label_errors

# Thresholds: of class 0 the mean of .9, .8, .1 = .6; of class 1 of .7, .6, .2 = .5; class 2 has no image.
P = np.array(
    [[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.6, 0.3], [0.3, 0.7, 0.0], [0.4, 0.6, 0.0], [0.7, 0.2, 0.1]]
)
LABELS = np.array([0, 0, 0, 1, 1, 1])


def test_by_hand():
    found = find_label_errors(P, LABELS)
    np.testing.assert_allclose(found.thresholds, [0.6, 0.5, np.inf])
    assert found.likely.tolist() == [0, 0, 1, 1, 1, 0]
    assert found.counts.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert found.suspects.tolist() == [2, 5]  # p of the given label .1 and .2


def test_what_reaches_no_threshold_counts_nowhere():
    p = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.45, 0.55]])
    found = find_label_errors(p, np.array([0, 0, 1, 1]))  # thresholds .7 and .725
    assert found.likely.tolist() == [0, -1, 1, -1] and found.counts.sum() == 2
    assert not len(found.suspects)


def test_of_two_classes_above_their_thresholds_the_more_probable_counts():
    """Thresholds are means: of a rare class, low; the largest p among those that reach them decides."""
    p = np.array([[0.3, 0.7], [0.55, 0.45], [0.5, 0.5]])
    found = find_label_errors(p, np.array([0, 1, 1]))  # thresholds .3 and .475
    assert found.likely.tolist() == [1, 0, 0]  # the first and last pass both; of equal ones the first class
    assert found.suspects.tolist() == [0, 1, 2]  # p of the given label .3, .45, .5


@pytest.mark.parametrize("seed", range(3))
def test_wrong_labels_are_found(seed):
    """Networks that know the truth: three of four suspects are wrong labels, and nine of ten are suspects."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, 2000)
    wrong = rng.random(2000) < 0.1
    labels = np.where(wrong, (truth + rng.integers(1, 5, 2000)) % 5, truth)
    logits = rng.normal(size=(2000, 5)) + 4 * (np.arange(5) == truth[:, None])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    suspects = find_label_errors(p, labels).suspects
    assert wrong[suspects].mean() > 0.9 and wrong[suspects].sum() > 0.75 * wrong.sum()
    assert (np.diff(p[suspects, labels[suspects]]) >= 0).all()
