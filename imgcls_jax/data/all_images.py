"""Every image of a folder, or of some splits of a source, to look at one by one."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.config.modules import find_function
from imgcls_jax.data.folders import all_labeled
from imgcls_jax.data.source import read_regular


class Row(NamedTuple):
    """An image to look at.

    Attributes:
      name, split, label: the image's name, its split, "" where there are none, and the name of its class.
      read: returns it, encoded or as an array.
    """

    name: str
    split: str
    label: str
    read: Callable[[], Any]


def rows_of_folder(root: Path) -> tuple[list[Row], Mapping[str, int]]:
    """Lists every image below a folder, and counts {kind: number} of what is no image.

    Raises:
      ValueError: there is no image, or one lies in no class folder.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    left_out: collections.Counter[str] = collections.Counter()
    rows = []
    for split, part in list(all_labeled(root)):
        stray = part.left_out.get("beside the class folders")
        if stray:
            raise ValueError(
                f"{part.folder}: {stray} of its images lies in no class folder; expected <class>/<image>"
            )
        left_out.update(part.left_out)
        for path, label in zip(part.paths, part.names, strict=True):
            file = part.folder / path
            name = file.relative_to(root).as_posix()
            rows.append(Row(name, split, label, functools.partial(read_regular, file)))
    return rows, left_out


def rows_of_source(root: Path, name: str, splits: Sequence[str]) -> tuple[list[Row], Mapping[str, int]]:
    """Lists every image of some splits of a source, as rows_of_folder does.

    Raises:
      ValueError, OSError: there is no such source, or it cannot be opened.
    """
    left_out: collections.Counter[str] = collections.Counter()
    rows = []
    for split in splits:
        source = find_function("data.sources", name, "make")(split, root=root)
        left_out.update(getattr(source, "left_out", {}))
        paths = getattr(source, "paths", None)
        for index in range(len(source)):
            label = () if source.labels is None else source.labels[index]
            classes = " + ".join(
                source.class_names[k] for k in (np.flatnonzero(label) if np.ndim(label) else [label])
            )
            own = source.describe(index) if paths is None else paths[index]
            rows.append(Row(own, split, classes, functools.partial(_image_of, source, index)))
    return rows, left_out


def _image_of(source: Any, index: int) -> Any:
    return source[index]["image"]
