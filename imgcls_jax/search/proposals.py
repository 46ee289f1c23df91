"""What a search tries next: a grid, random draws, or the tree-structured Parzen estimator.

Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization" (JMLR 13, 2012); Bergstra et al.,
"Algorithms for Hyper-Parameter Optimization" (NeurIPS 2011), by optuna. Each trial is a function of the
space, a seed, its number and the trials before it, so a search that is taken up again tries what it would
have tried.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.search.space import Dimension

SEARCHES = ("grid", "random", "tpe")
Fields = dict[str, Any]


class Outcome(NamedTuple):
    """What became of a trial.

    Attributes:
      fields: {field: value} that it tried.
      value: the metric at its end, the mean over its runs; None where it did not get there.
      evaluations: the metric at each evaluation of its first run, as far as it was looked at; None where it
        was no number.
    """

    fields: Mapping[str, Any]
    value: float | None
    evaluations: Sequence[float | None]


def propose(
    search: str,
    space: Sequence[Dimension],
    number: int,
    *,
    seed: int,
    earlier: Sequence[Outcome],
    maximize: bool,
) -> Fields | None:
    """Returns what a trial tries; None behind the end of a grid.

    Args:
      search: one of SEARCHES.
      space: of at least one dimension.
      number: of the trial, from 0 on.
      seed: non-negative integer.
      earlier: the trials before it; only TPE looks at them.
      maximize: whether the largest metric is the best.
    """
    if search == "grid":
        return next(itertools.islice(grid(space), number, None), None)
    if search == "random":
        words = np.random.PCG64([seed, number]).random_raw(len(space))
        return {own.field: own.at(int(word) / 2**64) for own, word in zip(space, words, strict=True)}
    return _tpe(space, number, seed, earlier, maximize)


def grid(space: Sequence[Dimension]) -> Any:
    """Yields the points of the grid; the last dimension changes first."""
    fields = [own.field for own in space]
    for values in itertools.product(*(own.grid() for own in space)):
        yield dict(zip(fields, values, strict=True))


def require_optuna() -> Any:
    """Returns the package.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ValueError("--search tpe needs optuna: pip install 'imgcls-jax[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _tpe(
    space: Sequence[Dimension], number: int, seed: int, earlier: Sequence[Outcome], maximize: bool
) -> Fields:
    """Asks optuna's sampler, which starts from its seed anew for each trial.

    A trial that diverged or was pruned before its first evaluation counts as worse than all others.
    """
    optuna = require_optuna()
    distributions = {own.field: _distribution(optuna, own) for own in space}
    sampler = optuna.samplers.TPESampler(seed=int(np.random.PCG64([seed, number]).random_raw()) % 2**32)
    study = optuna.create_study(direction="maximize" if maximize else "minimize", sampler=sampler)
    states = optuna.trial.TrialState
    for outcome in earlier:
        study.add_trial(
            optuna.trial.create_trial(
                state=states.PRUNED if outcome.value is None else states.COMPLETE,
                value=outcome.value,
                params={own.field: _to_optuna(own, outcome.fields[own.field]) for own in space},
                distributions=distributions,
                intermediate_values={
                    step: value for step, value in enumerate(outcome.evaluations) if value is not None
                },
            )
        )
    params = study.ask(distributions).params
    return {own.field: _from_optuna(own, params[own.field]) for own in space}


def _distribution(optuna: Any, own: Dimension) -> Any:
    if own.kind == "choice":  # by number: optuna takes no lists as choices
        return optuna.distributions.CategoricalDistribution(tuple(range(len(own.choices))))
    if own.kind == "int":
        return optuna.distributions.IntDistribution(int(own.low), int(own.high))
    return optuna.distributions.FloatDistribution(own.low, own.high, log=own.kind == "log")


def _to_optuna(own: Dimension, value: Any) -> Any:
    return own.choices.index(value) if own.kind == "choice" else value


def _from_optuna(own: Dimension, value: Any) -> Any:
    if own.kind == "choice":
        return own.choices[value]
    return value if own.kind == "int" else own.rounded(value)
