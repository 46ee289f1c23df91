"""Published data sets whose folders look like class folders and are none: by what signs they are told."""

from __future__ import annotations

import os
import re
from pathlib import Path

from imgcls_jax.data.listing import entries_of, holds_images, is_folder, is_hidden

# source -> files and folders, relative to the data set's own folder.
SIGNS = {
    "celeba": ("list_attr_celeba.txt", "Anno/list_attr_celeba.txt"),
    "cub200": ("image_class_labels.txt", "CUB_200_2011/image_class_labels.txt"),
    "dogs_vs_cats": ("train/cat.0.jpg", "cat.0.jpg"),
    "fgvc_aircraft": ("images_variant_train.txt", "data/images_variant_train.txt"),
    "imagenet": ("ILSVRC2012_val_00000001.JPEG",),
    "inaturalist": ("train_val2018", "train_val_images", "train2017.json", "train2018.json"),
    "stanford_dogs": ("train_list.mat", "lists/train_list.mat"),
    "voc": ("VOCdevkit", "ImageSets/Main"),
    "webvision": ("info/synsets.txt", "info/train_filelist_google.txt"),
}
# source -> folders that hold images themselves, whose classes stand elsewhere.
FLAT = {
    "celeba": ("img_align_celeba", "Img/img_align_celeba"),
    "coco": ("train2017", "val2017", "train2014", "val2014"),
    "stanford_cars": ("cars_train", "cars_test"),
    "voc": ("JPEGImages",),
}
# The first level of iNaturalist of 2017 and 2018; its classes are the folders within.
SUPER_CATEGORIES = set(
    "Actinopterygii Amphibia Animalia Arachnida Aves Bacteria Chromista Fungi Insecta Mammalia Mollusca "
    "Plantae Protozoa Reptilia".split()
)
QUERY = re.compile(r"q\d{4}")  # of WebVision: a folder is a query, of which a class has several
LISTS = re.compile(r".*\.(csv|tsv|mat|json|xml)|(train|val|test)\.txt", re.IGNORECASE)


def source_of(folder: Path) -> str:
    """Returns the source that reads the published data set of a folder; "" where there is none known."""
    for source, signs in SIGNS.items():
        if any(os.path.exists(folder / sign) for sign in signs):
            return source
    for source, flat in FLAT.items():
        if any(os.path.isdir(folder / own) and holds_images(folder / own) for own in flat):
            return source
    names = [entry.name for entry in entries_of(folder) if is_folder(entry) and not is_hidden(entry.name)]
    if len(names) > 1 and set(names) <= SUPER_CATEGORIES and not holds_images(folder / names[0]):
        return "inaturalist"
    return "webvision" if names and all(map(QUERY.fullmatch, names)) else ""


def require_class_folders(root: Path, top: Path) -> None:
    """Raises ValueError where a folder holds a published data set whose classes are not its folders.

    Args:
      root: as the user named it.
      top: within it, where the folders are.
    """
    for folder in (top, *top.parents):
        if source := source_of(folder):
            raise ValueError(
                f"{folder} holds a published data set whose classes, or splits, are not its folders: "
                f"data.source = {source!r} reads it. To take folders for classes all the same, name the one "
                "that holds them by config.data.root"
            )
        if folder == root:
            return


def require_no_list_beside(top: Path, name: str) -> None:
    """Raises ValueError where one folder holds all images, and a list of their classes seems to lie beside.

    Args:
      top: of the folder.
      name: of it, the only class.
    """
    lists = sorted(
        entry.name for entry in entries_of(top) if LISTS.fullmatch(entry.name) and not is_folder(entry)
    )
    if lists:
        raise ValueError(
            f"{top} holds one folder, {name!r}, so one class: if the classes stand in {lists[0]!r}, "
            "data.source = 'csv_file', 'label_table' or 'list_file' reads them; if there are none, move that "
            "file away"
        )
