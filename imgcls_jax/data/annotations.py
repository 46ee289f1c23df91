"""Annotation files of published data sets: JSON of COCO's kind, and MATLAB's .mat files."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.data.lists import inside_root
from imgcls_jax.data.mat_files import require_honest
from imgcls_jax.data.source import read_regular

MAX_JSON_BYTES = 2**31  # the largest, iNaturalist's of 2021, has some 1.3 GB
MAX_MAT_BYTES = 2**23  # the largest, ImageNet's meta.mat, has under 2 MB; what is in it is compressed


class CocoFile(NamedTuple):
    """What a JSON file of COCO's kind says.

    Attributes:
      images: {image id: path}, in the file's order; the paths stay inside their folder.
      categories: {category id: its fields, such as "name"}, by id.
      pairs: (image id, category id) of every annotation; both exist.
    """

    images: Mapping[int, str]
    categories: Mapping[int, Mapping[str, Any]]
    pairs: Sequence[tuple[int, int]]


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds.

    Raises:
      OSError: it cannot be read, or is larger than any list of images.
      ValueError: it is no JSON.
    """
    try:
        return json.loads(read_regular(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {str(error)[:200]}; unpack it again") from error


def read_coco(path: Path, missing: str) -> CocoFile:
    """Reads the images, categories and annotations of a JSON file as COCO defines it.

    Args:
      path: of the file.
      missing: what to do where it is absent, the remedy of an `Origin`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no such JSON, an id is listed twice, or an annotation names an unknown one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. {missing}")
    content = read_json(path)
    images: dict[int, str] = {}
    for where, entry in _entries(path, content, "images", {"id": int, "file_name": str}):
        if entry["id"] in images:
            raise ValueError(f"{where}: a second image has the id {entry['id']}")
        images[entry["id"]] = inside_root(entry["file_name"], where)
    found = {
        entry["id"]: entry for _, entry in _entries(path, content, "categories", {"id": int, "name": str})
    }
    categories = {key: found[key] for key in sorted(found)}
    pairs = []
    for where, entry in _entries(path, content, "annotations", {"image_id": int, "category_id": int}):
        pair = entry["image_id"], entry["category_id"]
        if pair[0] not in images or pair[1] not in categories:
            raise ValueError(f"{where}: there is no image {pair[0]} or no category {pair[1]}")
        pairs.append(pair)
    if not images or not categories:
        raise ValueError(
            f"{path} lists {len(images)} images and {len(categories)} categories; unpack it again"
        )
    return CocoFile(images, categories, pairs)


def _entries(path: Path, content: Any, name: str, fields: Mapping[str, type]) -> Any:
    """Yields (where it stands, entry) of a list of objects that have some fields."""
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected an object with a list {name!r}, as COCO's annotations have")
    for number, entry in enumerate(entries):
        where = f"{path}, {name}[{number}]"
        if not isinstance(entry, dict) or any(
            type(entry.get(key)) is not kind for key, kind in fields.items()
        ):
            wanted = ", ".join(f"{key} ({kind.__name__})" for key, kind in fields.items())
            raise ValueError(f"{where}: expected an object with {wanted}")
        yield where, entry


def read_mat(path: Path | Any, name: str, missing: str = "", fields: Sequence[str] = ()) -> np.ndarray:
    """Returns a variable of a .mat file of MATLAB 5 to 7.2, an array of at least one dimension.

    Args:
      path: of the file, or the open file.
      name: of the variable.
      missing: what to do where the file is absent, the remedy of an `Origin`.
      fields: that the variable, an array of structures, must have.

    Raises:
      ImportError: scipy is missing.
      FileNotFoundError: there is no such file.
      ValueError: it is no such file, claims more than it holds, or lacks the variable or a field.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(f"{path}: .mat files are read by scipy: pip install scipy") from error
    if isinstance(path, Path) and not path.is_file():
        raise FileNotFoundError(f"{path} is missing. {missing}")
    if isinstance(path, Path) and os.path.getsize(path) > MAX_MAT_BYTES:
        raise ValueError(f"{path} has over {MAX_MAT_BYTES} bytes, more than a list of images has")
    content = read_regular(path, MAX_MAT_BYTES) if isinstance(path, Path) else path.read()
    try:
        require_honest(content)
        found = loadmat(io.BytesIO(content), squeeze_me=True, variable_names=[name])
    except Exception as error:  # whatever a damaged file makes its reader say
        raise ValueError(
            f"{path} cannot be read as a .mat file: {str(error)[:200]}; unpack it again"
        ) from error
    if name not in found:
        raise ValueError(f"{path} holds no variable {name!r}; unpack it again")
    array = np.atleast_1d(found[name])
    lacking = [field for field in fields if field not in (array.dtype.names or ())]
    if lacking:
        raise ValueError(
            f"{path}: {name} has no field {lacking[0]!r}; it has {list(array.dtype.names or ())}"
        )
    return array
