"""The idx files of MNIST and of the data sets that took over its format."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

import numpy as np

from imgcls_jax.data.folders import Origin, require_folder
from imgcls_jax.data.source import Arrays, Root, check_labels, require_choice

MAX_IDX_BYTES = 2**30  # EMNIST, the largest of the kind, has 0.6 GB


class IdxImages(Arrays):
    """The four idx files of a data set, plain or .gz: train-images-idx3-ubyte or train-images.idx3-ubyte, ...

    Args:
        split: "train" or "test" (files t10k-*).
        root: the folder that holds the four files, or the one into which torchvision put them.
        class_names: K names.
          name: of the data set, for messages.
        origin: where its files come from.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file's magic number, size or a label is wrong; the message names the file.
    """

    def __init__(self, split: str, root: Root, class_names: Sequence[str], name: str, origin: Origin) -> None:
        require_choice(f"the split of {name}", split, ("train", "test"))
        folder = require_folder(root, "four idx files", origin.remedy)
        inside = (
            folder / place for place in (f"{name.replace('Mnist', 'MNIST')}/raw", "raw")
        )  # as torchvision leaves them
        folder = next((place for place in inside if place.is_dir()), folder)
        self.rule = f"the official {split} split in {folder}"
        stem = {"train": "train", "test": "t10k"}[split]
        images_path = find_idx(folder, f"{stem}-images", 3, origin)
        labels_path = find_idx(folder, f"{stem}-labels", 1, origin)
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if len(images) != len(labels):
            counts = f"{len(images)} images, but {labels_path} {len(labels)} labels"
            raise ValueError(f"{images_path} holds {counts}; download both again")
        check_labels(labels, len(class_names), labels_path)
        super().__init__(images[..., None], labels, class_names, f"{name}/{split}")


def find_idx(root: Path, stem: str, rank: int, origin: Origin) -> Path:
    names = [f"{stem}{separator}idx{rank}-ubyte{suffix}" for separator in "-." for suffix in ("", ".gz")]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"{root} holds none of {', '.join(names)}. {origin.remedy}")


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Reads an idx file of unsigned bytes, compressed or not, into a uint8 array of the given rank."""
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    try:
        with (gzip.open if compressed else open)(path, "rb") as file:
            return _parse_idx(file, path, rank)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); download it again") from error


def _parse_idx(file: gzip.GzipFile | BufferedReader, path: Path, rank: int) -> np.ndarray:
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
