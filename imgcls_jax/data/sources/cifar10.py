"""CIFAR-10 (Krizhevsky 2009): https://www.cs.toronto.edu/~kriz/cifar.html."""

from __future__ import annotations

import numpy as np

from imgcls_jax.data.cifar import locate_cifar, read_cifar
from imgcls_jax.data.folders import Origin
from imgcls_jax.data.lists import read_names
from imgcls_jax.data.source import Arrays, Root, require_choice

ORIGIN = Origin(
    "CIFAR-10, 60,000 photographs of 10 classes",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    "the binary version (cifar-10-binary.tar.gz, 162 MB) and unpack it there",
)


class Cifar10(Arrays):
    """CIFAR-10, 32x32 RGB, in the official binary version.

    Args:
        split: "train" (data_batch_1..5.bin), "test" (test_batch.bin), or "train+test" for both, on which
            methods without labels are often trained and measured.
        root: the folder cifar-10-batches-bin, or the one that holds it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: only the pickled version is there, or a file's size or a label is wrong.
    """

    def __init__(self, split: str, *, root: Root) -> None:
        require_choice("the split of Cifar10", split, ("train", "test", "train+test"))
        pickled = ("cifar-10-batches-py", "data_batch_1")
        folder = locate_cifar(root, "cifar-10-batches-bin", "batches.meta.txt", pickled, ORIGIN)
        files = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
        batches = [read_cifar(folder / name, [10]) for part in split.split("+") for name in files[part]]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        super().__init__(
            images, labels[:, 0], read_names(folder / "batches.meta.txt", 10), f"Cifar10/{split}"
        )


make = Cifar10
