"""CIFAR-100 (Krizhevsky 2009): https://www.cs.toronto.edu/~kriz/cifar.html."""

from __future__ import annotations

from imgcls_jax.data.cifar import locate_cifar, read_cifar, read_pickled, read_pickled_names
from imgcls_jax.data.folders import Download, Origin
from imgcls_jax.data.lists import read_names
from imgcls_jax.data.source import Arrays, Root, require_choice

ORIGIN = Origin(
    "CIFAR-100, 60,000 photographs of 100 classes",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    "the binary version (cifar-100-binary.tar.gz, 161 MB) and unpack it there",
    "cifar100",
    # Size and SHA-256: the checksums of tensorflow_datasets 4.9.
    (
        Download(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            168_513_733,
            "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
    ),
)


class Cifar100(Arrays):
    """CIFAR-100, 32x32 RGB, in the official binary version, or the pickled one, of which nothing is run.

    Args:
        split: "train" or "test".
        root: the folder cifar-100-binary or cifar-100-python, or the one that holds it. Where both versions
            are there, the binary one is read.
        label: "fine" for the 100 classes, "coarse" for the 20 superclasses.

    Raises:
        As Cifar10.
    """

    def __init__(self, split: str, *, root: Root, label: str = "fine") -> None:
        require_choice("the split of Cifar100", split, ("train", "test"))
        require_choice("the label of Cifar100", label, ("fine", "coarse"))
        versions = (("cifar-100-binary", "fine_label_names.txt"), ("cifar-100-python", "meta"))
        folder, is_pickled = locate_cifar(root, *versions, ORIGIN)
        column, num_classes = {"coarse": (0, 20), "fine": (1, 100)}[label]
        if is_pickled:
            columns = [("coarse_labels", 20), ("fine_labels", 100)]
            images, labels = read_pickled(folder / split, columns)
            class_names = read_pickled_names(folder / "meta", f"{label}_label_names", num_classes)
        else:
            images, labels = read_cifar(folder / f"{split}.bin", [20, 100])
            class_names = read_names(folder / f"{label}_label_names.txt", num_classes)
        super().__init__(images, labels[:, column], class_names, f"Cifar100/{split}")


make = Cifar100
