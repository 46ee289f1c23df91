"""Your own images with one class each, listed in a CSV file with a column of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imgcls_jax.data.folders import named_split, require_folder
from imgcls_jax.data.lists import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    by_value,
    column_of,
    inside_root,
    pattern_for,
    quoted_inside,
    read_csv,
    usual_column,
)
from imgcls_jax.data.source import Files, Root
from imgcls_jax.data.subsets import stratified_split


class CsvFile(Files):
    """Image files with one class each, listed in a CSV file as `image,label` rows under a header.

    The classes are the words of the label column, as they are written: sorted, numbers by value. Those of all
    splits count, so that every split has the same. Other columns are ignored. The split is that of a column
    `split`, or of the file where `table` holds "{split}"; else a fixed stratified split holds out
    test_fraction of each class, as in `image_folder`.

    Args:
        split: as its column or its file writes it, or a name that means the same.
        root: the folder of the table.
        table: the CSV file, relative to root, or absolute.
        images: the folder that the paths start from, relative to root.
        image_column, label_column: their names in the header; "" for the usual ones.
        group_column: its name in the header: rows with the same word there, as photos of one patient, stay
            together in a cross-validation; "" for no groups.
        suffix: ends every path, as ".jpg" where the table holds ids.
        test_fraction: part of each class that is not "train", in (0, 1); read without a split alone.
        split_seed: seed of that split.

    Raises:
        FileNotFoundError: root, the table or the first image is missing.
        ValueError: no such column, a row without class, a path that leaves the folder or is listed twice, or
            no row of the split; the message names the file and the line.
    """

    def __init__(
        self, split: str, *, root: Root, table: str = "labels.csv", images: str = ".", image_column: str = "",
        label_column: str = "", group_column: str = "", suffix: str = "", test_fraction: float = 0.2,
        split_seed: int = 0,
    ) -> None:  # fmt: skip
        folder = require_folder(root, f"the table {table!r} and the images")
        self._table = pattern_for(split, folder, table)
        names = (image_column, label_column, group_column)
        with quoted_inside(folder, self._table):
            paths, labels, splits, groups, lines = _read(self._table, names, suffix)
        classes = set(labels)
        train = pattern_for("train", folder, table)
        if train != self._table and train.is_file():
            with quoted_inside(folder, train):
                classes = set(_read(train, names, suffix)[1])
            unknown = sorted(set(labels) - classes)
            if unknown:
                where = f"{self._table}, line {lines[labels.index(unknown[0])]}"
                with quoted_inside(folder, self._table):
                    raise ValueError(f"{where}: the class {unknown[0]!r}, which {train} lacks")
        class_names = sorted(classes, key=by_value)
        label_of = {name: label for label, name in enumerate(class_names)}
        numbers = np.array([label_of[label] for label in labels], np.int32)
        indices = np.arange(len(paths))
        self.rule = f"listed in {self._table}"
        if splits:
            chosen = named_split(split, sorted(set(splits)), self._table)
            indices = np.flatnonzero(np.array(splits) == chosen)
            self.rule += f", split {chosen!r}"
        elif "{split}" not in table:
            if groups:
                raise ValueError(
                    f"config.data.group_column: {self._table} has no column split, and the images to hold "
                    "out are drawn one by one, which would tear groups apart: add that column"
                )
            indices = stratified_split(numbers, test_fraction, split_seed)[split != "train"]
            held_out = (
                f"{test_fraction:.3g} of each class, held out by data.test_fraction and data.split_seed"
            )
            self.rule += f", which has no column split: {'all but ' if split == 'train' else ''}{held_out}"
        if not len(indices):
            known = f"; its splits are {sorted(set(splits))}" if splits else ""
            raise ValueError(f"{self._table} holds no row of the split {split!r}{known}")
        if groups:
            self.groups = np.unique(groups, return_inverse=True)[1][indices]
        self._line_numbers = [lines[index] for index in indices]
        super().__init__(folder / images, [paths[index] for index in indices], numbers[indices], class_names)

    def describe(self, index: int) -> str:
        return f"{self.paths[index]} ({self._table.name}, line {self._line_numbers[index]})"


def _read(
    table: Path, names: tuple[str, str, str], suffix: str
) -> tuple[list[str], list[str], list[str], list[str], list[int]]:
    """Returns (paths, labels, splits or [], groups or [], line numbers) of the rows of a table."""
    rows = read_csv(table)
    _, header = next(rows, (1, []))
    image = column_of(table, header, names[0], IMAGE_COLUMNS, "image")
    label = column_of(table, header, names[1], LABEL_COLUMNS, "label")
    group = column_of(table, header, names[2], (), "group") if names[2] else None
    split = usual_column(header, SPLIT_COLUMNS)
    line_of: dict[str, int] = {}
    labels, splits, groups = [], [], []
    for number, cells in rows:
        where = f"{table}, line {number}"
        if len(cells) < len(header) or any(cells[len(header) :]) or not (cells[image] and cells[label]):
            wanted = f"{len(header)} columns, with {header[image]!r} and {header[label]!r}"
            raise ValueError(f"{where}: expected {wanted}; got {cells!r}")
        path = inside_root(cells[image] + suffix, where)
        if path in line_of:
            raise ValueError(f"{where}: {path!r} is listed in line {line_of[path]} too; remove one")
        line_of[path] = number
        labels.append(cells[label])
        if split is not None:
            splits.append(cells[split])
        if group is not None:
            if not cells[group]:
                raise ValueError(f"{where}: the column {header[group]!r} is empty, which names the group")
            groups.append(cells[group])
    if not labels:
        raise ValueError(f"{table} holds no row under its header {header!r}")
    return list(line_of), labels, splits, groups, list(line_of.values())


make = CsvFile
