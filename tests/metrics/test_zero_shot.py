"""Rates of seen and unseen classes, worked out by hand and by brute force."""

from types import SimpleNamespace

import numpy as np
import pytest

from imgcls_jax.metrics.zero_shot import (
    Scored,
    accuracy_among,
    class_mean,
    generalized,
    harmonic_mean,
    learned_classes,
    report,
    stacking_curve,
)

IS_SEEN = np.array([True, True, False, False])


def drawn(rows, labels, seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(labels, rows)
    return Scored(rng.normal(size=(rows, 4)) + 1.2 * np.eye(4)[labels] + [0.8, 0.8, 0, 0], labels)


SEEN, UNSEEN = drawn(60, [0, 1], 0), drawn(50, [2, 2, 2, 3], 1)


def test_means_over_classes_are_not_means_over_images():
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
    hits = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 1], bool)
    assert class_mean(hits, labels) == 0.75 and hits.mean() == 0.9
    assert class_mean(hits, labels + 5) == 0.75  # the classes that occur


def test_harmonic_mean():
    assert harmonic_mean(80, 20) == 32
    assert harmonic_mean(0, 0.7) == harmonic_mean(0.0, 0.0) == 0


def test_by_hand():
    unseen = Scored(np.array([[0.9, 0, 0.8, 0.1], [0, 0, 0.4, 0.5], [0.1, 0, 0, 0.6]]), np.array([2, 2, 3]))
    seen = Scored(np.array([[0.9, 0.1, 0.0, 0.0], [0.0, 0.5, 0.6, 0.0]]), np.array([0, 1]))
    assert accuracy_among(unseen, ~IS_SEEN) == 0.75  # of class 2 one of two, of class 3 its only one
    rates = generalized(seen, unseen, IS_SEEN)
    assert rates == {"unseen": 0.5, "seen": 0.5, "harmonic_mean": 0.5}
    # 0.2 off the learned classes: the first image of class 2 turns right, none of the others changes.
    assert generalized(seen, unseen, IS_SEEN, delta=0.2) == pytest.approx(
        {"unseen": 0.75, "seen": 0.5, "harmonic_mean": 0.6}
    )


def test_equal_scores_go_to_the_lowest_class():
    tied = Scored(np.zeros((4, 4)), np.arange(4))
    assert accuracy_among(Scored(tied.scores[2:], tied.labels[2:]), ~IS_SEEN) == 0.5
    rates = generalized(Scored(*(a[:2] for a in tied)), Scored(*(a[2:] for a in tied)), IS_SEEN)
    assert rates == {"unseen": 0.0, "seen": 0.5, "harmonic_mean": 0.0}


def test_the_curve_against_every_delta():
    curve = stacking_curve(SEEN, UNSEEN, IS_SEEN)
    points = []
    for low, high in zip([curve.deltas[0] - 1, *curve.deltas[:-1]], [*curve.deltas[:-1], 1e6], strict=True):
        rates = generalized(SEEN, UNSEEN, IS_SEEN, delta=(low + high) / 2)
        points.append((rates["unseen"], rates["seen"]))
    np.testing.assert_allclose(np.stack([curve.unseen, curve.seen], axis=1), points, atol=1e-12)
    u, s = np.array(points).T
    assert curve.area == pytest.approx(-np.trapezoid(u, s))
    assert (u[0], s[-1]) == (0, 0)
    assert (u[-1], s[0]) == (accuracy_among(UNSEEN, ~IS_SEEN), accuracy_among(SEEN, IS_SEEN))
    delta, best = curve.best()
    assert best == pytest.approx(max(map(harmonic_mean, u, s)))
    assert generalized(SEEN, UNSEEN, IS_SEEN, delta=delta)["harmonic_mean"] == pytest.approx(best)


def test_the_report():
    found = report(SEEN, UNSEEN, IS_SEEN, delta=0.3)
    assert (found["num_examples"], found["num_seen"]) == (50, 60)
    assert found["accuracy"] == accuracy_among(UNSEEN, ~IS_SEEN)
    for prefix, delta in (("generalized", 0.0), ("calibrated", 0.3)):
        for name, value in generalized(SEEN, UNSEEN, IS_SEEN, delta=delta).items():
            assert found[f"{prefix}_{name}"] == value
    assert found["best_harmonic_mean"] >= found["calibrated_harmonic_mean"]
    assert not any("calibrated" in name for name in report(SEEN, UNSEEN, IS_SEEN))


def test_splits_in_each_others_place_are_refused():
    with pytest.raises(ValueError, match="split of seen classes holds an image of class [23].*unknown:SPLIT"):
        report(UNSEEN, SEEN, IS_SEEN)
    beyond = Scored(SEEN.scores, np.full(60, 7))
    with pytest.raises(ValueError, match="split of unseen classes holds an image of class 7"):
        report(SEEN, beyond, IS_SEEN)


def test_which_classes_are_learned():
    task = SimpleNamespace(num_classes=3, class_counts=(4, 0, 2))
    np.testing.assert_array_equal(learned_classes(task), [True, False, True])
    for counts in ((), (4, 1, 2)):
        with pytest.raises(ValueError, match="all 3 classes of the run are learned"):
            learned_classes(SimpleNamespace(num_classes=3, class_counts=counts))
