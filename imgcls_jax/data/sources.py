"""Sources: random access data sets, one class each, all behind the protocol `Source`.

A source is made by `Class(split, *, root, ...)`, with a split such as "train", "val" or "test", and is read
by index. An element is a dictionary with
    image: uint8 array [H, W, C], or the `bytes` of an encoded image file, to be decoded by transforms.py
    label: int32 scalar in [0, K), or of 0 and 1 [K] where an image has any number of labels
and, where the data set has them, further fields (Cub200). Sources in memory derive from `Arrays`, which also
gathers a whole batch at once. A configuration names a class in snake case: image_folder is `ImageFolder`.

Every source pickles, so that worker processes can hold it; keeps no file open; and executes nothing that it
reads, so pickled data sets are refused. Splits that no file fixes depend on the labels and a seed alone.

What is missing or wrong on disk is reported when the source is made, by a FileNotFoundError or a ValueError
that names the file (and line) and the remedy. Image files after the first are looked for when they are read.
"""

from __future__ import annotations

import csv
import errno
import gzip
import math
import os
import re
import stat
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

IMAGE_SUFFIXES = tuple(".jpg .jpeg .jpe .png .bmp .gif .webp .tif .tiff .ppm .pgm .pbm .pnm".split())
SPLIT_FOLDERS = ("train", "val", "test")
MAX_IDX_BYTES = 2**30  # EMNIST, the largest of the kind, has 0.6 GB
MAX_NUMBER = 2**31  # ids and pixels lie below
MAX_LINE = 2**16  # characters of a line of a list
MAX_CLASSES = 1_000_000  # a larger integer at the end of a list's line is an id or a date, not a class index

Root = str | os.PathLike[str]
Indices = Sequence[int] | np.ndarray


class Source(Protocol):
    """What the input pipeline and the evaluators need of a data set.

    Attributes:
        class_names: K names; a label is an index into them.
        labels: int32 [N] or [N, K], the label of every element, or None where only reading every element
            would tell.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def describe(self, index: int) -> str:
        """Says where element `index` comes from, for error messages."""
        ...


def class_counts(source: Source) -> tuple[int, ...]:
    """Returns K numbers, the elements of each class or label; () where the source has no `labels`."""
    labels = source.labels
    if labels is None:
        return ()
    counts = (
        labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(source.class_names))
    )
    return tuple(counts.tolist())


def _shuffled_in_classes(labels: Indices, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the examples class by class, each class at random, and the place of each within its class."""
    order = np.lexsort((np.random.PCG64(seed).random_raw(len(labels)), labels))
    counts = np.unique(labels, return_counts=True)[1]
    return order, np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)


