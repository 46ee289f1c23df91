"""What a data set is to the rest of the project: the protocol `Source`, and two classes to build one from.

`Arrays` holds images in memory. `Files` reads image files from one folder. `require_source` checks a source
that was just opened, so that a mistake in its file is reported before the first step.
"""

from __future__ import annotations

import errno
import os
import reprlib
import stat
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from imgcls_jax.runtime import buckets

Root = str | os.PathLike[str]
Indices = Sequence[int] | np.ndarray

MAX_IMAGE_BYTES = 2**30  # PIL.Image.MAX_IMAGE_PIXELS of 16-bit RGBA, uncompressed, are 0.7 GB

# The parts of `Source`, as messages describe them.
PARTS = {
    "__len__": "a length, len(source)",
    "__getitem__": "elements source[i] = {'image': uint8 [H, W, C] or bytes, 'label': int32 [] or [K]}",
    "describe": "describe(i), which says where an element comes from",
    "class_names": "class_names, a tuple of K strings",
    "labels": "labels, integers [N] in 0..K-1, or [N, K] of 0 and 1, or None",
}


class Source(Protocol):
    """A data set with random access. The input pipeline and the evaluators read it by index.

    A file of `data/sources/` opens one with `make(split, *, root, ...)`. An element is a dictionary with
        image: uint8 [H, W, C], or the `bytes` of an encoded image file, which the transform `decode` decodes;
        label: int32 scalar in [0, K), or int32 [K] of 0 and 1 where an image has any number of labels;
    and any further fields of the data set, such as the boxes of `Cub200`. A source in memory may also be a
    `GatheringSource`. What a run says of a split at its start it finds in two more attributes, where a source
    has them: `rule`, by what rule the split was made ("from FOLDER/train"), and `left_out`, {kind: files that
    are no images}. `paths`, N names, tell a run that its data have changed, and which. `groups`, integers
    [N], say which examples belong together, as photos of one patient: a cross-validation keeps them in one
    fold.

    Attributes:
        class_names: K names; a label is an index into them.
        labels: int32 [N] or [N, K], the label of every element; None where only reading every element would
            tell.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> np.ndarray | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def describe(self, index: int) -> str:
        """Returns where element `index` comes from, for error messages."""
        ...


class GatheringSource(Source, Protocol):
    """A source that also returns a whole batch at once, such as `Arrays`."""

    def gather(self, indices: Indices) -> dict[str, np.ndarray]:
        """Returns the elements at integer indices [B] as arrays [B, ...], new ones."""
        ...


def require_source(source: Any, where: str) -> None:
    """Checks that an opened source keeps the protocol `Source`.

    Reads the first element. A first image that cannot be read passes: `data.on_bad_example` decides about it.

    Args:
        source: what `make` returned.
        where: the file of that `make`, for the message.

    Raises:
        ValueError: a part of the protocol is missing, or of another kind.
    """

    def refuse(part: str, got: str) -> NoReturn:
        raise ValueError(
            f"{where}: make() must return a source with {PARTS[part]}; its {type(source).__name__} {got} "
            "(see Source in imgcls_jax/data/source.py)"
        )

    for part in PARTS:
        if not hasattr(source, part):
            refuse(part, f"has no {part}")
    names, labels, count = source.class_names, source.labels, len(source)
    if not (isinstance(names, (tuple, list)) and names and all(isinstance(name, str) for name in names)):
        refuse("class_names", f"has {_shown(names)}")
    if labels is not None:
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
            refuse("labels", f"has {_shown(labels)}")
        if labels.shape not in ((count,), (count, len(names))):
            refuse("labels", f"has labels {list(labels.shape)} with N = {count} and K = {len(names)}")
        largest = 1 if labels.ndim == 2 else len(names) - 1
        if count and not (labels.min() >= 0 and labels.max() <= largest):
            refuse("labels", f"has labels from {labels.min()} to {labels.max()} with K = {len(names)}")
    if not count:
        return
    try:
        element = source[0]
    except (OSError, ValueError, SyntaxError, EOFError):  # as in data/pipeline.py
        return
    if not _is_element(element, len(names)):
        refuse("__getitem__", f"gives {_shown(element)} for [0]")


def _is_element(element: Any, num_classes: int) -> bool:
    if not isinstance(element, Mapping) or not {"image", "label"} <= element.keys():
        return False
    image, label = element["image"], np.asarray(element["label"])
    is_array = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
    return (is_array or isinstance(image, bytes)) and (
        label.dtype.kind in "iu" and label.shape in ((), (num_classes,))
    )


def _shown(value: Any) -> str:
    """Returns a short description: type and shape of arrays, the fields of a dictionary, else the value."""
    if isinstance(value, (np.ndarray, np.generic)):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    return f"bytes [{len(value)}]" if isinstance(value, bytes) else reprlib.repr(value)


def class_counts(source: Source) -> tuple[int, ...]:
    """Returns K numbers: how many elements each class or label has; () where the source has no `labels`."""
    labels = source.labels
    if labels is None:
        return ()
    counts = (
        labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(source.class_names))
    )
    return tuple(counts.tolist())


def require_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, choices))}; got {value!r}")


class Arrays:
    """A source of images in memory.

    Args:
        images: uint8 [N, H, W, C], C = 1 for gray.
        labels: integers [N] in [0, K).
        class_names: K names.
        name: of the data set, for messages.

    Raises:
        ValueError: another dtype or shape, or a label out of range.
    """

    rule = ""

    def __init__(self, images: np.ndarray, labels: Indices, class_names: Sequence[str], name: str) -> None:
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8 or images.ndim != 4:
            got = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"{name}: images must be uint8 [N, H, W, C]; got {got}")
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            wanted, got = f"integers [{len(images)}], one an image", f"{labels.dtype} {list(labels.shape)}"
            raise ValueError(f"{name}: labels must be {wanted}; got {got}")
        check_labels(labels, len(class_names), name)
        self.images = images
        self.labels = labels.astype(np.int32)
        self.class_names = tuple(class_names)
        self.name = name

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        return self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index].copy(), "label": self.labels[index]}

    def gather(self, indices: Indices) -> dict[str, np.ndarray]:
        """Returns new arrays {"image": uint8 [B, H, W, C], "label": int32 [B]} for integer indices [B]."""
        return {"image": self.images.take(indices, axis=0), "label": self.labels.take(indices)}

    def describe(self, index: int) -> str:
        return f"{self.name}[{index}]"


def check_labels(labels: np.ndarray, num_classes: int, where: str | Path) -> None:
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        first = outside[0]
        got = f"example {first} has {labels[first]}"
        raise ValueError(f"{where}: labels must lie in 0..{num_classes - 1}; {got}")


def read_regular(path: Root, limit: int = MAX_IMAGE_BYTES) -> bytes:
    """Returns what a file holds.

    Raises:
        OSError: it cannot be read, is a pipe or a device, which may never end, or holds over `limit` bytes.
    """
    if buckets.is_bucket(path):
        try:
            return buckets.read_bytes(buckets.as_path(path), limit)
        except ValueError as error:
            raise OSError(errno.EFBIG, str(error), os.fspath(path)) from error
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size <= limit:
            return file.read(limit)
    raise OSError(errno.EFBIG, f"over {limit / 2**30:.3g} GiB, more than an image may have", os.fspath(path))


class Files:
    """A source of image files under one folder. It returns the files as they are, undecoded.

    Attributes:
        rule, left_out: see `Source`.

    Args:
        root: the folder that the paths start from.
        paths: N paths relative to root, at least one.
        labels: integers [N] in [0, K), or of 0 and 1 [N, K], already checked.
        class_names: K names.

    Raises:
        FileNotFoundError: the first file is not there.
    """

    rule = ""
    left_out: Mapping[str, int] = types.MappingProxyType({})

    def __init__(
        self, root: Path, paths: Sequence[str], labels: npt.ArrayLike, class_names: Sequence[str]
    ) -> None:
        self.root = root
        self.paths = list(paths)
        self.labels = np.asarray(labels, np.int32)
        self.class_names = tuple(class_names)
        first = root / self.paths[0]
        # os.path says False for names too long, too.
        if not (first.exists() if buckets.is_bucket(first) else os.path.isfile(first)):
            raise FileNotFoundError(f"{self.describe(0)}: no such file under {root}, where paths must start")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            image = read_regular(self.root / self.paths[index])
        except OSError as error:
            where = f"{self.describe(index)} under {self.root}"
            raise type(error)(f"cannot read {where}: {error.strerror}") from error
        return {"image": image, "label": self.labels[index]}

    def describe(self, index: int) -> str:
        return str(self.root / self.paths[index])
