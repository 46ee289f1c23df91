"""Rankings of resampled examples against scikit-learn on the examples drawn."""

import numpy as np
import pytest

from imgcls_jax.metrics.ranking import mean_of_known, ranking, resampled_ranking


@pytest.mark.parametrize("decimals", [1, 9])  # with ties, and without
@pytest.mark.parametrize("ignores", [False, True])
def test_against_ranking(decimals, ignores):
    rng = np.random.default_rng(0)
    truth = rng.uniform(size=(60, 4)) < (0.5, 0.2, 0.0, 0.9)
    scores = np.round(rng.uniform(size=(60, 4)) + 0.3 * truth, decimals)
    ignored = rng.uniform(size=(60, 4)) < 0.2 if ignores else None
    means = resampled_ranking(truth, scores, ignored)
    for counts in (np.ones(60, int), rng.multinomial(60, np.full(60, 1 / 60))):
        drawn = np.repeat(np.arange(60), counts)
        expected = ranking(truth[drawn], scores[drawn], None if ignored is None else ignored[drawn])
        for name, value in means(counts).items():
            assert value == pytest.approx(mean_of_known(expected[name]), abs=1e-12)


def test_where_nothing_is_ranked():
    means = resampled_ranking(np.zeros((3, 2), bool), np.zeros((3, 2)), np.ones((3, 2), bool))
    assert means(np.ones(3, int)) == {"roc_auc": None, "average_precision": None}