def stratified_split(labels: Indices, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits N examples at random, class by class.

    Of n examples of a class floor(n * fraction + 1/2) are held out.

    Args:
        labels: integers [N]; constant labels give a plain random split.
        fraction: part to hold out, in (0, 1).
        seed: non-negative integer; the same labels, fraction and seed give the same split everywhere.

    Returns:
        (train_indices, test_indices): int64, sorted, disjoint, together 0..N-1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the held-out fraction must lie between 0 and 1 (both excluded), got {fraction}")
    # Raw PCG64 words, because numpy does not promise that permutation() stays the same across versions.
    counts = np.unique(labels, return_counts=True)[1]
    order, rank_in_class = _shuffled_in_classes(labels, seed)
    held_out = np.floor(np.round(counts * fraction, 9) + 0.5)  # 45 * 0.7 is 31.4999... where 31.5 is meant
    is_test = rank_in_class < np.repeat(held_out, counts)
    return np.sort(order[~is_test]), np.sort(order[is_test])


def balanced_subset(labels: Indices, per_class: int, seed: int) -> np.ndarray:
    """Chooses the same number of examples of every class at random.

    Args:
        labels: integers [N].
        per_class: how many of each class that occurs, at least 1.
        seed: non-negative integer; the same labels, number and seed give the same choice everywhere, and a
            larger number keeps all that a smaller one chose.

    Returns:
        int64 [per_class * K], sorted.

    Raises:
        ValueError: a class has fewer examples.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if per_class < 1 or counts.min() < per_class:
        raise ValueError(
            f"class {classes[counts.argmin()]} has {counts.min()} examples; cannot choose {per_class} of each"
        )
    order, rank_in_class = _shuffled_in_classes(labels, seed)
    return np.sort(order[rank_in_class < per_class])


def long_tailed_subset(labels: Indices, factor: float, seed: int) -> np.ndarray:
    """Chooses ever fewer examples from class to class, by the usual exponential profile.

    Eq.: n_c = floor(n factor^(-c / (K - 1))), n the size of the largest class, so that the first class has
    factor times as many as the last (Cui et al. 2019, arXiv:1901.05555); a class that has fewer keeps all.

    Args:
        labels: integers [N] in [0, K), K at least 2.
        factor: at least 1.
        seed: non-negative integer; a larger factor keeps a part of what a smaller one keeps.

    Returns:
        int64 [n], sorted.

    Raises:
        ValueError: factor is below 1, or leaves a class without examples.
    """
    if factor < 1:
        raise ValueError(f"an imbalance factor is at least 1; got {factor}")
    counts = np.bincount(labels)
    sizes = np.floor(counts.max() * float(factor) ** (-np.arange(len(counts)) / max(len(counts) - 1, 1)))
    if np.minimum(sizes, counts).min() < 1:
        raise ValueError(
            f"an imbalance factor of {factor} leaves one of {len(counts)} classes without examples"
        )
    order, rank_in_class = _shuffled_in_classes(labels, seed)
    return np.sort(order[rank_in_class < sizes[np.asarray(labels)[order]]])


def oversampled(labels: Indices) -> np.ndarray:
    """Repeats the examples of smaller classes until each has as many as the largest.

    Args:
        labels: integers [N].

    Returns:
        int64 [n], class by class; an example comes as often as any other of its class, to within one.
    """
    labels = np.asarray(labels)
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    largest = max(len(own) for own in members)
    return np.concatenate([np.resize(own, largest) for own in members])


def read_regular(path: Root) -> bytes:
    """Returns what a file holds.

    Raises:
        OSError: it cannot be read, or is a pipe or a device, which may never end.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return Path(path).read_bytes()


def _require_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def _require_folder(root: Root, holds: str) -> Path:
    folder = Path(root).expanduser()
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"root {str(folder)!r} is not a folder; it should hold {holds}")
    return folder


def _locate(root: Root, folder: str, marker: str, remedy: str) -> Path:
    """Returns root or root/folder, whichever holds the file `marker`."""
    root = Path(root).expanduser()
    for candidate in (root, root / folder):
        if os.path.isfile(candidate / marker):
            return candidate
    raise FileNotFoundError(f"neither {root} nor {root / folder} holds {marker}; {remedy}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, stripped text) for the lines that are not blank."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} is missing; restore it, or mend root or its name in the config")
    # surrogateescape is how Python spells file names that are not UTF-8, so such lists find their files.
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, text in enumerate(file, start=1):
            if len(text) > MAX_LINE or "\0" in text:
                raise ValueError(
                    f"{path}, line {number}: a NUL or over {MAX_LINE} characters; is this a list in UTF-8?"
                )
            if text.strip():
                yield number, text.strip()


def _names(path: Path, expected: int | None = None) -> tuple[str, ...]:
    names = tuple(text for _, text in _lines(path))
    if not names or (expected is not None and len(names) != expected):
        raise ValueError(f"{path}: expected {expected or 'some'} class names, one a line; got {len(names)}")
    _check_names(names, path)
    return names


def _check_names(names: Sequence[str], path: Path) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: two classes are named {twice!r}; give each a name of its own")


class Subset:
    """Some elements of a source, as a source.

    Args:
        source: of the elements.
        indices: integers [n] into it.
    """

    def __init__(self, source: Source, indices: Indices) -> None:
        self.source, self.indices = source, np.asarray(indices)
        self.class_names = source.class_names
        self.labels = None if source.labels is None else source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.indices[index])]

    def describe(self, index: int) -> str:
        return self.source.describe(int(self.indices[index]))


class GatheredSubset(Subset):
    """The same of a source in memory."""

    def gather(self, indices: Indices) -> dict[str, np.ndarray]:
        """Returns the source's columns for integer indices [B] into the subset."""
        return self.source.gather(self.indices[indices])


def subset(source: Source, indices: Indices) -> Subset:
    """Returns the elements `indices` of a source, gathered at once where the source can."""
    return (GatheredSubset if hasattr(source, "gather") else Subset)(source, indices)


# ---- In memory


