"""MNIST (LeCun et al. 1998): handwritten digits, 28x28 gray images."""

from __future__ import annotations

from imgcls_jax.data.folders import Origin
from imgcls_jax.data.idx import IdxImages
from imgcls_jax.data.source import Root

ORIGIN = Origin(
    "MNIST, 70,000 handwritten digits",
    "http://yann.lecun.com/exdb/mnist (mirror: https://ossci-datasets.s3.amazonaws.com/mnist)",
    "the four files *-ubyte.gz (12 MB) into that folder",
)


class Mnist(IdxImages):
    """The official idx files, plain or .gz, spelled train-images-idx3-ubyte or train-images.idx3-ubyte.

    Args:
        split: "train" or "test" (files t10k-*).
        root: the folder that holds the four files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file's magic number, size or a label is wrong; the message names the file.
    """

    def __init__(self, split: str, *, root: Root) -> None:
        super().__init__(split, root, "0123456789", "Mnist", ORIGIN)


make = Mnist
