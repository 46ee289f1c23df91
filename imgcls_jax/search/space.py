"""The space of a search: which values each field of the configuration may take.

  [a, b, c]        one of these
  int(a, b)        a whole number, both ends included
  uniform(a, b)    a number, all as likely
  log(a, b)        a positive number whose logarithm is uniform

A third number of `uniform` and `log` is how many points a grid takes. The text is parsed, never evaluated.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from imgcls_jax.config.field_types import fits

FORMS = "[a, b, c], int(a, b), uniform(a, b) or log(a, b)"
RANGES = ("int", "uniform", "log")
MAX_GRID = 100_000  # points of one field
# What tells the runs of one trial apart, and is not searched.
OF_RUNS = ("train.seed", "data.folds", "data.fold", "data.fold_seed")


@dataclasses.dataclass(frozen=True)
class Dimension:
    """The values of one field.

    Attributes:
      field: of the configuration, such as "optimizer.learning_rate".
      kind: "choice" or one of RANGES.
      choices: JSON values, all different; of a choice.
      low, high: both ends; of a range.
      points: of a grid; 0 for a range that has none.
    """

    field: str
    kind: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    points: int = 0

    def at(self, quantile: float) -> Any:
        """Returns the value below which a share `quantile`, in [0, 1], of the distribution lies.

        Numbers are rounded to six digits, so that a command line can repeat them.
        """
        if self.kind == "choice":
            return self.choices[min(int(quantile * len(self.choices)), len(self.choices) - 1)]
        if self.kind == "int":
            count = int(self.high) - int(self.low) + 1
            return int(self.low) + min(int(quantile * count), count - 1)
        low, high = (math.log(self.low), math.log(self.high)) if self.kind == "log" else (self.low, self.high)
        value = low + quantile * (high - low)
        return self.rounded(math.exp(value) if self.kind == "log" else value)

    def rounded(self, value: float) -> float:
        """Returns a number of a range with six digits, within the range."""
        return min(max(float(f"{value:.6g}"), float(self.low)), float(self.high))

    def grid(self) -> list[Any]:
        """Returns all values that a grid takes, in order.

        Raises:
          ValueError: a range without points.
        """
        if self.kind == "choice":
            return list(self.choices)
        if self.kind == "int":
            return list(range(int(self.low), int(self.high) + 1))
        if not self.points:
            raise ValueError(
                f"--search grid: how many points of {self.field}? Write "
                f"{self.kind}({self.low:g}, {self.high:g}, POINTS), or a list"
            )
        return [self.at(number / (self.points - 1)) for number in range(self.points)]

    def ends(self) -> tuple[Any, ...]:
        """Returns values that stand for all, to check a configuration with."""
        return self.choices if self.kind == "choice" else (self.at(0), self.at(1))

    def __str__(self) -> str:
        if self.kind == "choice":
            return repr(list(self.choices))
        numbers = [f"{self.low:g}", f"{self.high:g}", *([str(self.points)] if self.points else [])]
        return f"{self.kind}({', '.join(numbers)})"


def parse(field: str, values: Any) -> Dimension:
    """Returns the dimension that a text, or a list of choices, describes.

    Args:
      field: "section.field".
      values: a text of one of FORMS, or a list.

    Raises:
      ValueError: it is neither.
    """
    if field in OF_RUNS:
        raise ValueError(
            f"{field} is not searched: --trial_seeds, --folds and --fold_seed say which runs a trial has"
        )
    kind, parts = ("choice", values) if isinstance(values, (list, tuple)) else _parsed(str(values))
    if kind == "choice":
        return _choice(field, parts)
    if kind in RANGES:
        return _range(field, kind, parts)
    raise ValueError(f"the values of {field} are {FORMS}; got {values!r}")


def _parsed(text: str) -> tuple[str, Sequence[Any]]:
    """Returns (kind, literals) of a text; ("", ()) where it is of another form."""
    with contextlib.suppress(SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, (ast.List, ast.Tuple)):
            return "choice", ast.literal_eval(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return node.func.id, [ast.literal_eval(argument) for argument in node.args]
    return "", ()


def _choice(field: str, values: Sequence[Any]) -> Dimension:
    try:
        choices = json.loads(json.dumps(list(values)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the choices of {field} are values of JSON; got {values!r}") from error
    if not choices or any(value in choices[:number] for number, value in enumerate(choices)):
        raise ValueError(f"the choices of {field} are one or more different values; got {choices!r}")
    return Dimension(field, "choice", tuple(choices))


def _range(field: str, kind: str, numbers: Sequence[Any]) -> Dimension:
    got = f"{kind}({', '.join(map(repr, numbers))})"
    takes = (2,) if kind == "int" else (2, 3)
    if len(numbers) not in takes or not all(
        fits(number, int if kind == "int" else float) for number in numbers
    ):
        wanted = (
            "int(a, b) of two whole numbers" if kind == "int" else f"{kind}(a, b) or {kind}(a, b, points)"
        )
        raise ValueError(f"{field}: expected {wanted}; got {got}")
    low, high = numbers[:2]
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{field}: a range goes from a smaller to a larger number; got {got}")
    if kind == "log" and low <= 0:
        raise ValueError(f"{field}: log(a, b) needs numbers above 0; got {got}")
    points = numbers[2] if len(numbers) == 3 else 0
    if len(numbers) == 3 and not (fits(points, int) and 2 <= points <= MAX_GRID):
        raise ValueError(f"{field}: a grid has 2 to {MAX_GRID:,} points; got {got}")
    if kind == "int" and high - low >= MAX_GRID:
        raise ValueError(f"{field}: {got} spans more than {MAX_GRID:,} numbers: take log or uniform")
    return Dimension(field, kind, low=low, high=high, points=points)


def space_of(texts: Sequence[str], in_file: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """Returns the space of a search.

    Args:
      texts: "section.field=values" each, of the command line.
      in_file: {field: values} of the configuration's `sweep()`; the command line goes before it.

    Raises:
      ValueError: it is empty, a field comes twice, or values are not of FORMS.
    """
    written: dict[str, Any] = {}
    for text in texts:
        field, equals, values = text.partition("=")
        field = field.strip()
        if not equals or "." not in field:
            raise ValueError(f"--space is SECTION.FIELD=VALUES, the values {FORMS}; got {text!r}")
        if field in written:
            raise ValueError(f"--space names {field} twice")
        written[field] = values
    space = dict(in_file) | written
    if not space:
        raise ValueError(
            "nothing to search: give --space SECTION.FIELD=VALUES, or the configuration a function sweep() "
            "that returns {'section.field': values}"
        )
    return tuple(parse(field, values) for field, values in space.items())
