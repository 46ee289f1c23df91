"""Your own images with any number of labels each, listed in a CSV file."""

from __future__ import annotations

from imgcls_jax.data.folders import named_split, require_folder
from imgcls_jax.data.lists import inside_root, pattern_for, quoted_inside, read_csv
from imgcls_jax.data.source import Files, Root

# What programs write for 0 and 1. An empty cell and the -1 of CheXpert are neither: they are refused.
BINARY = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


class LabelTable(Files):
    """Image files with any number of labels each, listed in a CSV file.

    The first line names the columns: the file's path, perhaps "split", then a column a label, of 0
    and 1 (or False and True). Separators are commas, semicolons or tabs.

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
        self._table = pattern_for(split, folder, table)
        with quoted_inside(folder, self._table):
            columns, rows = self._read(split)
        self._line_numbers = [number for number, _, _ in rows.values()]
        super().__init__(folder / images, list(rows), [row for _, _, row in rows.values()], columns)

    def _read(self, split: str) -> tuple[list[str], dict[str, tuple[int, str, list[int]]]]:
        """Returns the names of the labels, and {path: (line number, split, row of 0 and 1)} of a split."""
        lines = read_csv(self._table)
        _, columns = next(lines, (1, []))
        while columns and not columns[-1]:  # a separator at the end of every line
            columns.pop()
        first = 2 if columns[1:2] == ["split"] else 1
        if len(columns) <= first or len(set(columns)) < len(columns) or not all(columns):
            wanted = "a file column, perhaps 'split', and a column a label, all of different names"
            raise ValueError(f"{self._table}, line 1: expected {wanted}; got {columns!r}")
        rows: dict[str, tuple[int, str, list[int]]] = {}
        for number, cells in lines:
            where = f"{self._table}, line {number}"
            row, rest = cells[: len(columns)], cells[len(columns) :]
            values = [BINARY.get(cell.lower()) for cell in row[first:]]
            if len(row) < len(columns) or any(rest) or None in values or not row[0]:
                wanted = f"{len(columns)} columns, of which the last {len(columns) - first} are 0 or 1"
                hint = "; data.source = 'csv_file' reads a column of classes" if len(columns) == 2 else ""
                raise ValueError(f"{where}: expected {wanted}; got {cells!r}{hint}")
            path = inside_root(row[0], where)
            if path in rows:
                raise ValueError(f"{where}: {path!r} is listed in line {rows[path][0]} too; remove one")
            rows[path] = (
                number,
                row[1] if first == 2 else split,
                [value for value in values if value is not None],
            )
        splits = sorted({own for _, own, _ in rows.values()})
        chosen = named_split(split, splits, self._table)
        rows = {path: row for path, row in rows.items() if row[1] == chosen}
        if not rows:
            known = f"; its splits are {splits}" if splits else ""
            raise ValueError(f"{self._table} holds no line of the split {split!r}{known}")
        self.rule = f"listed in {self._table}" + (f", split {chosen!r}" if first == 2 else "")
        return columns[first:], rows

    def describe(self, index: int) -> str:
        return f"{self.paths[index]} ({self._table.name}, line {self._line_numbers[index]})"


make = LabelTable
