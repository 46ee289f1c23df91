"""Your own images, one folder for each class."""

from __future__ import annotations

import os

from imgcls_jax.data.folders import (
    class_folders,
    find_layout,
    labeled_images,
    named_split,
    require_folder,
    split_of,
    unwrapped,
)
from imgcls_jax.data.known_layouts import require_class_folders, require_no_list_beside
from imgcls_jax.data.source import Files, Root
from imgcls_jax.data.subsets import stratified_split


class ImageFolder(Files):
    """A folder a class: root/<split>/<class>/<image>, or root/<class>/<image> without split folders.

    Classes and files are taken in sorted order, images at any depth below the class, links followed. Hidden
    files, files of other kinds and images outside every class folder are left out and counted. A folder with
    a split's name, however it is written (Train, validation, Test set), that holds folders is a split.

    With split folders the classes are those of the training split where it exists; another split may lack
    some of them but hold no other. Without, a fixed stratified split holds out test_fraction of each class:
    "train" is the rest, and every other split name is the part held out.

    Args:
        split: the name of the folder, or one that means the same; or of the part.
        root: as above, or a folder that holds nothing else.
        test_fraction: part of each class that is not "train", in (0, 1); read without split folders only.
        split_seed: seed of that split.

    Raises:
        FileNotFoundError: root or the split's folder is missing.
        ValueError: a folder without classes or images, a class that train lacks, an empty part, or folders of
            which one cannot tell whether they are splits or classes, or that are neither: a published data
            set which another source reads, or one folder beside a list of classes.
    """

    def __init__(self, split: str, *, root: Root, test_fraction: float = 0.2, split_seed: int = 0) -> None:
        whole = require_folder(root, "<split>/<class>/<image> or <class>/<image>", in_store=True)
        require_class_folders(whole, unwrapped(whole))
        top, splits = find_layout(whole)
        name = named_split(split, splits, top)
        if splits and name is None:
            known = sorted(filter(split_of, splits)) or sorted(splits)
            raise FileNotFoundError(
                f"{top / split} is missing; the split folders of {top} are {known}: name one of them"
            )
        folder = splits[name] if name else top
        train = named_split("train", splits, top)
        train_folder = splits[train] if train else folder
        class_names = list(class_folders(train_folder))
        if not splits and len(class_names) == 1:
            require_no_list_beside(top, class_names[0])
        label_of = {name: label for label, name in enumerate(class_names)}
        found = labeled_images(folder, class_names)
        for other in found.names:
            if other not in label_of:
                lacks, remedy = train_folder, f"add it there or remove {found.folder / other}"
                raise ValueError(f"{folder} holds the class {other!r}, which {lacks} lacks; {remedy}")
        paths, labels = found.paths, [label_of[name] for name in found.names]
        self.rule = f"from {found.folder}"
        nested = {os.path.dirname(path) for path in paths if path.count(os.sep) > 1}
        if nested:
            self.rule += f" ({len(nested):,} folders within those of the classes count as their class)"
        if not splits:
            indices = stratified_split(labels, test_fraction, split_seed)[split != "train"]
            held_out = (
                f"{test_fraction:.3g} of each class, held out by data.test_fraction and data.split_seed"
            )
            self.rule += f", which has no split folders: {'all but ' if split == 'train' else ''}{held_out}"
            if not len(indices):
                raise ValueError(
                    f"{top}: test_fraction={test_fraction} of {len(paths)} images in {len(class_names)} "
                    f"classes leaves none for the split {split!r}; change it or add images"
                )
            paths, labels = [paths[index] for index in indices], [labels[index] for index in indices]
        self.left_out = found.left_out
        super().__init__(found.folder, paths, labels, class_names)


make = ImageFolder
