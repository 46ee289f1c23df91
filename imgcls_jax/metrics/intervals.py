"""Confidence intervals by the bootstrap: how much a figure depends on which images happened to be measured.

Efron 1979, "Bootstrap Methods: Another Look at the Jackknife", with percentiles (Efron and Tibshirani 1993,
section 13.3): N examples are drawn from the N with replacement, the figure is measured on those drawn, and so
on many times. Examples are taken as independent of each other. What training would give with another seed is
not in such an interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.stats import binomtest

CONFIDENCE = 0.95
FEWEST, MOST = 100, 100_000  # resamples: fewer say nothing of a 40th part, more cost and change nothing

Interval = list[float] | None


def intervals(
    measure: Callable[[np.ndarray], Mapping[str, float | None]],
    num_examples: int,
    *,
    resamples: int,
    seed: int = 0,
) -> dict[str, Interval]:
    """Returns {name: [low, high]}, percentile intervals at 95 %.

    Args:
      measure: from how often each example counts, int64 [N], to figures by name; None where one is undefined.
      num_examples: N.
      resamples: how often N examples are drawn.
      seed: of the draws; the same draws serve all figures.

    Returns:
      An interval for each figure, of the resamples where it is defined; None where there is no such.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(resamples):
        counts = np.bincount(rng.integers(0, num_examples, num_examples), minlength=num_examples)
        for name, value in measure(counts).items():
            found.setdefault(name, []).extend([] if value is None else [float(value)])
    tail = (1 - CONFIDENCE) / 2
    return {
        name: np.quantile(values, (tail, 1 - tail)).tolist() if values else None
        for name, values in found.items()
    }


def of_means(columns: Mapping[str, np.ndarray], *, resamples: int) -> dict[str, Interval]:
    """Returns the intervals of the means of columns, {name: float or bool [N]}."""
    num_examples = len(next(iter(columns.values())))

    def means(counts: np.ndarray) -> dict[str, float]:
        return {name: float(counts @ column / num_examples) for name, column in columns.items()}

    return intervals(means, num_examples, resamples=resamples)


def of_share(count: int, num_examples: int) -> list[float]:
    """Returns Wilson's interval of a share at 95 % (Wilson 1927): [low, high].

    Args:
      count: examples that have a property, in 0..num_examples.
      num_examples: N, at least 1.
    """
    found = binomtest(count, num_examples).proportion_ci(CONFIDENCE, method="wilson")
    return [float(found.low), float(found.high)]


def check_resamples(evaluator: str, resamples: int) -> None:
    """Raises ValueError for a field `bootstrap` that is neither 0 nor a number of resamples that serves."""
    if resamples and not FEWEST <= resamples <= MOST:
        raise ValueError(
            f"{evaluator}: bootstrap is 0, for no intervals, or a number of resamples from {FEWEST} to "
            f"{MOST:,}, such as 1000; got {resamples}"
        )
