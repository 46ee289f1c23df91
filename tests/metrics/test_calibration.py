"""Temperature scaling against its closed form with two classes, and what it may not change."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from imgcls_jax.metrics.calibration import best_temperature, calibration, cross_entropy


@pytest.mark.parametrize("right", [99, 75, 60])
def test_two_classes_in_closed_form(right):
    """All logits are +-2, and `right` of 100 have the right sign: sigmoid(4 / T) is the smoothed accuracy."""
    labels = np.arange(100) % 2
    sign = np.where(np.arange(100) < right, 1, -1) * np.where(labels == 1, 1, -1)
    logits = 2.0 * sign[:, None] * np.array([-1, 1])
    smoothing = 1 / 101
    accuracy = (1 - smoothing) * right / 100 + smoothing / 2
    expected = 4 / np.log(accuracy / (1 - accuracy))
    assert best_temperature(logits, labels) == pytest.approx(expected, rel=1e-3)


def test_the_temperature_of_those_who_drew_the_labels_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 2
    cumulative = softmax(logits, axis=1).cumsum(axis=1)
    labels = np.sum(rng.uniform(size=(20_000, 1)) > cumulative, axis=1)
    assert best_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)
    scaled = logits * 3 / best_temperature(logits * 3, labels)
    assert cross_entropy(scaled, labels).mean() < cross_entropy(logits * 3, labels).mean()
    before, after = (
        calibration(own.max(axis=1), own.argmax(axis=1) == labels, bins=15)[1]
        for own in (softmax(logits * 3, axis=1), softmax(scaled, axis=1))
    )
    assert after < 0.02 < 0.1 < before


def test_without_an_error_the_temperature_stays_finite():
    labels = np.arange(60) % 3
    logits = np.eye(3)[labels]
    temperature = best_temperature(logits, labels)
    assert 0.05 < temperature < 1 and softmax(logits / temperature, axis=1).max() < 1 - 1e-4


def test_cross_entropy_is_scikit_learns():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    expected = log_loss(labels, softmax(logits, axis=1), labels=range(4))
    assert cross_entropy(logits, labels).mean() == pytest.approx(expected)
    assert np.isfinite(cross_entropy(np.array([[1e4, -1e4]], np.float32), np.array([1]))).all()
