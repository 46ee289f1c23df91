"""The learning-rate range test: its average, its end and its suggestions."""

import numpy as np
import pytest

from imgcls_jax.search import range_test
from imgcls_jax.search.space import parse


def test_the_average_is_corrected_for_its_start():
    found = range_test.smooth([1.0, 2.0, 4.0], beta=0.5)
    np.testing.assert_allclose(found, [1.0, 1.25 / 0.75, 2.625 / 0.875])
    np.testing.assert_allclose(range_test.smooth(np.full(50, 3.0)), 3.0)


def test_it_ends_where_the_loss_explodes():
    assert range_test.end_of(np.array([1.0, 0.5, 2.0, 2.1, 0.1])) == 3  # 2.0 is not above 4 x 0.5
    assert range_test.end_of(np.array([1.0, 3.9])) == 2


def test_suggestions():
    rate = np.logspace(-6, 1, 70_000)  # so many steps that the average does not lag
    power = np.log10(rate)
    loss = 2 - 1 / (1 + np.exp(-4 * (power + 3))) + np.where(power > -1, (power + 1) ** 2 * 20, 0)
    course = range_test.suggest(rate, loss)
    assert course.steepest == pytest.approx(1e-3, rel=0.05)
    assert course.before_least == pytest.approx(1e-2, rel=0.05)
    assert 0.1 < course.rate[-1] < 10 and len(course.loss) == len(course.rate)  # 4 x 1.0 is passed there
    assert "falls fastest at 0.001" in range_test.advice(course)
    falling = range_test.suggest(rate[:100], -np.arange(100.0))
    assert "It still falls at" in range_test.advice(falling)
    with pytest.raises(ValueError, match="has 4 steps before its loss explodes"):
        range_test.suggest(rate[:5], np.array([1.0, 1, 1, 1, 1e9]))


def test_a_range_test_has_one_rate():
    assert range_test.bounds(()) == (1e-7, 10.0)
    assert range_test.bounds([parse("optimizer.learning_rate", "log(1e-5, 1)")]) == (1e-5, 1)
    with pytest.raises(ValueError, match="takes one --space"):
        range_test.bounds([parse("optimizer.learning_rate", "uniform(0, 1)")])
    written = {"phases": {"head": {}}, "evals": {}}
    with pytest.raises(ValueError, match=r"--config\.phases\.head=none"):
        range_test.overrides(written, 0.1, 1, 5)
