"""Your own images, listed with their labels in text files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imgcls_jax.data.folders import require_folder
from imgcls_jax.data.lists import read_list, read_names
from imgcls_jax.data.source import Files, Root


class ListFile(Files):
    """Image files listed in a text file, one "path label" line each.

    The last word of a line is the label, so paths may hold spaces; paths are relative to root. Blank lines,
    CRLF line ends and a byte order mark are accepted.

    Args:
        split: takes the place of "{split}" in list_file.
        root: the folder that the paths start from.
        list_file: the list, relative to root, or an absolute path.
        classes: optional file, relative to root or absolute, with one class name a line. Without it the names
            are "0".."K-1", where K - 1 is the largest label in this list and in that of "train".

    Raises:
        FileNotFoundError: root, the list, the class file or the first image is missing.
        ValueError: a line without a label, with a label that is no class, with a path that leaves root or is
            listed twice, or an empty list; the message names the file and the line.
    """

    def __init__(
        self, split: str, *, root: Root, list_file: str = "{split}.txt", classes: str | None = None
    ) -> None:
        folder = require_folder(root, f"the list {list_file.replace('{split}', split)} and the images")
        self._list, train_list = (folder / list_file.replace("{split}", name) for name in (split, "train"))
        paths, labels, self._line_numbers = read_list(self._list)
        if classes is not None:
            class_names = read_names(folder / classes)
            self._check_labels(labels, folder / classes, len(class_names))
        else:
            largest = labels.max()
            if train_list != self._list and train_list.is_file():
                largest = max(largest, read_list(train_list)[1].max())
            class_names = tuple(map(str, range(largest + 1)))
        super().__init__(folder, paths, labels, class_names)

    def _check_labels(self, labels: np.ndarray, classes_path: Path, num_classes: int) -> None:
        for index in np.flatnonzero(labels >= num_classes)[:1]:
            where = f"{self._list}, line {self._line_numbers[index]}"
            raise ValueError(f"{where}: label {labels[index]}, but {classes_path} names 0..{num_classes - 1}")

    def describe(self, index: int) -> str:
        return f"{self.paths[index]} ({self._list.name}, line {self._line_numbers[index]})"


make = ListFile
