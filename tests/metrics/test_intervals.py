"""Bootstrap intervals against scipy's, the binomial law, and repeated sampling."""

import numpy as np
import pytest
from scipy import stats

from imgcls_jax.metrics.intervals import check_resamples, intervals, of_means


def test_against_scipy_and_the_binomial_law():
    """A resampled accuracy is a binomial number divided by N."""
    hits = np.arange(400) % 4 > 0
    found = of_means({"accuracy": hits, "half": np.full(400, 0.5)}, resamples=4000)
    theirs = stats.bootstrap(
        (hits,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    np.testing.assert_allclose(found["accuracy"], theirs, atol=0.004)
    np.testing.assert_allclose(
        found["accuracy"], stats.binom(400, 0.75).ppf([0.025, 0.975]) / 400, atol=0.003
    )
    assert found["half"] == [0.5, 0.5]


def test_they_hold_what_they_should_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = of_means({"mean": rng.uniform(size=100) < 0.7}, resamples=300)["mean"]
        inside += low <= 0.7 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_a_measure_that_not_every_resample_has():
    def measure(counts):
        return {"first": 1.0 if counts[0] else None, "never": None}

    found = intervals(measure, 3, resamples=100)
    assert found == {"first": [1.0, 1.0], "never": None}


def test_the_same_seed_gives_the_same_and_another_another():
    column = {"mean": np.random.default_rng(0).normal(size=50)}
    assert of_means(column, resamples=100) == of_means(column, resamples=100)

    def mean(counts):
        return {"mean": counts @ column["mean"] / 50}

    assert intervals(mean, 50, resamples=100, seed=1) != intervals(mean, 50, resamples=100)


@pytest.mark.parametrize("resamples", [-1, 1, 99, 100_001])
def test_a_number_of_resamples_that_does_not_serve(resamples):
    with pytest.raises(ValueError, match="knn: bootstrap is 0, .* or a number of resamples from 100"):
        check_resamples("knn", resamples)
    check_resamples("knn", 0)
