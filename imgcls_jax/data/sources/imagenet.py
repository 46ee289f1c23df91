"""ImageNet of ILSVRC 2012 (Russakovsky et al. 2015, arXiv:1409.0575): 1.28 million images, 1,000 classes."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgcls_jax.data.annotations import read_mat
from imgcls_jax.data.folders import Origin, labeled_images, require_folder, subfolders
from imgcls_jax.data.listing import list_images
from imgcls_jax.data.lists import read_csv
from imgcls_jax.data.shifted_imagenet import REAL, SPLITS, VAL_IMAGE, Reassessed, open_shifted, reassessed
from imgcls_jax.data.source import Files, Root, require_choice
from imgcls_jax.data.tar_files import TarImages, index_of, read_packed

ORIGIN = Origin(
    "ImageNet (ILSVRC 2012), 1.28 million photographs of 1,000 classes",
    "https://image-net.org/download-images.php (an account is needed)",
    "ILSVRC2012_img_train.tar (138 GB), ILSVRC2012_img_val.tar (6.3 GB) and ILSVRC2012_devkit_t12.tar.gz, "
    "which may stay as they are",
    "imagenet",
)
PLACES = (".", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # the others as Kaggle packs it
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
SOLUTION = "LOC_val_solution.csv"  # Kaggle's ground truth
SYNSET = re.compile(r"n\d{8}")
MAX_DEVKIT_BYTES = 2**24


class Truth(NamedTuple):
    """The ground truth of the validation images.

    Attributes:
      class_names: K synsets, sorted.
      synset_of: {number of an image, from 1: its synset}.
      where: the file it comes from.
    """

    class_names: Sequence[str]
    synset_of: Mapping[int, str]
    where: str


def make(split: str, *, root: Root) -> Files | TarImages | Reassessed:
    """Opens ImageNet as published, unpacked or not.

    The training images: train/<synset>/*.JPEG, or ILSVRC2012_img_train.tar, an archive of 1,000 archives. The
    validation images: val/<synset>/*.JPEG, or val/ILSVRC2012_val_*.JPEG in one folder, or
    ILSVRC2012_img_val.tar; the latter two with the ground truth, which is ILSVRC2012_devkit_t12 (the folder,
    or .tar.gz) or Kaggle's LOC_val_solution.csv. Archives are read in place.

    Class names are the synsets ("n01440764"), sorted, which is the order of published networks' outputs; the
    devkit numbers them otherwise.

    Other test sets of these classes lie beside them, in the folders that data/shifted_imagenet.py names;
    their class names are always the 1,000 synsets.

    Args:
      split: "train" (1,281,167 images), "val" (50,000), or another test set: "imagenet-a", "imagenet-r",
        "imagenet-sketch", "imagenetv2-matched-frequency", "imagenetv2-threshold0.7", "imagenetv2-top-images",
        "imagenet-c", "objectnet", or "imagenet-real", which gives "val" other labels.
      root: the folder of these.

    Raises:
      ImportError: the devkit is there, and scipy, which reads its meta.mat, is not.
      FileNotFoundError: the images, or their ground truth, are missing.
      ValueError: files that are damaged or disagree; the message names the file.
    """
    require_choice("the split of imagenet", split, (*ARCHIVES, *SPLITS))
    if split == REAL:
        return reassessed(make("val", root=root), root)
    if split in SPLITS:
        return open_shifted(split, root)
    top = require_folder(root, f"{split}/ or {ARCHIVES[split]}", ORIGIN.remedy)
    folder = next((top / place / split for place in PLACES if (top / place / split).is_dir()), None)
    archive = top / ARCHIVES[split]
    source: Files | TarImages
    if folder is not None and subfolders(folder):
        source = _of_class_folders(folder)
    elif folder is not None and split == "val":
        source = _flat(folder, _truth(top))
    elif not archive.is_file():
        raise FileNotFoundError(
            f"{top} holds neither {split}/ with images nor {archive.name}. {ORIGIN.remedy}"
        )
    else:
        source = _train_archive(archive) if split == "train" else _val_archive(archive, _truth(top))
    return source


def _of_class_folders(folder: Path) -> Files:
    found = labeled_images(folder)
    names = sorted(set(found.names))
    _require_synsets(names, folder)
    label_of = {name: label for label, name in enumerate(names)}
    source = Files(found.folder, found.paths, [label_of[name] for name in found.names], names)
    source.rule, source.left_out = f"from {found.folder}", found.left_out
    return source


def _require_synsets(names: Sequence[str], where: Path) -> None:
    for name in names:
        if not SYNSET.fullmatch(name):
            raise ValueError(
                f"{where}: {name!r} is no synset such as n01440764; 'image_folder' reads other classes"
            )


def _train_archive(archive: Path) -> TarImages:
    index = index_of(archive)
    own = [name.partition(".tar/")[0] for name in index.names]
    names = sorted(set(own))
    _require_synsets(names, archive)
    label_of = {name: label for label, name in enumerate(names)}
    source = TarImages(archive, index, np.arange(len(own)), [label_of[name] for name in own], names)
    source.rule = f"from {archive}, in place"
    return source


def _flat(folder: Path, truth: Truth) -> Files:
    paths = list_images(folder).paths
    labels = _labels(paths, truth, folder)
    source = Files(folder, paths, labels, truth.class_names)
    source.rule = f"from {folder}, labelled by {truth.where}"
    return source


def _val_archive(archive: Path, truth: Truth) -> TarImages:
    index = index_of(archive)
    rows = sorted(range(len(index.names)), key=lambda row: index.names[row])
    labels = _labels([index.names[row] for row in rows], truth, archive)
    source = TarImages(archive, index, rows, labels, truth.class_names)
    source.rule = f"from {archive}, in place, labelled by {truth.where}"
    return source


def _labels(paths: Sequence[str], truth: Truth, where: Path) -> list[int]:
    """Returns the labels of validation images, by the number in their names."""
    label_of = {name: label for label, name in enumerate(truth.class_names)}
    labels = []
    for path in paths:
        match = VAL_IMAGE.fullmatch(os.path.basename(path))
        number = int(match[1]) if match else 0
        if number not in truth.synset_of:
            raise ValueError(
                f"{where}: {path!r} is no ILSVRC2012_val_<number> that {truth.where} has a class for"
            )
        labels.append(label_of[truth.synset_of[number]])
    if not labels:
        raise ValueError(f"{where} holds no image. {ORIGIN.remedy}")
    return labels


# ---- the ground truth


def _truth(top: Path) -> Truth:
    for folder in (top / DEVKIT, top):
        if (folder / TRUTH).is_file():
            return _of_devkit(folder / META, (folder / TRUTH).read_bytes(), folder / TRUTH)
    packed = top / f"{DEVKIT}.tar.gz"
    if packed.is_file():
        meta, lines = (read_packed(packed, f"{DEVKIT}/{file}", MAX_DEVKIT_BYTES) for file in (META, TRUTH))
        return _of_devkit(io.BytesIO(meta), lines, packed)
    if (top / SOLUTION).is_file():
        return _of_solution(top / SOLUTION)
    raise FileNotFoundError(
        f"{top} holds no ground truth of the validation images, which is one of {DEVKIT}/{TRUTH}, "
        f"{packed.name} and {SOLUTION}. {ORIGIN.remedy}"
    )


def _of_devkit(meta: Path | io.BytesIO, lines: bytes, where: Path) -> Truth:
    synsets = read_mat(meta, "synsets", ORIGIN.remedy, ("ILSVRC2012_ID", "WNID", "num_children"))
    leaves = [row for row in synsets if int(row["num_children"]) == 0]  # the others are groups of classes
    synset_of_id = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    synset_of = {}
    for number, word in enumerate(lines.split(), start=1):
        class_id = int(word) if word.isdigit() and len(word) < 9 else 0
        if class_id not in synset_of_id:
            raise ValueError(
                f"{where}, line {number}: expected an ILSVRC2012_ID of meta.mat, got {word[:20]!r}"
            )
        synset_of[number] = synset_of_id[class_id]
    return Truth(sorted(synset_of_id.values()), synset_of, str(where))


def _of_solution(path: Path) -> Truth:
    """Reads Kaggle's table: ImageId, and the synset with a box for each object, all of one synset."""
    rows = read_csv(path)
    next(rows, None)
    synset_of = {}
    for number, cells in rows:
        match = re.fullmatch(r"ILSVRC2012_val_(\d{8})", cells[0])
        synset = cells[1].split(maxsplit=1)[0] if len(cells) > 1 and cells[1] else ""
        if not match or not SYNSET.fullmatch(synset):
            raise ValueError(
                f"{path}, line {number}: expected ILSVRC2012_val_<number>,<synset> ...; got {cells!r}"
            )
        synset_of[int(match[1])] = synset
    return Truth(sorted(set(synset_of.values())), synset_of, str(path))
