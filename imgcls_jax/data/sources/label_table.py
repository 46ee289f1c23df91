"""Your own images with any number of labels each, listed in a CSV file."""

from __future__ import annotations

import csv

from imgcls_jax.data.folders import require_folder
from imgcls_jax.data.lists import inside_root, read_lines
from imgcls_jax.data.source import Files, Root


class LabelTable(Files):
    """Image files with any number of labels each, listed in a CSV file.

    The first line names the columns: the file's path, perhaps "split", then a column a label, of 0
    and 1.

    Args:
        split: the lines taken are those that name it, where the table has a column `split`; else it takes the
            place of "{split}" in table.
        root: the folder of the table.
        table: the CSV file, relative to root, or absolute.
        images: the folder that the paths start from, relative to root.

    Raises:
        FileNotFoundError: root, the table or the first image is missing.
        ValueError: no label column, a line of another length, an entry that is not 0 or 1, a path that leaves
            the folder or is listed twice, or no line of the split; the message names the file and the line.
    """

    def __init__(self, split: str, *, root: Root, table: str = "labels.csv", images: str = "images") -> None:
        folder = require_folder(root, f"the table {table!r} and the folder {images!r}")
        self._table = folder / table.replace("{split}", split)
        lines = read_lines(self._table)
        _, header = next(lines, (1, ""))
        columns = next(csv.reader([header]), [])
        first = 2 if columns[1:2] == ["split"] else 1
        if len(columns) <= first or len(set(columns)) < len(columns) or not all(columns):
            wanted = "a file column, perhaps 'split', and a column a label, all of different names"
            raise ValueError(f"{self._table}, line 1: expected {wanted}; got {header!r}")
        rows: dict[str, tuple[int, list[int]]] = {}
        splits = set()
        for number, text in lines:
            where = f"{self._table}, line {number}"
            cells = next(csv.reader([text]))
            if len(cells) != len(columns) or not set(cells[first:]) <= {"0", "1"}:
                wanted = f"{len(columns)} columns, of which the last {len(columns) - first} are 0 or 1"
                raise ValueError(f"{where}: expected {wanted}; got {text!r}")
            if first == 2:
                splits.add(cells[1])
                if cells[1] != split:
                    continue
            path = inside_root(cells[0], where)
            if path in rows:
                raise ValueError(f"{where}: {path!r} is listed in line {rows[path][0]} too; remove one")
            rows[path] = number, [int(cell) for cell in cells[first:]]
        if not rows:
            known = f"; its splits are {sorted(splits)}" if splits else ""
            raise ValueError(f"{self._table} holds no line of the split {split!r}{known}")
        self._line_numbers = [number for number, _ in rows.values()]
        super().__init__(folder / images, list(rows), [row for _, row in rows.values()], columns[first:])

    def describe(self, index: int) -> str:
        return f"{self.paths[index]} ({self._table.name}, line {self._line_numbers[index]})"


make = LabelTable
