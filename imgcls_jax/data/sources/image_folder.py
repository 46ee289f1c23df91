"""Your own images, one folder for each class."""

from __future__ import annotations

import os

from imgcls_jax.data.folders import SPLIT_FOLDERS, class_folders, image_files, require_folder, subfolders
from imgcls_jax.data.source import Files, Root
from imgcls_jax.data.subsets import stratified_split


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
        top = require_folder(root, "<split>/<class>/<image> or <class>/<image>")
        has_splits = any((top / name).is_dir() for name in SPLIT_FOLDERS)
        folder = top / split if has_splits else top
        if has_splits and split not in subfolders(top):
            raise FileNotFoundError(f"{folder} is missing; the split folders of {top} are {subfolders(top)}")
        class_names = class_folders(top / "train" if (top / "train").is_dir() else folder)
        label_of = {name: label for label, name in enumerate(class_names)}
        paths, labels = [], []
        for name in class_folders(folder):
            if name not in label_of:
                remedy = f"add it there or remove {folder / name}"
                raise ValueError(f"{folder} holds the class {name!r}, which {top / 'train'} lacks; {remedy}")
            files = image_files(folder / name)
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


make = ImageFolder
