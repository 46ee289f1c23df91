"""What a data set holds, in numbers and names, so that a run can tell that its data have changed.

No image is read: a split is known by its examples' names and labels, or by its labels alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.data.source import Source
from imgcls_jax.data.subsets import Subset

MAX_NAMES_BYTES = 2**30  # a list of ten million names unpacked
SHOWN = 3  # names in a message


class Contents(NamedTuple):
    """What a split holds.

    Attributes:
      examples: how many.
      names: of the examples, relative to the data's root; () where the source has none.
      labels: of the examples, those of several as one number; () where reading alone would tell.
      digest: SHA-256 of classes, names and labels, in order.
    """

    examples: int
    names: Sequence[str]
    labels: Sequence[int]
    digest: str


class Difference(NamedTuple):
    """How a split differs from what it was.

    Attributes:
      lines: what to say, a line each; () for nothing.
      grown: whether examples have come and all else is as it was.
    """

    lines: tuple[str, ...]
    grown: bool


def whole(source: Source) -> Any:
    """Returns the source that a subset, or a subset of one, was taken from."""
    while isinstance(source, Subset):
        source = source.source
    return source


def names_of(source: Source) -> list[str]:
    """Returns the paths of a source's files as it has them, in order; [] where it has no files."""
    indices = np.arange(len(source))
    while isinstance(source, Subset):
        indices = source.indices[indices]
        source = source.source
    return [source.paths[index] for index in indices] if hasattr(source, "paths") else []


def paths_of(source: Source) -> list[str]:
    """Returns the paths of a source's files, in order, [] where it has no files; links of folders are
    resolved."""
    made, paths = whole(source), names_of(source)
    folders = {path: os.path.realpath(made.root / path) for path in set(map(os.path.dirname, paths))}
    return [os.path.join(folders[os.path.dirname(path)], os.path.basename(path)) for path in paths]


def real_path(file: str | os.PathLike[str]) -> str:
    """Returns the path of a file as `paths_of` has it."""
    folder, name = os.path.split(file)
    return os.path.join(os.path.realpath(folder), name)


def files(source: Source) -> set[str]:
    """Returns `paths_of` without an order."""
    return set(paths_of(source))


def contents(source: Source) -> Contents:
    """Returns what a split holds."""
    source = whole(source)
    labels = np.zeros(0, np.int32) if source.labels is None else source.labels
    return contents_of(len(source), source.class_names, tuple(getattr(source, "paths", ())), labels)


def contents_of(
    examples: int, class_names: Sequence[str], names: Sequence[str], labels: np.ndarray
) -> Contents:
    """Returns what a split holds.

    Args:
      examples: N.
      class_names: K names.
      names: of the examples, or ().
      labels: integers [N], or [N, K] of 0 and 1, or [0] where they are not known.
    """
    labels = np.asarray(labels, "<i4")
    found = hashlib.sha256(json.dumps([examples, *class_names]).encode())
    found.update("\0".join(names).encode("utf-8", "surrogateescape"))
    found.update(np.ascontiguousarray(labels).tobytes())
    rows = labels.tolist()
    if labels.ndim == 2:
        rows = [zlib.crc32(row.tobytes()) for row in np.ascontiguousarray(labels)]
    return Contents(examples, names, tuple(rows), found.hexdigest())


def pack(splits: Mapping[str, Contents], class_names: Sequence[str]) -> dict[str, Any]:
    """Returns what a workdir keeps of its data, as JSON takes it."""
    lists = {name: [own.names, own.labels] for name, own in splits.items() if own.names}
    return {
        "class_names": list(class_names),
        "splits": {name: {"examples": own.examples, "digest": own.digest} for name, own in splits.items()},
        "names": base64.b64encode(zlib.compress(json.dumps(lists).encode(), 1)).decode(),
    }


def differing(
    kept: Mapping[str, Any], splits: Mapping[str, Contents], class_names: Sequence[str]
) -> dict[str, Difference]:
    """Returns {"classes" or a split's name: difference} of what is not as `pack` kept it.

    Args:
      kept: of `pack`, from a file.
      splits, class_names: of the data at hand; a split that was not kept is not compared.
    """
    old_classes = list(map(str, kept["class_names"]))
    if old_classes != list(class_names):
        return {"classes": Difference((_of_classes(old_classes, class_names),), False)}
    changed = {
        name: own
        for name, own in splits.items()
        if name in kept["splits"] and kept["splits"][name]["digest"] != own.digest
    }
    lists = _unpacked(kept.get("names", "")) if changed else {}
    return {
        name: _of_split(name, lists.get(name), int(kept["splits"][name]["examples"]), own)
        for name, own in changed.items()
    }


def _unpacked(text: str) -> dict[str, Any]:
    """Returns {split: [names, labels]}; {} where they are damaged."""
    try:
        packed = zlib.decompressobj()
        lists = json.loads(packed.decompress(base64.b64decode(text), MAX_NAMES_BYTES))
        return lists if isinstance(lists, dict) else {}
    except (ValueError, zlib.error, TypeError, RecursionError):
        return {}


def _of_classes(old: Sequence[str], new: Sequence[str]) -> str:
    gone, come = [c for c in old if c not in new], [c for c in new if c not in old]
    parts = [f"{_named(found)} {is_}" for found, is_ in ((gone, "is gone"), (come, "is new")) if found]
    return f"classes: {', '.join(parts) or 'they have another order'}"


def _of_split(name: str, kept: Any, old_examples: int, now: Contents) -> Difference:
    if not (isinstance(kept, list) and len(kept) == 2 and now.names):
        changed = f"{now.examples} examples, {old_examples} before"
        if now.examples == old_examples:
            changed = "the same number of examples, other labels or another order"
        return Difference((f"split {name!r}: {changed}",), False)
    old, new = (dict(zip(*lists, strict=False)) for lists in (kept, (now.names, now.labels)))
    come = [key for key in new if key not in old]
    gone = [key for key in old if key not in new]
    moved = [key for key in new if key in old and old[key] != new[key]]
    parts = [
        f"{len(keys)} {'image' if len(keys) == 1 else 'images'} {what} ({_named(keys)})"
        for keys, what in ((come, "more"), (gone, "gone"), (moved, "with another label"))
        if keys
    ]
    return Difference(
        (f"split {name!r}: {', '.join(parts) or 'the same images in another order'}",),
        bool(come) and not gone and not moved,
    )


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown
