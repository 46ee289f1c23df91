"""Shards: the files of a folder that hold many examples each, and the labels in them.

Which split a shard belongs to, its name says ("train-00000-of-00003.parquet", "birds-val-000017.tar"), or
else the folder that it lies in ("train/0000.parquet").
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.data.folders import expanded, require_folder, split_of
from imgcls_jax.data.listing import is_hidden
from imgcls_jax.data.lists import MAX_CLASSES, by_value, quoted_inside, read_names
from imgcls_jax.data.source import Root

_NUMBERS = re.compile(r"[-_.]?\d+([-_.]of[-_.]\d+)?$")


class Shards:
    """The shards of a folder, by split.

    Attributes:
      root: the folder.

    Args:
      root: the folder; others within it are looked into.
      suffix: of the shards.
      remedy: what to do where there is none, the end of a message.

    Raises:
      FileNotFoundError: root is no folder, or holds no shard.
    """

    def __init__(self, root: Root, suffix: str, remedy: str = "") -> None:
        self.root = require_folder(root, f"{suffix} files")
        self._suffix = suffix
        self._of_name: dict[str, list[str]] = {}
        for path in _files(self.root, suffix):
            self._of_name.setdefault(_split_name(path, suffix)[0], []).append(path)
        if not self._of_name:
            raise FileNotFoundError(f"{self.root} holds no {suffix} file{remedy}")

    def of(self, split: str) -> list[str]:
        """Returns the shards of a split, sorted, relative to the root with "/"; [] where it has none.

        Where no name of a shard or folder means a split, all are of "train".

        Raises:
          ValueError: several names mean it, or its shards are of several data sets.
        """
        kind = split_of(split)
        names = [name for name in self._of_name if name == split] or sorted(
            name for name in self._of_name if kind and _meaning(name) == kind
        )
        if not names and kind == "train" and not any(map(_meaning, self._of_name)):
            names = sorted(self._of_name)
        elif len(names) > 1:
            raise ValueError(
                f"{self.root}: the split {split!r} may be any of {names}; name one of them in full"
            )
        found = sorted(path for name in names for path in self._of_name[name])
        folders = sorted({_split_name(path, self._suffix)[1] for path in found})
        if len(folders) > 1:
            shown = ", ".join(folder or "." for folder in folders[:5])
            raise ValueError(
                f"{self.root}: the {self._suffix} files of {split!r} lie in {len(folders)} folders, as those "
                f"of several data sets do ({shown}): set config.data.root to one of them"
            )
        return found

    def require(self, split: str) -> list[str]:
        """Returns the shards of a split.

        Raises:
          FileNotFoundError: it has none.
          ValueError: as `of`.
        """
        found = self.of(split)
        if not found:
            known = sorted(filter(None, self._of_name)) or ["train"]
            raise FileNotFoundError(
                f"{self.root} holds no {self._suffix} file of the split {split!r}; of {known}"
            )
        return found


def _files(root: Path, suffix: str) -> list[str]:
    """Lists the files of a suffix below a folder. Links to files are followed: a hub's snapshot has them."""
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not is_hidden(name)]
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        found += [
            name if inside == "." else f"{inside}/{name}"
            for name in names
            if name.endswith(suffix) and not is_hidden(name) and os.path.isfile(os.path.join(folder, name))
        ]
    return found


def _split_name(path: str, suffix: str) -> tuple[str, str]:
    """Returns what names the split of a shard, its file or a folder above, and the folder that this lies in.

    Returns:
      The name, without the number of the shard, and the folder; ("", "") where nothing names a split.
    """
    *folders, file = path.split("/")
    places = [*folders, _NUMBERS.sub("", file.removesuffix(suffix))]
    for depth in reversed(range(len(places))):
        if _meaning(places[depth]):
            return places[depth], "/".join(places[:depth])
    return "", ""


def _meaning(name: str) -> str:
    """Returns the split that a name means, or a single word of it; "" for none."""
    words = {split_of(word) for word in re.split(r"[\W_\d]+", name)} - {""}
    return split_of(name) or (words.pop() if len(words) == 1 else "")


# ---- labels


def class_names_file(root: Path, classes: str | None) -> tuple[str, ...] | None:
    """Returns the names of a file, one a line; None where there is no such file.

    Args:
      root: of the data.
      classes: relative to it, or absolute.
    """
    if classes is None:
        return None
    path = root / expanded(classes)
    with quoted_inside(root, path):
        return read_names(path)


def to_labels(
    values: Sequence[Any],
    where: Callable[[int], str],
    *,
    names: Sequence[str] | None = None,
    training: Callable[[], Sequence[Any]] | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turns what shards say into labels.

    Args:
      values: N of them, each a class, its number or name, or a list of such: any number of labels.
      where: i -> where the i-th comes from.
      names: of the classes, where they are known.
      training: returns the values of the training split, whose classes are then those of every split; None
        for one that is it.

    Returns:
      Labels int32 [N], or of 0 and 1 [N, K]; and the K class names. Where they are not known, numbers are
      their own names, and run from 0 without gaps; names are sorted, numbers by value before words.

    Raises:
      ValueError: a value is missing, or no class.
    """
    several = any(isinstance(value, list) for value in values)
    rows = [value if isinstance(value, list) else [value] for value in values]
    for index, row in enumerate(rows):
        for value in row:
            if type(value) not in (int, str) or value in (-1, ""):
                raise ValueError(f"{where(index)} has no label ({value!r}); choose a labeled split")
    known = names or _classes_of(rows if training is None else _rows(training()), where(0))
    label_of: dict[Any, int] = {name: label for label, name in enumerate(known)}
    numbers = np.zeros((len(rows), len(known)) if several else len(rows), np.int32)
    for index, row in enumerate(rows):
        for value in row:
            label = label_of.get(value) if isinstance(value, str) else value
            if label is None or not 0 <= label < len(known):
                whose = "the training split" if training else "the data set"
                raise ValueError(
                    f"{where(index)}: the label {value!r} is none of the {len(known)} of {whose}"
                )
            if several:
                numbers[index, label] = 1
            else:
                numbers[index] = label
    return numbers, tuple(known)


def _rows(values: Sequence[Any]) -> list[list[Any]]:
    return [value if isinstance(value, list) else [value] for value in values]


def _classes_of(rows: Sequence[Sequence[Any]], where: str) -> tuple[str, ...]:
    present = {value for row in rows for value in row}
    if not present:
        raise ValueError(f"{where}: no example has a label")
    if all(isinstance(value, str) for value in present):
        return tuple(sorted(present, key=by_value))
    if words := sorted(value for value in present if isinstance(value, str)):
        raise ValueError(f"{where}, and what follows: the label {words[0]!r} is a word, others are numbers")
    largest = max((value for value in present if isinstance(value, int)), default=-1)
    missing = next((label for label in range(min(largest + 1, MAX_CLASSES)) if label not in present), None)
    if missing is not None or largest >= MAX_CLASSES or len(present) != largest + 1:
        raise ValueError(
            f"{where}, and what follows: no example has the label {missing}, and {largest} is one: labels "
            "count from 0, without gaps. Name the classes, those without images too, in a file of "
            "config.data.classes"
        )
    return tuple(map(str, range(largest + 1)))
