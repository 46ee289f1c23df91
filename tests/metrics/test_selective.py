"""Selective prediction by hand."""

import numpy as np
import pytest

from imgcls_jax.metrics.selective import MEASURES, risk_coverage, risks, selective


def test_by_hand():
    confidence = np.array([0.6, 0.9, 0.8, 0.7])
    hits = np.array([False, True, False, True])  # by confidence: right, wrong, right, wrong
    np.testing.assert_allclose(risks(confidence, hits), [0, 1 / 2, 1 / 3, 2 / 4])
    found = selective(confidence, hits)
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert found["accuracy_at_coverage_50"] == 0.5  # of two images
    assert found["accuracy_at_coverage_80"] == 0.5  # 3.2 are four
    assert tuple(found) == MEASURES
    curve = risk_coverage(confidence, hits)
    np.testing.assert_allclose(curve["coverage"], [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve["risk"], risks(confidence, hits))


def test_the_best_and_the_worst_order():
    """With e errors of N the least AURC has all errors last, the greatest all first."""
    hits = np.arange(10) < 7
    order = np.linspace(1, 0.1, 10)
    best, worst = selective(order, hits)["aurc"], selective(-order, hits)["aurc"]
    assert best == pytest.approx(np.mean([0] * 7 + [1 / 8, 2 / 9, 3 / 10]))
    assert worst == pytest.approx(np.mean([1, 1, 1, 3 / 4, 3 / 5, 3 / 6, 3 / 7, 3 / 8, 3 / 9, 3 / 10]))
    assert selective(order, hits)["accuracy_at_coverage_50"] == 1


def test_the_same_confidence_is_no_order():
    hits = np.array([True] * 6 + [False] * 4)
    for own in (hits, hits[::-1]):
        found = selective(np.full(10, 0.5), own)
        np.testing.assert_allclose(list(found.values()), [0.4, 0.6, 0.6, 0.6, 0.6])


def test_a_long_curve_is_thinned_and_ends_with_all():
    rng = np.random.default_rng(0)
    hits = rng.uniform(size=12_345) < 0.8
    curve = risk_coverage(rng.uniform(size=12_345), hits)
    assert len(curve["coverage"]) == len(curve["risk"]) == 100
    assert curve["coverage"][-1] == 1 and curve["risk"][-1] == pytest.approx(1 - hits.mean())
