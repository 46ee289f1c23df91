"""CIFAR-10 (Krizhevsky 2009): https://www.cs.toronto.edu/~kriz/cifar.html."""

from __future__ import annotations

import numpy as np

from imgcls_jax.data.cifar import locate_cifar, read_cifar, read_pickled, read_pickled_names
from imgcls_jax.data.folders import Download, Origin
from imgcls_jax.data.lists import read_names
from imgcls_jax.data.source import Arrays, Root, require_choice

ORIGIN = Origin(
    "CIFAR-10, 60,000 photographs of 10 classes",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    "the binary version (cifar-10-binary.tar.gz, 162 MB) and unpack it there",
    "cifar10",
    # Size and SHA-256: the checksums of tensorflow_datasets 4.9.
    (
        Download(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            170_052_171,
            "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
)


class Cifar10(Arrays):
    """CIFAR-10, 32x32 RGB, in the official binary version, or the pickled one, of which nothing is run.

    Args:
        split: "train" (data_batch_1..5), "test" (test_batch), or "train+test" for both, on which methods
            without labels are often trained and measured.
        root: the folder cifar-10-batches-bin or cifar-10-batches-py, or the one that holds it. Where both
            versions are there, the binary one is read.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file's size or a label is wrong, or a pickle asks for more than lists and arrays.
    """

    def __init__(self, split: str, *, root: Root) -> None:
        require_choice("the split of Cifar10", split, ("train", "test", "train+test"))
        versions = (("cifar-10-batches-bin", "batches.meta.txt"), ("cifar-10-batches-py", "batches.meta"))
        folder, is_pickled = locate_cifar(root, *versions, ORIGIN)
        files = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
        names = [name for part in split.split("+") for name in files[part]]
        if is_pickled:
            batches = [read_pickled(folder / name, [("labels", 10)]) for name in names]
            class_names = read_pickled_names(folder / "batches.meta", "label_names", 10)
        else:
            batches = [read_cifar(folder / f"{name}.bin", [10]) for name in names]
            class_names = read_names(folder / "batches.meta.txt", 10)
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        super().__init__(images, labels[:, 0], class_names, f"Cifar10/{split}")


make = Cifar10
