"""Your own images, listed with their labels in text files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imgcls_jax.data.folders import expanded, require_folder
from imgcls_jax.data.lists import pattern_for, quoted_inside, read_list, read_names
from imgcls_jax.data.source import Files, Root


class ListFile(Files):
    """Image files listed in a text file, one "path label" line each.

    The last word of a line is the label, so paths may hold spaces; paths are relative to root. Blank lines,
    CRLF line ends and a byte order mark are accepted.

    Args:
        split: takes the place of "{split}" in list_file; without such a file the one whose name means
            the same is taken ("Train", "validation").
        root: the folder that the paths start from.
        list_file: the list, relative to root, or an absolute path.
        classes: optional file, relative to root or absolute, with one class name a line. Without it the names
            are "0".."K-1", where K - 1 is the largest label in this list and in that of "train".

    Raises:
        FileNotFoundError: root, the list, the class file or the first image is missing.
        ValueError: a line without a label, with a label that is no class, with a path that leaves root or is
            listed twice, an empty list, or, without `classes`, a label of 0..K-1 that no image has; the
            message names the file and the line.
    """

    def __init__(
        self, split: str, *, root: Root, list_file: str = "{split}.txt", classes: str | None = None
    ) -> None:
        holds = f"the list {list_file.replace('{split}', split)} and the images"
        folder = require_folder(root, holds, in_store=True)
        self._list, train_list = (pattern_for(name, folder, list_file) for name in (split, "train"))
        with quoted_inside(folder, self._list):
            paths, labels, self._line_numbers = read_list(self._list)
        if classes is not None:
            names_file = folder / expanded(classes)
            with quoted_inside(folder, names_file):
                class_names = read_names(names_file)
            self._check_labels(labels, names_file, len(class_names))
        else:
            present = set(labels.tolist())
            if train_list != self._list and train_list.is_file():
                with quoted_inside(folder, train_list):
                    present |= set(read_list(train_list)[1].tolist())
            self._require_no_gap(present)
            class_names = tuple(map(str, range(max(present) + 1)))
        self.rule = f"listed in {self._list}"
        super().__init__(folder, paths, labels, class_names)

    def _check_labels(self, labels: np.ndarray, classes_path: Path, num_classes: int) -> None:
        for index in np.flatnonzero(labels >= num_classes)[:1]:
            where = f"{self._list}, line {self._line_numbers[index]}"
            raise ValueError(f"{where}: label {labels[index]}, but {classes_path} names 0..{num_classes - 1}")

    def _require_no_gap(self, present: set[int]) -> None:
        """Raises ValueError where a class would have no image, as where labels count from 1."""
        largest = max(present)
        missing = next((label for label in range(largest + 1) if label not in present), None)
        if missing is not None:
            raise ValueError(
                f"{self._list}: no image has the label {missing}, and {largest} is one: labels count from 0, "
                "without gaps. Number them so, or name the classes, those without images too, in a file of "
                "config.data.classes"
            )

    def describe(self, index: int) -> str:
        return f"{self.paths[index]} ({self._list.name}, line {self._line_numbers[index]})"


make = ListFile
