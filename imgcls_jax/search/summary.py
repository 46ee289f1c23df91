"""What a search says of itself at its end."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from imgcls_jax.config.files import PREFIX
from imgcls_jax.data.folders import split_of
from imgcls_jax.runtime.names import printable
from imgcls_jax.search.trials import Trial

Cells = tuple[str, ...]


def ranked(trials: Sequence[Trial], *, maximize: bool) -> list[int]:
    """Returns the numbers of all trials, the best first, the earlier of equals first, those without a value
    last."""
    sign = -1 if maximize else 1
    values = [trial.value for trial in trials]
    return sorted(range(len(trials)), key=lambda n: (values[n] is None, sign * (values[n] or 0.0), n))


def rows(trials: Sequence[Trial], fields: Sequence[str], *, maximize: bool) -> tuple[Cells, list[Cells]]:
    """Returns the header of the table of trials, and its rows, the best first.

    Args:
      trials: of a search, in the order of their numbers.
      fields: of its space.
      maximize: whether the largest value is the best.
    """
    found = []
    for number in ranked(trials, maximize=maximize):
        trial = trials[number]
        value = "" if trial.value is None else f"{trial.value:.6g}"
        std = f"{statistics.stdev(trial.values):.4g}" if len(trial.values) > 1 else ""
        tried = (printable(repr(trial.fields.get(field))) for field in fields)
        found.append((str(number), *tried, value, std, f"{trial.seconds:.1f}", trial.state))
    return ("trial", *fields, "value", "std", "seconds", "state"), found


def in_columns(header: Cells, cells: Sequence[Cells]) -> str:
    """Returns a table for a terminal."""
    every = [header, *cells]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in every)
    return "\n".join(lines)


def best(plan: Mapping[str, Any], number: int, trial: Trial) -> str:
    """Returns what was chosen and on what, and its overrides.

    Args:
      plan: of sweep.json.
      number: of the best trial.
      trial: of that number.
    """
    where = f"the split {plan['chosen_on']!r}"
    if plan["folds"]:
        where = f"{plan['folds']} folds of the training split"
    elif split_of(plan["chosen_on"]) == "test":
        where += ": its figure leans to the good side, and so does that of the same split after retraining"
    words = " ".join(f"{PREFIX}{field}={value!r}" for field, value in trial.fields.items())
    return (
        f"best: trial {number}, {plan['metric']} {trial.value:.6g}, chosen on {where}\n  {printable(words)}"
    )


def retrained(final: Mapping[str, Any]) -> list[str]:
    """Returns a line for each evaluation of the best choice, trained anew: mean and standard deviation."""
    lines = []
    for name, values in final["metrics"].items():
        if not values:
            continue
        spread = f" ± {statistics.stdev(values):.4g}" if len(values) > 1 else ""
        seeds = ", ".join(map(str, final["seeds"]))
        lines.append(f"trained anew: {name} {statistics.fmean(values):.6g}{spread} (seeds {seeds})")
    return lines
