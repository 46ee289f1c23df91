"""When a run is not worth its end: the median rule.

Golovin et al., "Google Vizier" (KDD 2017), section 3.2.2, in the form of optuna's MedianPruner: a run is
given up at an evaluation where the best that it has reached is worse than the median of the earlier runs
there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STARTUP = 5  # runs that reach their end before any is given up, as optuna's default


def pruned_at(values: Sequence[float], earlier: Sequence[Sequence[float]], *, maximize: bool) -> int | None:
    """Returns the evaluation at which a run is given up, from 0 on; None where it is not.

    The last evaluation of a run gives up nothing.

    Args:
      values: the metric at each evaluation so far.
      earlier: the same of runs that reached their end.
      maximize: whether the largest metric is the best.
    """
    if len(earlier) < STARTUP:
        return None
    sign = 1 if maximize else -1
    length = min(map(len, earlier)) - 1
    for number in range(min(len(values), length)):
        best = max(sign * value for value in values[: number + 1])
        if best < np.median([sign * own[number] for own in earlier]):
            return number
    return None
