"""McNemar's test by hand, its interval by repeated sampling."""

from math import comb

import numpy as np
import pytest

from imgcls_jax.metrics.paired import paired


def answers(both, first, second, neither):
    """Returns two columns with so many images of each kind."""
    one = np.repeat([True, True, False, False], [both, first, second, neither])
    other = np.repeat([True, False, True, False], [both, first, second, neither])
    return one, other


def test_by_hand():
    found = paired(*answers(80, 9, 2, 9))
    assert found[:2] == (9, 2)
    assert found.p_value == pytest.approx(2 * sum(comb(11, k) for k in range(3)) / 2**11)
    assert found.difference == pytest.approx(0.07)
    one, other = 10 / 102, 3 / 102
    width = 1.959964 * np.sqrt((one + other - (one - other) ** 2) / 102)
    assert (found.low, found.high) == pytest.approx((one - other - width, one - other + width))


def test_the_order_turns_the_sign_alone():
    one, other = answers(50, 12, 5, 3)
    found, turned = paired(one, other), paired(other, one)
    assert turned[:2] == found[1::-1] and turned.p_value == found.p_value
    assert (turned.difference, turned.low, turned.high) == pytest.approx(
        (-found.difference, -found.high, -found.low)
    )


def test_who_never_disagree_are_not_told_apart():
    found = paired(*answers(8, 0, 0, 2))
    assert found[:4] == (0, 0, 1.0, 0.0) and found.low < 0 < found.high
    assert paired(*answers(8, 3, 3, 2)).p_value == 1


def test_how_often_it_errs():
    """Of pairs that are equally good few are told apart; the interval holds the difference in 95 of 100."""
    rng = np.random.default_rng(0)
    told, inside = 0, 0
    for _ in range(400):
        kinds = rng.multinomial(200, [0.7, 0.1, 0.1, 0.1])
        told += paired(*answers(*kinds)).p_value < 0.05
        uneven = paired(*answers(*rng.multinomial(200, [0.7, 0.13, 0.07, 0.1])))
        inside += uneven.low <= 0.06 <= uneven.high
    assert told / 400 <= 0.06 and 0.92 <= inside / 400 <= 0.98
