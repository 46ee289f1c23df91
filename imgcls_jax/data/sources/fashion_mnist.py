"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): articles of clothing, 28x28 gray images."""

from __future__ import annotations

from imgcls_jax.data.folders import Origin
from imgcls_jax.data.idx import IdxImages
from imgcls_jax.data.source import Root

ORIGIN = Origin(
    "Fashion-MNIST, 70,000 images of clothing",
    "https://github.com/zalandoresearch/fashion-mnist",
    "the four files *-ubyte.gz (31 MB) into that folder",
)
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class FashionMnist(IdxImages):
    """The official idx files, plain or .gz, spelled train-images-idx3-ubyte or train-images.idx3-ubyte.

    Args:
        split: "train" or "test" (files t10k-*).
        root: the folder that holds the four files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file's magic number, size or a label is wrong; the message names the file.
    """

    def __init__(self, split: str, *, root: Root) -> None:
        super().__init__(split, root, CLASS_NAMES, "FashionMnist", ORIGIN)


make = FashionMnist
