"""Whether one of two classifiers is better, from what both say of the same images.

McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages":
images on which both are right, or both wrong, say nothing; where one alone is right, either is equally likely
to be if both are equally good. The test is the exact one, by the binomial distribution, two-sided. It asks
about these two networks, not about their methods: another seed makes another network.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, norm

from imgcls_jax.metrics.intervals import CONFIDENCE


class Paired(NamedTuple):
    """Two classifiers on the same images.

    Attributes:
      first_alone, second_alone: images that one alone gets right.
      p_value: of McNemar's exact test, in (0, 1].
      difference: of the accuracies, first less second, in [-1, 1].
      low, high: its interval at 95 %.
    """

    first_alone: int
    second_alone: int
    p_value: float
    difference: float
    low: float
    high: float


def paired(first: np.ndarray, second: np.ndarray) -> Paired:
    """Compares two classifiers.

    The interval is the adjusted Wald interval of Bonett and Price 2012 ("Adjusted Wald Confidence Interval
    for a Difference of Binomial Proportions Based on Paired Data"): p = (n + 1) / (N + 2) for either kind of
    disagreement, and p_1 - p_2 +- z sqrt((p_1 + p_2 - (p_1 - p_2)^2) / (N + 2)). It is one of a width above
    0 even where the two never disagree.

    Args:
      first, second: bool [N], whether each is right about an image, N at least 1.
    """
    alone = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    disagreements, examples = sum(alone), len(first)
    p_value = float(binomtest(alone[0], disagreements).pvalue) if disagreements else 1.0
    one, other = ((count + 1) / (examples + 2) for count in alone)
    width = norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt((one + other - (one - other) ** 2) / (examples + 2))
    bounds = (max(float(one - other - width), -1.0), min(float(one - other + width), 1.0))
    return Paired(*alone, p_value, (alone[0] - alone[1]) / examples, *bounds)
