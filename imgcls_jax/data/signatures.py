"""Signatures of classes: a row of numbers for each, such as the attributes of a bird species.

They say what a class looks like, so that a class without a single training image can still be recognized. Two
forms of files are read:

    .csv, .tsv    a header, then a row a class: its name, and its numbers. Read as data/lists.py reads tables.
    any other     a row of numbers a class, separated by blanks, without names, which stand in `classes.txt`
                  ("id name" lines) in the same folder or in the one above; row i is that of the i-th id. Such
                  are CUB-200-2011's class_attribute_labels_continuous.txt and AwA2's predicate-matrix-*.txt.

Rows find their classes by name. A file may hold more classes than the data.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imgcls_jax.config.field_types import did_you_mean
from imgcls_jax.data.folders import expanded
from imgcls_jax.data.lists import check_names, read_csv, read_lines, read_table

LARGEST = 1e30  # of a number's size: float32 reaches little further
MAX_NUMBERS = 20_000_000  # of a file; ImageNet-21k with word vectors of 500 has half of that
CLASSES = "classes.txt"
NUMBER = re.compile(r"\d+\.")  # before a name, as in "001.Black_footed_Albatross"


def read_signatures(path: str, class_names: Sequence[str]) -> np.ndarray:
    """Reads the signatures of classes.

    A class takes the row of its name. Where the file has no such name, numbers before the names are left out
    of the comparison ("001." of CUB-200-2011: a part of its classes may be numbered anew).

    Args:
      path: of the file.
      class_names: C names.

    Returns:
      float64 [C, a], as they stand in the file; row i is that of class i.

    Raises:
      FileNotFoundError: the file, or the one of names, is missing.
      ValueError: a line that does not fit, a number that is not finite, a class that comes twice, or one
        without a row; names file and line or class.
    """
    file = expanded(path)
    names, rows = read_rows(file)
    row_of = {name: row for row, name in enumerate(names)}
    plain: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        plain.setdefault(_without_number(name), []).append(row)
    chosen, missing = [], []
    for name in class_names:
        found = [row_of[name]] if name in row_of else plain.get(_without_number(name), [])
        if len(found) > 1:
            twice = " and ".join(repr(names[row]) for row in found[:2])
            raise ValueError(f"{file}: the class {name!r} may be {twice}; give it its own name")
        chosen += found
        missing += [] if found else [name]
    if missing:
        hint = did_you_mean(missing[0], names) or f"its first names are {', '.join(names[:3])}"
        raise ValueError(
            f"{file}: {len(missing)} of {len(class_names)} classes have no signature, the first is "
            f"{missing[0]!r}: {hint}"
        )
    taken = collections.Counter(chosen).most_common(1)
    if taken and taken[0][1] > 1:
        both = [name for name, row in zip(class_names, chosen, strict=True) if row == taken[0][0]]
        raise ValueError(
            f"{file}: the classes {both[0]!r} and {both[1]!r} have one row, {names[taken[0][0]]!r}"
        )
    return rows[chosen]


def read_rows(file: Path) -> tuple[list[str], np.ndarray]:
    """Returns (n names, rows float64 [n, a]) of a file of signatures, whatever classes the data have.

    Raises:
      FileNotFoundError, ValueError: as of `read_signatures`.
    """
    names, rows = _read_named(file) if file.suffix.lower() in (".csv", ".tsv") else _read_matrix(file)
    check_names(names, file)
    return names, rows


def _without_number(name: str) -> str:
    return NUMBER.sub("", name, count=1) if NUMBER.match(name) else name


def _read_named(file: Path) -> tuple[list[str], np.ndarray]:
    """Returns (names, rows float64 [n, a]) of a table."""
    lines = read_csv(file)
    next(lines, None)  # the header
    names, rows = [], _Rows(file)
    for number, (name, *cells) in lines:
        names.append(name)
        rows.append(number, cells)
    return names, rows.stacked()


def _read_matrix(file: Path) -> tuple[list[str], np.ndarray]:
    """Returns (names, rows float64 [n, a]) of a matrix without names."""
    rows = _Rows(file)
    for number, text in read_lines(file):
        rows.append(number, text.split())
    found = rows.stacked()
    places = [folder / CLASSES for folder in (file.parent, file.parent.parent)]
    classes = next((place for place in places if place.is_file()), None)
    if classes is None:
        raise FileNotFoundError(
            f"{file} has no names of classes, and there is no {CLASSES} beside it or in the folder above: "
            "put it there ('id name' lines), or write a CSV file with a name in front of each row"
        )
    table = read_table(classes, (int, str))
    if len(table) != len(found):
        raise ValueError(f"{file} has {len(found)} rows, and {classes} has {len(table)} classes")
    return [table[key][0] for key in sorted(table)], found


class _Rows:
    """The rows of a file as they are read, all of one length."""

    def __init__(self, file: Path) -> None:
        self._file, self._rows = file, list[list[float]]()

    def append(self, line: int, words: Sequence[str]) -> None:
        where = f"{self._file}, line {line}"
        width = len(self._rows[0]) if self._rows else len(words)
        if not words or len(words) != width:
            wanted = f"{width} numbers, as in the first row" if width else "numbers"
            raise ValueError(f"{where}: expected {wanted}; got {len(words)}")
        if (len(self._rows) + 1) * width > MAX_NUMBERS:
            raise ValueError(f"{where}: over {MAX_NUMBERS:,} numbers; is this a file of signatures?")
        self._rows.append([self._number(word, f"{where}, number {at}") for at, word in enumerate(words, 1)])

    @staticmethod
    def _number(word: str, where: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not abs(value) <= LARGEST:  # nor NaN
            raise ValueError(f"{where}: a signature is of finite numbers; got {word[:40]!r}")
        return value

    def stacked(self) -> np.ndarray:
        """Returns float64 [n, a]."""
        if not self._rows:
            raise ValueError(f"{self._file} holds no row of numbers")
        return np.array(self._rows)
