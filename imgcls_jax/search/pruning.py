"""When a run is not worth its end: the median rule.

Golovin et al., "Google Vizier" (KDD 2017), section 3.2.2, in the form of optuna's MedianPruner: a run is
given up at an evaluation where the best that it has reached is worse than the median of the earlier runs
there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

STARTUP = 5  # runs that reach their end before any is given up, as optuna's default


def pruned_at(
    values: Sequence[float | None], earlier: Sequence[Sequence[float | None]], *, maximize: bool
) -> int | None:
    """Returns the evaluation at which a run is given up, from 0 on; None where it is not.

    The last evaluation of a run gives up nothing.

    Args:
      values: the metric at each evaluation so far; None, no number, is worse than all others.
      earlier: the same of runs that reached their end.
      maximize: whether the largest metric is the best.
    """
    if len(earlier) < STARTUP:
        return None
    length = min(map(len, earlier)) - 1
    for number in range(min(len(values), length)):
        best = max(_worth(value, maximize) for value in values[: number + 1])
        if best < np.median([_worth(own[number], maximize) for own in earlier]):
            return number
    return None


def _worth(value: float | None, maximize: bool) -> float:
    return -math.inf if value is None else value if maximize else -value
