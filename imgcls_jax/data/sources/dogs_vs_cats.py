"""Dogs vs. Cats, the competition of Kaggle (2013): 25,000 photographs in one folder, told by their names."""

from __future__ import annotations

import os
import re

import numpy as np

from imgcls_jax.data.folders import Origin, require_folder
from imgcls_jax.data.listing import list_images
from imgcls_jax.data.source import Files, Root
from imgcls_jax.data.subsets import stratified_split

ORIGIN = Origin(
    "Dogs vs. Cats, 25,000 photographs",
    "https://www.kaggle.com/c/dogs-vs-cats/data (an account is needed)",
    "train.zip (0.6 GB) and unpack it there",
    "dogs_vs_cats",
)
CLASS_NAMES = ("cat", "dog")
NAME = re.compile(rf"({'|'.join(CLASS_NAMES)})\.\d+\.\w+")


class DogsVsCats(Files):
    """Kaggle's folder: train/cat.0.jpg to train/dog.12499.jpg.

    The images of test1/ have no labels, so a fixed stratified split holds out a part of train/: the figures
    compare with no others. The set of Microsoft, and that of tensorflow_datasets, hold other images.

    Args:
        split: "train", or any other name for the part held out.
        root: the folder train/, or the one that holds it.
        test_fraction: part of each class that is not "train", in (0, 1).
        split_seed: seed of that split.

    Raises:
        FileNotFoundError: root is missing.
        ValueError: it holds no image that is named so.
    """

    def __init__(self, split: str, *, root: Root, test_fraction: float = 0.2, split_seed: int = 0) -> None:
        folder = require_folder(root, "train/cat.0.jpg and the others", ORIGIN.remedy)
        folder = next(
            (folder / place for place in ("train/train", "train") if (folder / place).is_dir()), folder
        )
        listing = list_images(folder)
        found = [(path, NAME.fullmatch(os.path.basename(path))) for path in listing.paths]
        paths = [path for path, match in found if match]
        labels = np.array([CLASS_NAMES.index(match[1]) for _, match in found if match], np.int32)
        if not paths:
            raise ValueError(f"{folder} holds no cat.0.jpg or dog.0.jpg. {ORIGIN.remedy}")
        indices = stratified_split(labels, test_fraction, split_seed)[split != "train"]
        if not len(indices):
            raise ValueError(
                f"{folder}: test_fraction={test_fraction} of {len(paths)} images leaves none for {split!r}"
            )
        part = f"{test_fraction:.3g} of each class, held out by data.test_fraction and data.split_seed"
        self.rule = f"from {folder}, {'all but ' if split == 'train' else ''}{part}"
        self.left_out = {**listing.left_out, "of other names": len(found) - len(paths)}
        super().__init__(folder, [paths[index] for index in indices], labels[indices], CLASS_NAMES)


make = DogsVsCats
