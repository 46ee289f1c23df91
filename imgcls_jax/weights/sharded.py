"""Weights in several files: the index that Hugging Face writes beside them, model.safetensors.index.json.

Its `weight_map` names, for each array, the file that holds it. A file is one of the index's own folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.files import read_bytes

INDEX = ".safetensors.index.json"  # how the name of an index ends
SHARD = re.compile(r"[\w-][\w.-]{0,199}\.safetensors")  # a name, no path
MAX_BYTES = 2**26  # of an index; 10,000 names take 1 MB
MAX_SHARDS = 1000
SHOWN = 3  # names in an error


def is_index(path: str | Path) -> bool:
    """Whether a file's name is that of an index."""
    return str(path).endswith(INDEX)


def shards_of(path: Path) -> dict[str, set[str]]:
    """Returns {file: the names of its arrays} of an index, in the order of the files' names.

    Raises:
      ValueError: it is no index, names an array twice, a file by a path, or over MAX_SHARDS of them.
      OSError: it cannot be read.
    """
    try:
        content = json.loads(read_bytes(path, MAX_BYTES), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"{path}: it is nested too deep for an index of weights") from None
    except ValueError as error:
        raise ValueError(f"{path}: no index of weights: {error}") from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{path}: an index of weights has weight_map, the file of each array by its name")
    shards: dict[str, set[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or not SHARD.fullmatch(file):
            raise ValueError(
                f"{path}: {name[:100]!r} is said to be in {str(file)[:100]!r}: expected the name of a "
                ".safetensors file of the same folder"
            )
        shards.setdefault(file, set()).add(name)
    if len(shards) > MAX_SHARDS:
        raise ValueError(f"{path}: names {len(shards)} files; at most {MAX_SHARDS} are read")
    return dict(sorted(shards.items()))


def require_names(file: str, found: Iterable[str], expected: set[str]) -> None:
    """Raises ValueError where a shard does not hold exactly the arrays that the index says."""
    found = set(found)
    for what, names in (("lacks", expected - found), ("also holds", found - expected)):
        if names:
            some = ", ".join(sorted(names)[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            raise ValueError(f"{file} {what} {some}, by the index: the files do not belong together")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"it names {name[:100]!r} twice")
        content[name] = value
    return content