class Arrays:
    """Images held in memory; the base of the sources below.

    Args:
        images: uint8 [N, H, W, C], C = 1 for grey.
        labels: integers [N] in [0, K).
        class_names: K names.
        name: how messages call the data set.

    Raises:
        ValueError: another dtype or shape, or a label out of range.
    """

    def __init__(self, images: np.ndarray, labels: Indices, class_names: Sequence[str], name: str) -> None:
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8 or images.ndim != 4:
            got = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"{name}: images must be uint8 [N, H, W, C]; got {got}")
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            wanted, got = f"integers [{len(images)}], one an image", f"{labels.dtype} {list(labels.shape)}"
            raise ValueError(f"{name}: labels must be {wanted}; got {got}")
        _check_labels(labels, len(class_names), name)
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


def _check_labels(labels: np.ndarray, num_classes: int, where: str | Path) -> None:
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        first = outside[0]
        got = f"example {first} has {labels[first]}"
        raise ValueError(f"{where}: labels must lie in 0..{num_classes - 1}; {got}")


class Digits(Arrays):
    """scikit-learn's handwritten digits: 1,797 grey 8x8 images, 10 classes, 20 % of each class in "test".

    Args:
        split: "train" or "test".
        root: not read; scikit-learn carries the images.
    """

    def __init__(self, split: str, *, root: Root | None = None) -> None:
        _require_choice("the split of Digits", split, ("train", "test"))
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError("Digits needs scikit-learn: pip install scikit-learn") from error
        digits = load_digits()
        indices = stratified_split(digits.target, 0.2, seed=0)[split == "test"]
        images = np.round(digits.images[indices] * (255 / 16)).astype(np.uint8)[..., None]  # 0..16 -> 0..255
        super().__init__(images, digits.target[indices], "0123456789", f"Digits/{split}")


def _find_idx(root: Path, stem: str, rank: int) -> Path:
    names = [f"{stem}{separator}idx{rank}-ubyte{suffix}" for separator in "-." for suffix in ("", ".gz")]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"{root} holds none of {', '.join(names)}; download the official files into it")


def _read_idx(path: Path, rank: int) -> np.ndarray:
    """Reads an idx file of unsigned bytes, compressed or not, into a uint8 array of the given rank."""
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    try:
        with (gzip.open if compressed else open)(path, "rb") as file:
            return _parse_idx(file, path, rank)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); download it again") from error


