"""MNIST (LeCun et al. 1998): handwritten digits, 28x28 gray images."""

from __future__ import annotations

from imgcls_jax.data.folders import Download, Origin
from imgcls_jax.data.idx import IdxImages
from imgcls_jax.data.source import Root

HOST = "https://storage.googleapis.com/cvdf-datasets/mnist"
ORIGIN = Origin(
    "MNIST, 70,000 handwritten digits",
    "http://yann.lecun.com/exdb/mnist (mirror: https://ossci-datasets.s3.amazonaws.com/mnist)",
    "the four files *-ubyte.gz (12 MB) into that folder",
    "mnist",
    # The mirror, its sizes and SHA-256: the checksums of tensorflow_datasets 4.9.
    (
        Download(
            f"{HOST}/t10k-images-idx3-ubyte.gz",
            1_648_877,
            "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        Download(
            f"{HOST}/t10k-labels-idx1-ubyte.gz",
            4_542,
            "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        Download(
            f"{HOST}/train-images-idx3-ubyte.gz",
            9_912_422,
            "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        Download(
            f"{HOST}/train-labels-idx1-ubyte.gz",
            28_881,
            "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
    ),
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
