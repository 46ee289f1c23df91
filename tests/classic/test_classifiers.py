"""Kernels by hand, and classifiers on drawn features."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.svm import LinearSVC

from imgcls_jax.classic import classifiers, kernels

A, B = np.array([[0.5, 0.5, 0.0]]), np.array([[0.25, 0.25, 0.5]])


def test_kernels_by_hand():
    assert kernels.intersection(A, B) == pytest.approx(0.5)
    assert kernels.chi_square(A, B) == pytest.approx(1 / 3)


def test_hellinger_by_hand():
    """The SVM reads roots: their product is sum sqrt(a b), and the mean norm of histograms is 1."""
    known = np.concatenate([A, A, B, B])
    represent = classifiers.fit("hellinger_svm", known, np.array([0, 0, 1, 1]), 2, seed=0).represent
    assert represent(A) @ represent(B).T == pytest.approx(0.70710678)


@pytest.mark.parametrize("kernel", [kernels.intersection, kernels.chi_square])
def test_kernels_of_several_rows(kernel):
    rng = np.random.default_rng(0)
    a, b = rng.random((4, 6)), rng.random((3, 6))
    one_by_one = [[float(kernel(x[None], y[None])[0, 0]) for y in b] for x in a]
    np.testing.assert_allclose(kernel(a, b), one_by_one)
    np.testing.assert_allclose(kernel(a, b), kernel(b, a).T)


def histograms_of(rng, count, classes=3, length=40):
    """Returns histograms with a bump where the class says, and labels."""
    labels = np.arange(count) % classes
    rows = rng.random((count, length)) ** 3
    rows[np.arange(count), labels * 2] += 2 * rng.random(count)
    return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("name", classifiers.NAMES)
@pytest.mark.parametrize("classes", [2, 3])
def test_each_classifier_learns(monkeypatch, name, classes):
    monkeypatch.setattr(classifiers, "TREES", 30)
    rng = np.random.default_rng(0)
    rows, labels = histograms_of(rng, 90, classes)
    asked, truth = histograms_of(rng, 60, classes)
    fitted = classifiers.fit(name, rows, labels, classes, seed=0)
    logits = fitted.logits(asked)
    assert logits.shape == (60, classes) and logits.dtype == np.float32
    assert np.mean(logits.argmax(axis=1) == truth) > 0.75
    if name == "forest":
        assert fitted.cost is fitted.accuracy is None
    else:
        assert fitted.cost in classifiers.COSTS and 0.6 < fitted.accuracy <= 1
    np.testing.assert_array_equal(logits, classifiers.fit(name, rows, labels, classes, seed=0).logits(asked))
    predicted = fitted.model.predict(fitted.represent(asked))
    assert np.mean(predicted == logits.argmax(axis=1)) > 0.95  # pairwise votes may tie


@pytest.mark.parametrize("name, shape", [("hellinger_svm", np.sqrt), ("linear_svm", np.asarray)])
def test_the_space_of_the_examples_keeps_every_product(name, shape):
    rng = np.random.default_rng(0)
    wide, labels = histograms_of(rng, 30, length=80)
    asked, _ = histograms_of(rng, 10, length=80)
    represent = classifiers.fit(name, wide, labels, 3, seed=0).represent
    assert represent(wide).shape == (30, 30)
    scale = np.linalg.norm(shape(wide), axis=1).mean() ** 2
    np.testing.assert_allclose(
        represent(asked) @ represent(wide).T, shape(asked) @ shape(wide).T / scale, rtol=1e-4
    )
    narrow = classifiers.fit(name, wide[:, :20], labels, 3, seed=0).represent(asked[:, :20])
    assert narrow.shape == (10, 20)


def test_cross_validation_sees_no_held_out_label():
    """Labels that say nothing are not learned by heart."""
    rng = np.random.default_rng(0)
    rows, labels = rng.random((120, 200)).astype(np.float32), rng.permutation(np.arange(120) % 4)
    for name in ("linear_svm", "rbf_svm", "intersection_svm"):
        fitted = classifiers.fit(name, rows, labels, 4, seed=0)
        assert fitted.accuracy < 0.45
        assert fitted.temperature > 1  # and nobody is sure


def test_the_temperature_minimizes_the_cross_entropy():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    values = 7 * (np.eye(3)[labels] + rng.normal(0, 0.8, (400, 3)))

    def loss(temperature):
        logarithms = log_softmax(values / temperature, axis=1)
        return -400 / 401 * logarithms[np.arange(400), labels].mean() - logarithms.mean() / 401

    best = classifiers.best_temperature(values, labels)
    assert loss(best) < min(loss(1.02 * best), loss(best / 1.02))


def test_separable_examples_are_not_beyond_doubt():
    values, labels = 5 * np.eye(2)[[0, 1] * 20], np.array([0, 1] * 20)
    sure = np.exp(log_softmax(values / classifiers.best_temperature(values, labels), axis=1)).max(axis=1)
    np.testing.assert_allclose(sure, 1 - 0.5 / 41, atol=1e-3)


def test_two_decision_values_are_the_sigmoid_of_their_difference():
    rows, labels = np.array([[-1.0], [-0.5], [0.5], [1.0]]), np.array([0, 0, 1, 1])
    model = LinearSVC().fit(rows, labels)
    values = classifiers.decide(model, rows)
    np.testing.assert_allclose(values[:, 1] - values[:, 0], model.decision_function(rows))


def test_what_is_refused(monkeypatch):
    rows, labels = histograms_of(np.random.default_rng(0), 12)
    with pytest.raises(
        ValueError, match="two classes and a training example of each; the 4 classes have 0 to 4"
    ):
        classifiers.fit("linear_svm", rows, labels, 4, seed=0)
    for name in classifiers.OF_HISTOGRAMS:
        with pytest.raises(ValueError, match=f"{name} compares histograms, and these features have negative"):
            classifiers.fit(name, rows - 1, labels, 3, seed=0)
    monkeypatch.setattr(classifiers, "MAX_KERNEL_ROWS", 11)
    with pytest.raises(ValueError, match="at most 11 of them; got 12: take linear_svm"):
        classifiers.fit("rbf_svm", rows, labels, 3, seed=0)


def test_a_class_of_one_example_has_no_cross_validation():
    rows, labels = histograms_of(np.random.default_rng(0), 4)
    fitted = classifiers.fit("linear_svm", rows, labels, 3, seed=0)
    assert (fitted.cost, fitted.temperature, fitted.accuracy) == (1.0, 1.0, None)
