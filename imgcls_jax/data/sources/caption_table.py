"""Your own images with captions, listed in a CSV file: what CLIP learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.data.captions import Captions
from imgcls_jax.data.clip_tokens import CONTEXT_LENGTH
from imgcls_jax.data.folders import named_split, require_folder
from imgcls_jax.data.lists import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    column_of,
    inside_root,
    pattern_for,
    quoted_inside,
    read_csv,
    usual_column,
)
from imgcls_jax.data.source import Files, Root
from imgcls_jax.data.subsets import stratified_split

NO_CLASS = "any"  # of all images, where the table has no classes


class _Row(NamedTuple):
    """What the lines of an image say: captions, class ("" for none), split ("" for none), the first line."""

    captions: list[str]
    label: str
    split: str
    line: int


class CaptionTable(Files):
    """Image files with captions, listed in a CSV file as `image,caption` rows under a header.

    An image in several rows has several captions. Elements add
        text: int32 [n, context_length], the token ids of n captions, the most that an image of the split has;
            rows of zeros in place of those that an image lacks.
    A column of classes gives labels, for evaluation; without one all images are of the class "any". The split
    is that of a column `split`, or of the file where `table` holds "{split}"; else a fixed random split holds
    out test_fraction of all images.

    Args:
        split: as its column or its file writes it, or a name that means the same.
        root: the folder of the table.
        vocabulary: of the captions, as data/clip_tokens.py or data/siglip_tokens.py reads it.
        table: the CSV file, relative to root, or absolute.
        images: the folder that the paths start from, relative to root.
        image_column, caption_column: their names in the header; "" for the usual ones.
        context_length: tokens of a caption; longer ones are cut.
        test_fraction: part of the images that are not "train", in (0, 1); read without a split alone.
        split_seed: seed of that split.

    Raises:
        FileNotFoundError: root, the table, the vocabulary or the first image is missing.
        ValueError: no such column, a row without image or caption, a path that leaves the folder, an image of
            two classes or splits, or no row of the split; the message names the file and the line.
    """

    def __init__(
        self, split: str, *, root: Root, vocabulary: str, table: str = "captions.csv", images: str = ".",
        image_column: str = "", caption_column: str = "", context_length: int = CONTEXT_LENGTH,
        test_fraction: float = 0.2, split_seed: int = 0,
    ) -> None:  # fmt: skip
        folder = require_folder(root, f"the table {table!r} and the images")
        self._table = pattern_for(split, folder, table)
        with quoted_inside(folder, self._table):
            rows = _read(self._table, image_column, caption_column)
        class_names = sorted({row.label for row in rows.values()})
        label_of = {name: label for label, name in enumerate(class_names)}
        splits = sorted({row.split for row in rows.values()} - {""})
        self.rule = f"listed in {self._table}"
        paths = list(rows)
        if splits:
            chosen = named_split(split, splits, self._table)
            paths = [path for path in paths if rows[path].split == chosen]
            self.rule += f", split {chosen!r}"
        elif "{split}" not in table:
            indices = stratified_split(np.zeros(len(paths)), test_fraction, split_seed)[split != "train"]
            paths = [paths[index] for index in indices]
            held_out = f"{test_fraction:.3g} of all, held out by data.test_fraction and data.split_seed"
            self.rule += f", which has no column split: {'all but ' if split == 'train' else ''}{held_out}"
        if not paths:
            known = f"; its splits are {splits}" if splits else ""
            raise ValueError(f"{self._table} holds no row of the split {split!r}{known}")
        chosen_rows = [rows[path] for path in paths]
        self._lines = [row.line for row in chosen_rows]
        self._captions = Captions([row.captions for row in chosen_rows], vocabulary, context_length)
        labels = [label_of[row.label] for row in chosen_rows]
        super().__init__(folder / images, paths, labels, [name or NO_CLASS for name in class_names])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(index) | {"text": self._captions[index]}

    def describe(self, index: int) -> str:
        return f"{self.paths[index]} ({self._table.name}, line {self._lines[index]})"


def _read(table: Path, image_column: str, caption_column: str) -> dict[str, _Row]:
    """Returns {path: what its lines say}, in the order of their first lines."""
    lines = read_csv(table)
    _, header = next(lines, (1, []))
    image = column_of(table, header, image_column, IMAGE_COLUMNS, "image")
    caption = column_of(table, header, caption_column, CAPTION_COLUMNS, "caption")
    label, split = usual_column(header, LABEL_COLUMNS), usual_column(header, SPLIT_COLUMNS)
    rows: dict[str, _Row] = {}
    for number, cells in lines:
        where = f"{table}, line {number}"
        needed = [position for position in (image, caption, label, split) if position is not None]
        if len(cells) < len(header) or any(cells[len(header) :]) or not all(cells[n] for n in needed):
            wanted = f"{len(header)} columns, with " + ", ".join(repr(header[n]) for n in needed)
            raise ValueError(f"{where}: expected {wanted}; got {cells!r}")
        path = inside_root(cells[image], where)
        row = _Row(
            [], cells[label] if label is not None else "", cells[split] if split is not None else "", number
        )
        known = rows.setdefault(path, row)
        if (known.label, known.split) != (row.label, row.split):
            raise ValueError(
                f"{where}: {path!r} has another class or split than in line {known.line}; give it one"
            )
        known.captions.append(cells[caption])
    if not rows:
        raise ValueError(f"{table} holds no row under its header {header!r}")
    return rows


make = CaptionTable
