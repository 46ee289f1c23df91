"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): articles of clothing, 28x28 gray images."""

from __future__ import annotations

from imgcls_jax.data.folders import Download, Origin
from imgcls_jax.data.idx import IdxImages
from imgcls_jax.data.source import Root

HOST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
ORIGIN = Origin(
    "Fashion-MNIST, 70,000 images of clothing",
    "https://github.com/zalandoresearch/fashion-mnist",
    "the four files *-ubyte.gz (31 MB) into that folder",
    "fashion_mnist",
    # Sizes and SHA-256: the checksums of tensorflow_datasets 4.9.
    (
        Download(
            f"{HOST}/t10k-images-idx3-ubyte.gz",
            4_422_102,
            "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        Download(
            f"{HOST}/t10k-labels-idx1-ubyte.gz",
            5_148,
            "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        Download(
            f"{HOST}/train-images-idx3-ubyte.gz",
            26_421_880,
            "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        Download(
            f"{HOST}/train-labels-idx1-ubyte.gz",
            29_515,
            "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
    ),
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