def _parse_idx(file: BinaryIO, path: Path, rank: int) -> np.ndarray:
    """Reads the header, and of the rest no more than it announces: a small gzip file may hold terabytes."""
    magic = bytes([0, 0, 8, rank])  # two zero bytes, 8 for unsigned byte, the number of dimensions
    header = file.read(4 + 4 * rank)
    if header[:4] != magic:
        got = header[:4].hex() or "nothing"
        raise ValueError(f"{path}: expected the idx magic number {magic.hex()}, got {got}; download it again")
    shape = [int.from_bytes(header[at : at + 4], "big") for at in range(4, len(header), 4)]
    size = math.prod(shape)
    if len(shape) < rank or not 0 < size <= MAX_IDX_BYTES:
        raise ValueError(f"{path}: its header means shape {shape}, which no MNIST has; download it again")
    content = file.read(size + 1)
    if len(content) != size:
        got = f"got {len(content)}" if len(content) < size else "there are more"
        raise ValueError(
            f"{path}: its header means shape {shape} and {size} bytes after it; {got}; download it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


class Mnist(Arrays):
    """MNIST in its official idx files, plain or .gz, spelled train-images-idx3-ubyte or train-images.idx3-...

    Args:
        split: "train" or "test" (files t10k-*).
        root: the folder that holds the four files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file's magic number, size or a label is wrong; the message names the file.
    """

    _class_names: Sequence[str] = "0123456789"

    def __init__(self, split: str, *, root: Root) -> None:
        name = type(self).__name__
        _require_choice(f"the split of {name}", split, ("train", "test"))
        folder = _require_folder(root, f"the official idx files of {name}")
        stem = {"train": "train", "test": "t10k"}[split]
        images_path = _find_idx(folder, f"{stem}-images", 3)
        labels_path = _find_idx(folder, f"{stem}-labels", 1)
        images, labels = _read_idx(images_path, 3), _read_idx(labels_path, 1)
        if len(images) != len(labels):
            counts = f"{len(images)} images, but {labels_path} {len(labels)} labels"
            raise ValueError(f"{images_path} holds {counts}; download both again")
        _check_labels(labels, len(self._class_names), labels_path)
        super().__init__(images[..., None], labels, self._class_names, f"{name}/{split}")


class FashionMnist(Mnist):
    """Fashion-MNIST: files and arguments as Mnist, with other images and class names."""

    _class_names = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")


def _read_cifar(path: Path, label_counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Reads one binary batch; `label_counts` holds the number of classes behind each label byte of a record.

    Returns:
        (images uint8 [N, 32, 32, 3], label bytes uint8 [N, len(label_counts)]).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; unpack the official binary archive again")
    content = np.fromfile(path, np.uint8)
    record = len(label_counts) + 3 * 32 * 32
    if not len(content) or len(content) % record:
        raise ValueError(
            f"{path}: expected records of {record} bytes, got {len(content)} bytes in all; it is cut short "
            f"or no binary CIFAR batch, so unpack the official binary archive again"
        )
    records = content.reshape(-1, record)
    for column, num_classes in enumerate(label_counts):
        _check_labels(records[:, column], num_classes, path)
    planes = records[:, len(label_counts) :].reshape(-1, 3, 32, 32)  # [N, C, H, W]
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, : len(label_counts)].copy()


def _locate_cifar(root: Root, folder: str, marker: str, pickled: Sequence[str]) -> Path:
    remedy = "download the binary version (cifar-10-binary.tar.gz, cifar-100-binary.tar.gz), unpack it there"
    try:
        return _locate(root, folder, marker, remedy)
    except FileNotFoundError:
        for found in (Path(root).expanduser() / name for name in pickled):
            if found.exists():
                reason = "the pickled Python version, which is not read because unpickling can run any code"
                raise ValueError(f"{found} is {reason}; {remedy}") from None
        raise


class Cifar10(Arrays):
    """CIFAR-10, 32x32 RGB, in the official binary version.

    Args:
        split: "train" (data_batch_1..5.bin) or "test" (test_batch.bin).
        root: the folder cifar-10-batches-bin, or the one that holds it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: only the pickled version is there, or a file's size or a label is wrong.
    """

    def __init__(self, split: str, *, root: Root) -> None:
        _require_choice("the split of Cifar10", split, ("train", "test"))
        pickled = ("cifar-10-batches-py", "data_batch_1")
        folder = _locate_cifar(root, "cifar-10-batches-bin", "batches.meta.txt", pickled)
        files = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
        batches = [_read_cifar(folder / name, [10]) for name in files[split]]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        super().__init__(images, labels[:, 0], _names(folder / "batches.meta.txt", 10), f"Cifar10/{split}")


class Cifar100(Arrays):
    """CIFAR-100, 32x32 RGB, in the official binary version.

    Args:
        split: "train" (train.bin) or "test" (test.bin).
        root: the folder cifar-100-binary, or the one that holds it.
        label: "fine" for the 100 classes, "coarse" for the 20 superclasses.

    Raises:
        As Cifar10.
    """

    def __init__(self, split: str, *, root: Root, label: str = "fine") -> None:
        _require_choice("the split of Cifar100", split, ("train", "test"))
        _require_choice("the label of Cifar100", label, ("fine", "coarse"))
        pickled = ("cifar-100-python", "meta")
        folder = _locate_cifar(root, "cifar-100-binary", "fine_label_names.txt", pickled)
        images, labels = _read_cifar(folder / f"{split}.bin", [20, 100])
        column, num_classes = {"coarse": (0, 20), "fine": (1, 100)}[label]
        class_names = _names(folder / f"{label}_label_names.txt", num_classes)
        super().__init__(images, labels[:, column], class_names, f"Cifar100/{split}")


# ---- Image files


class Files:
    """Image files under one folder, handed out as they are; the base of the sources below.

    Args:
        root: the folder that the paths start from.
        paths: N paths relative to root, at least one.
        labels: integers [N] in [0, K), or of 0 and 1 [N, K], already checked.
        class_names: K names.

    Raises:
        FileNotFoundError: the first file is not there.
    """

    def __init__(self, root: Path, paths: Sequence[str], labels: Indices, class_names: Sequence[str]) -> None:
        self.root = root
        self.paths = list(paths)
        self.labels = np.asarray(labels, np.int32)
        self.class_names = tuple(class_names)
        if not os.path.isfile(root / self.paths[0]):  # False for names too long, too
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


def _subfolders(folder: Path) -> list[str]:
    folders = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    return sorted(name for name in folders if not name.startswith("."))


def _class_folders(folder: Path) -> list[str]:
    names = _subfolders(folder)
    if not names:
        raise ValueError(f"{folder} holds no class folder; expected {folder}/<class>/<image file>")
    return names


def _image_files(folder: Path) -> list[str]:
    """Returns the image files below `folder` at any depth, relative to it and sorted, without hidden ones."""

    def stop(error: OSError) -> None:
        raise error

    paths = []
    for parent, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(parent, folder)
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                paths.append(os.path.normpath(os.path.join(inside, name)))
    if not paths:
        raise ValueError(f"{folder} holds no image file ({' '.join(IMAGE_SUFFIXES)}); add some or remove it")
    return sorted(paths)


class ImageFolder(Files):
    """A folder a class: root/<split>/<class>/<image>, or root/<class>/<image> without split folders.

    Classes and files are taken in sorted order, images at any depth below the class. Hidden files, files of
    other kinds and images outside every class folder are left out. With split folders the classes are those
    of root/train where it exists; another split may lack some of them but hold no other. Without (root has no
    folder train, val or test), a fixed stratified split holds out test_fraction of each class: "train" is the
    rest, and every other split name is the part held out.

    Args:
        split: the name of the folder, or of the part.
        root: as above.
        test_fraction: part of each class that is not "train", in (0, 1); read without split folders only.
        split_seed: seed of that split.

    Raises:
        FileNotFoundError: root or the split's folder is missing.
        ValueError: a folder without classes or images, a class that train lacks, or an empty part.
    """

    def __init__(self, split: str, *, root: Root, test_fraction: float = 0.2, split_seed: int = 0) -> None:
        top = _require_folder(root, "<split>/<class>/<image> or <class>/<image>")
        has_splits = any((top / name).is_dir() for name in SPLIT_FOLDERS)
        folder = top / split if has_splits else top
        if has_splits and split not in _subfolders(top):
            raise FileNotFoundError(f"{folder} is missing; the split folders of {top} are {_subfolders(top)}")
        class_names = _class_folders(top / "train" if (top / "train").is_dir() else folder)
        label_of = {name: label for label, name in enumerate(class_names)}
        paths, labels = [], []
        for name in _class_folders(folder):
            if name not in label_of:
                remedy = f"add it there or remove {folder / name}"
                raise ValueError(f"{folder} holds the class {name!r}, which {top / 'train'} lacks; {remedy}")
            files = _image_files(folder / name)
            paths += [os.path.join(name, file) for file in files]
            labels += [label_of[name]] * len(files)
        if not has_splits:
            indices = stratified_split(labels, test_fraction, split_seed)[split != "train"]
            if not len(indices):
                raise ValueError(
                    f"{top}: test_fraction={test_fraction} of {len(paths)} images in {len(class_names)} "
                    f"classes leaves none for the split {split!r}; change it or add images"
                )
            paths, labels = [paths[index] for index in indices], [labels[index] for index in indices]
        super().__init__(folder, paths, labels, class_names)


def _parse_list_line(text: str, where: str) -> tuple[str, int]:
    """Takes "path label" apart: (normalised path inside root, label)."""
    words = text.rsplit(maxsplit=1)
    if len(words) < 2:
        raise ValueError(f"{where}: expected 'path label', got {text!r}; add the label")
    label = words[1]
    short = len(label) < len(str(MAX_CLASSES))  # Python refuses to convert thousands of digits
    if not (short and label.isascii() and label.isdigit()):
        wanted = f"the last word must be the label, an integer in 0..{MAX_CLASSES - 1}"
        raise ValueError(f"{where}: {wanted}; got {label!r} in {text!r}")
    return _inside(words[0], where), int(label)


def _inside(path: str, where: str) -> str:
    """Returns the normalised path, which must be relative and stay inside its folder."""
    normal = os.path.normpath(path)
    if os.path.isabs(normal) or normal.split(os.sep)[0] == os.pardir:
        raise ValueError(f"{where}: the path must be relative to root and stay inside it; got {path!r}")
    return normal


def _read_list(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Reads a list file: (N paths, int32 labels [N], int32 line numbers [N])."""
    line_of: dict[str, int] = {}
    labels = []
    for number, text in _lines(path):
        image, label = _parse_list_line(text, f"{path}, line {number}")
        if image in line_of:
            first = f"line {line_of[image]}"
            raise ValueError(f"{path}, line {number}: {image!r} is listed in {first} too; remove one")
        line_of[image] = number
        labels.append(label)
    if not labels:
        raise ValueError(f"{path} is empty; expected one 'path label' line an image")
    return list(line_of), np.array(labels, np.int32), np.array(list(line_of.values()), np.int32)


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
        folder = _require_folder(root, "the list files and the images")
        self._list, train_list = (folder / list_file.replace("{split}", name) for name in (split, "train"))
        paths, labels, self._line_numbers = _read_list(self._list)
        if classes is not None:
            class_names = _names(folder / classes)
            self._check_labels(labels, folder / classes, len(class_names))
        else:
            largest = labels.max()
            if train_list != self._list and train_list.is_file():
                largest = max(largest, _read_list(train_list)[1].max())
            class_names = tuple(map(str, range(largest + 1)))
        super().__init__(folder, paths, labels, class_names)

    def _check_labels(self, labels: np.ndarray, classes_path: Path, num_classes: int) -> None:
        for index in np.flatnonzero(labels >= num_classes)[:1]:
            where = f"{self._list}, line {self._line_numbers[index]}"
            raise ValueError(f"{where}: label {labels[index]}, but {classes_path} names 0..{num_classes - 1}")

    def describe(self, index: int) -> str:
        return f"{self.paths[index]} ({self._list.name}, line {self._line_numbers[index]})"


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
        folder = _require_folder(root, "the label table and the images")
        self._table = folder / table.replace("{split}", split)
        lines = _lines(self._table)
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
            path = _inside(cells[0], where)
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


def _value(kind: type, word: str) -> Any:
    """Converts a word; numbers as files hold them, without what Python alone reads: 1_000, nan, inf."""
    if kind is str:
        return word
    if not (re.fullmatch(r"[-+.eE0-9]+", word) and abs(kind(word)) < MAX_NUMBER):
        raise ValueError(word)
    return kind(word)


def _read_table(path: Path, kinds: Sequence[type], num_keys: int = 1) -> dict[Any, tuple]:
    """Reads lines of len(kinds) words, the last of which may hold spaces.

    Returns:
        {key: remaining values}; the key is the first value, or the tuple of the first `num_keys`.
    """
    table: dict[Any, tuple] = {}
    for number, text in _lines(path):
        words = text.split(maxsplit=len(kinds) - 1)
        try:
            values = tuple(_value(kind, word) for kind, word in zip(kinds, words, strict=True))
        except ValueError:
            wanted = " ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{path}, line {number}: expected the words '{wanted}', got {text!r}") from None
        key = values[0] if num_keys == 1 else values[:num_keys]
        if key in table:
            raise ValueError(f"{path}, line {number}: a second line for id {key}; remove one")
        table[key] = values[num_keys:]
    return table


def _read_matching(path: Path, kinds: Sequence[type], ids: Collection, ids_file: str = "images.txt") -> dict:
    """Reads a table as `_read_table` does and requires that its ids are `ids`, those of `ids_file`."""
    table = _read_table(path, kinds, 1 if ids_file == "images.txt" else 2)
    for what, differing in (("lacks", set(ids) - set(table)), ("alone has", set(table) - set(ids))):
        if differing:
            raise ValueError(f"{path} {what} id {min(differing)}, unlike {ids_file}; unpack both again")
    return table


class Cub200(Files):
    """CUB-200-2011 (Caltech-UCSD Birds) in its official layout: 11,788 photographs of 200 species.

    Elements add, where the files exist,
        box: float32 [4], (x, y, width, height) of the bird in pixels (bounding_boxes.txt);
        parts: float32 [15, 3], (x, y, visible) of each part in pixels, all 0 where it is hidden (parts/).
    Class names are those of classes.txt ("001.Black_footed_Albatross"); labels count from 0, by class id.

    Args:
        split: "train" or "test".
        root: the folder CUB_200_2011, or the one that holds it.
        protocol: "official" follows train_test_split.txt (5,994 / 5,794 images); "random" draws the test
            images from all of them, so its figures compare with no official ones.
        test_fraction: part of all images that "random" holds out: 0.1 gives 10,609 / 1,179 images, and
            1191 / 11788 gives 10,597 / 1,191.
        split_seed: seed of "random".
        crop_to_box: whether "image" is decoded and cropped to the box: uint8 [h, w, 3]. box and parts are
            then given in the cropped image.

    Raises:
        FileNotFoundError: the data set or one of its files is missing.
        ValueError: a malformed line or files that disagree; the message names the file and the line or id.
    """

    def __init__(
        self, split: str, *, root: Root, protocol: str = "official", test_fraction: float = 0.1,
        split_seed: int = 0, crop_to_box: bool = False,
    ) -> None:  # fmt: skip
        _require_choice("the split of Cub200", split, ("train", "test"))
        _require_choice("the protocol of Cub200", protocol, ("official", "random"))
        place = "CUB_200_2011.tgz from Caltech (https://data.caltech.edu/records/65de6-vp158)"
        folder = _locate(root, "CUB_200_2011", "images.txt", f"download {place} and unpack it there")
        images = self._read_images(folder)
        class_names, label_of = self._read_classes(folder, images)
        if protocol == "random":
            indices = stratified_split(np.zeros(len(images)), test_fraction, split_seed)[split == "test"]
            ids = np.array(list(images))[indices].tolist()
        else:
            is_train = self._read_split(folder, images)
            ids = [key for key in images if is_train[key] == (split == "train")]
        if not ids:
            raise ValueError(f"{folder}: the {protocol} split {split!r} of {len(images)} images is empty")
        self._boxes = self._read_boxes(folder, images, ids)
        self._parts = self._read_parts(folder, images, ids)
        if crop_to_box and self._boxes is None:
            raise FileNotFoundError(f"crop_to_box needs {folder / 'bounding_boxes.txt'}, which is missing")
        self._crop_to_box = crop_to_box
        paths, labels = [images[key] for key in ids], [label_of[key] for key in ids]
        super().__init__(folder / "images", paths, labels, class_names)

    @staticmethod
    def _read_images(folder: Path) -> dict[int, str]:
        """Returns {image id: normalised path inside images/}."""
        path = folder / "images.txt"
        id_of: dict[str, int] = {}
        for key, (image,) in _read_table(path, (int, str)).items():
            image = _inside(image, f"{path}, id {key}")
            if image in id_of:
                raise ValueError(f"{path}: {image!r} has the ids {id_of[image]} and {key}; remove one")
            id_of[image] = key
        return {key: image for image, key in id_of.items()}

    @staticmethod
    def _read_split(folder: Path, images: Collection[int]) -> dict[int, int]:
        """Returns {image id: 1 for train, 0 for test}."""
        path = folder / "train_test_split.txt"
        flags = {key: flag for key, (flag,) in _read_matching(path, (int, int), images).items()}
        for key, flag in flags.items():
            if flag not in (0, 1):
                raise ValueError(f"{path}: image id {key} has {flag}; expected 1 for train or 0 for test")
        return flags

    @staticmethod
    def _read_classes(folder: Path, images: Mapping[int, str]) -> tuple[list[str], dict[int, int]]:
        """Returns (K class names in the order of class ids, {image id: label})."""
        classes = _read_table(folder / "classes.txt", (int, str))
        position = {class_id: label for label, class_id in enumerate(sorted(classes))}
        path = folder / "image_class_labels.txt"
        label_of = {}
        for key, (class_id,) in _read_matching(path, (int, int), images).items():
            if class_id not in position:
                raise ValueError(f"{path}: image id {key} has class {class_id}, which classes.txt lacks")
            label_of[key] = position[class_id]
        names = [classes[class_id][0] for class_id in position]
        _check_names(names, folder / "classes.txt")
        for key, image in images.items():
            held, named = image.split(os.sep)[0], names[label_of[key]]
            if held != named and held in names:
                raise ValueError(f"{path}: image id {key} is a {named}, but lies in the folder {held}")
        return names, label_of

    @staticmethod
    def _read_boxes(folder: Path, images: Collection[int], ids: list[int]) -> np.ndarray | None:
        path = folder / "bounding_boxes.txt"
        if not path.is_file():
            return None
        boxes = _read_matching(path, (int, float, float, float, float), images)
        for key, (_, _, width, height) in boxes.items():
            if width <= 0 or height <= 0:
                raise ValueError(f"{path}: image id {key} has a box of {width} x {height} pixels")
        return np.array([boxes[key] for key in ids], np.float32)  # [N, 4]

    @staticmethod
    def _read_parts(folder: Path, images: Collection[int], ids: list[int]) -> np.ndarray | None:
        path = folder / "parts" / "part_locs.txt"
        if not path.is_file():
            return None
        parts = sorted(_read_table(folder / "parts" / "parts.txt", (int, str)))
        pairs = [(key, part) for key in images for part in parts]
        locations = _read_matching(path, (int, int, float, float, int), pairs, "images.txt and parts.txt")
        return np.array([[locations[key, part] for part in parts] for key in ids], np.float32)  # [N, P, 3]

    def __getitem__(self, index: int) -> dict[str, Any]:
        element = super().__getitem__(index)
        if self._boxes is not None:
            element["box"] = self._boxes[index].copy()
        if self._parts is not None:
            element["parts"] = self._parts[index].copy()
        return self._crop(element, self.describe(index)) if self._crop_to_box else element

    @staticmethod
    def _crop(element: dict[str, Any], where: str) -> dict[str, Any]:
        from imgcls_jax.data.transforms import decode

        image = decode(element["image"])
        x, y, width, height = element["box"].tolist()
        left, top = max(0, math.floor(x)), max(0, math.floor(y))
        # Rounded first: 22.9 + 201.1 exceeds 224 in float32.
        right = min(image.width, math.ceil(round(x + width, 3)))
        bottom = min(image.height, math.ceil(round(y + height, 3)))
        if left >= right or top >= bottom:
            raise ValueError(f"{where}: box {[x, y, width, height]} misses the image of {image.size} pixels")
        element["image"] = np.array(image.crop((left, top, right, bottom)))
        element["box"][:2] -= left, top
        if "parts" in element:
            element["parts"][:, :2] -= element["parts"][:, 2:] * np.float32([left, top])  # hidden: stays 0
        return element


# ---- TensorFlow Datasets


class Tfds:
    """A data set of tensorflow_datasets, read without TensorFlow from files prepared as array_record.

    Elements are image and label alone. RGB images of varying size come as the bytes of the encoded file,
    others as the uint8 array [H, W, C] that tfds decodes. `labels` is None: tfds keeps them in the records.
    The reader opens its files at the first read in each process, and leaves them behind when it is pickled.

    Args:
        split: a split of the data set, or a part of one such as "train[:10%]".
        name: the name in tensorflow_datasets, with "/config" or ":version" where needed.
        root: the folder of prepared data sets (tfds's data_dir); None for its usual place.
        image_key, label_key: the data set's names of the image and of the class label.

    Raises:
        ImportError: a package is missing.
        FileNotFoundError: the data set is not prepared, or in a format without random access.
        ValueError: an unknown name, split or key; when read, an example without a label.
    """

    labels = None

    def __init__(
        self, split: str, *, name: str, root: Root | None = None,
        image_key: str = "image", label_key: str = "label",
    ) -> None:  # fmt: skip
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise ImportError("Tfds needs tensorflow_datasets: pip install 'imgcls-jax[tfds]'") from error
        root = None if root is None else str(Path(root).expanduser())
        try:
            builder = tfds.builder(name, data_dir=root)
        except tfds.core.DatasetNotFoundError:
            version = tfds.__version__
            raise ValueError(f"tensorflow_datasets {version} has no {name!r}; mend the name") from None
        features = dict(builder.info.features.items())
        for key, kind in ((image_key, tfds.features.Image), (label_key, tfds.features.ClassLabel)):
            if not isinstance(features.get(key), kind):
                known = ", ".join(f"{other} ({type(features[other]).__name__})" for other in features)
                remedy = "set image_key and label_key"
                raise ValueError(f"{name} has no {kind.__name__} {key!r}, only {known}; {remedy}")
        self.class_names = tuple(features[label_key].names)
        self._name, self._split, self._image_key, self._label_key = name, split, image_key, label_key
        is_photo = features[image_key].shape == (None, None, 3)
        self._records = self._open(builder, {image_key: tfds.decode.SkipDecoding()} if is_photo else None)

    def _open(self, builder: Any, decoders: dict[str, Any] | None) -> Sequence[dict[str, Any]]:
        try:
            return builder.as_data_source(split=self._split, decoders=decoders)
        except ValueError as error:
            raise ValueError(f"{self._name}, split {self._split!r}: {error}") from error
        except ImportError as error:
            raise ImportError(f"{error}; to read {self._name}: pip install 'imgcls-jax[tfds]'") from error
        except (NotImplementedError, KeyError) as error:
            place = f"data_dir={str(builder.data_dir_root)!r}, file_format='array_record'"
            raise FileNotFoundError(
                f"{self._name} is not prepared as array_record in {builder.data_dir}; remove what is there "
                f'and run once, with TensorFlow installed: python -c "import tensorflow_datasets as tfds; '
                f'tfds.builder({self._name!r}, {place}).download_and_prepare()"'
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._records[range(len(self))[index]]  # range knows negative indices and raises IndexError
        label = np.int32(record[self._label_key])
        if not 0 <= label < len(self.class_names):
            raise ValueError(f"{self.describe(index)} has no label ({label}); choose a labelled split")
        return {"image": record[self._image_key], "label": label}

    def describe(self, index: int) -> str:
        return f"{self._name}/{self._split}[{index}]"
