"""Other packages' names of a network's arrays and modules, brought to those of this package, and back."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

Table = Sequence[tuple[str, str]]  # beginnings of names: theirs, ours

PLACE = re.compile(r"\{(\d*)([a-z])([+-]\d+)?\}")  # of a number, as {s}, {b+1} or {2s+1}


def renamed(name: str, table: Table, *, back: bool = False) -> str:
    """Replaces the beginning of a name by the first row of a table that matches it.

    Args:
      name: of an array, as in "stages.0.blocks.1.norm.weight".
      table: rows such as ("stages.{s}.blocks.{b}.", "features.{2s+1}.{b}."): a letter stands for the same
        whole number on both sides.
      back: from the second name of a row to the first. The first row with a name is the one written; rows
        after it are read alone.

    Returns:
      the new name; the old one where no row matches.
    """
    for pair in table:
        source, target = reversed(pair) if back else pair
        pattern, places = _compiled(source)
        match = pattern.match(name)
        numbers = _solved(places, match.groups()) if match else None
        if match and numbers is not None and all(place[2] in numbers for place in PLACE.finditer(target)):
            return _filled(target, numbers) + name[match.end() :]
    return name


def inside(theirs: str, ours: str, rows: Table) -> Table:
    """Returns rows with the names of the module that holds them put before."""
    return tuple((theirs + name, ours + own) for name, own in rows)


def with_modules_renamed(arrays: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """Returns arrays under the names of other modules.

    Args:
      arrays: {"MODULE.LEAF": array}.
      known: {module: what it is called instead}; other modules keep their names.
    """
    parts = [name.rpartition(".") for name in arrays]
    names = [f"{known.get(module, module)}{dot}{leaf}" for module, dot, leaf in parts]
    return dict(zip(names, arrays.values(), strict=True))


Places = tuple[tuple[int, str, int], ...]  # factor, letter, summand


@functools.cache
def _compiled(template: str) -> tuple[re.Pattern[str], Places]:
    literals = re.split(r"\{[^}]*\}", template)
    places = tuple((int(f or 1), letter, int(plus or 0)) for f, letter, plus in PLACE.findall(template))
    return re.compile(r"([0-9]{1,6})".join(map(re.escape, literals))), places


def _solved(places: Places, found: Sequence[str]) -> dict[str, int] | None:
    """Returns the number of each letter; None where there are none that give what was found."""
    numbers: dict[str, int] = {}
    for (factor, letter, summand), digits in zip(places, found, strict=True):
        number, rest = divmod(int(digits) - summand, factor)
        if rest or number < 0 or numbers.setdefault(letter, number) != number:
            return None
    return numbers


def _filled(template: str, numbers: Mapping[str, int]) -> str:
    return PLACE.sub(lambda place: str(int(place[1] or 1) * numbers[place[2]] + int(place[3] or 0)), template)
