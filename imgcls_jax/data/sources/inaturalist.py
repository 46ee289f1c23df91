"""iNaturalist (Van Horn et al. 2018, arXiv:1707.06642): photographs of species, of the competitions of 2017,
2018 and 2021."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.data.annotations import read_coco, read_json
from imgcls_jax.data.folders import Download, Origin, labeled_images, locate, require_folder
from imgcls_jax.data.source import Files, Root, require_choice

HOST = "https://ml-inat-competition-datasets.s3.amazonaws.com"
ORIGIN = Origin(
    "iNaturalist, photographs of species",
    "https://github.com/visipedia/inat_comp",
    "the images (120 to 224 GB) and annotations of a year and unpack them there",
    "inaturalist",
    # MD5: the pages of 2017 and 2018, and of 2021 torchvision's datasets/inaturalist.py. Sizes in bytes, and
    # the SHA-256: the checksums of tensorflow_datasets 4.9, which has 2017 alone.
    (
        Download(
            f"{HOST}/2017/train_val2017.zip",
            26_836_398,
            "sha256:e030b52cca0b54709b0b976ddcf811513e05771cabbae4ac5899a56599e9066c",
            part="2017",
        ),
        Download(
            f"{HOST}/2017/train_val_images.tar.gz",
            198_765_436_676,
            "md5:7c784ea5e424efaec655bd392f87301f",
            part="2017",
        ),
        Download(
            f"{HOST}/2018/train2018.json.tar.gz", 0, "md5:bfa29d89d629cbf04d826a720c0a68b0", part="2018"
        ),
        Download(f"{HOST}/2018/val2018.json.tar.gz", 0, "md5:f2ed8bfe3e9901cdefceb4e53cd3775d", part="2018"),
        Download(f"{HOST}/2018/categories.json.tar.gz", 0, part="2018"),
        Download(f"{HOST}/2018/train_val2018.tar.gz", 0, "md5:b1c6952ce38f31868cc50ea72d066cc3", part="2018"),
        Download(f"{HOST}/2021/val.tar.gz", 0, "md5:f6f6e0e242e3d4c9569ba56400938afc", part="2021_val"),
        Download(f"{HOST}/2021/train.tar.gz", 0, "md5:e0526d53c7f7b2e3167b2b43bb2690ed", part="2021_train"),
        Download(
            f"{HOST}/2021/train_mini.tar.gz",
            0,
            "md5:db6ed8330e634445efc8fec83ae81442",
            part="2021_train_mini",
        ),
    ),
)
SPECIES = "species"
RANKS = (
    "kingdom",
    "phylum",
    "class",
    "order",
    "family",
    "genus",
)  # in the folder names of 2021, after the number


class INaturalist(Files):
    """iNaturalist in the official layouts.

    2017, 2018: train_val_images/ or train_val2018/<super-category>/<category>/*.jpg, and the split in
    train<year>.json and val<year>.json. 2021: train/, train_mini/ and val/, each of folders
    <number>_<six ranks>_<species>/*.jpg.

    Args:
        split: "train" or "val"; of 2021 also "train_mini".
        root: the folder of these.
        year: 2017 (5,089 categories, 579,184 / 95,986 images), 2018 (8,142, 437,513 / 24,426) or 2021
            (10,000, 2,686,843 / 100,000).
        label: "species" for the categories; or what is known of each: "supercategory" (2017 and 2018), or a
            rank (2018 and 2021): "kingdom", "phylum", "class", "order", "family", "genus".

    The names of 2018 were hidden at first; those of categories.json, published later, are taken where it lies
    in root.

    Raises:
        FileNotFoundError: annotations, a split's folder, or the first image are missing.
        ValueError: annotations or folders that are not as above, or an unknown label.
    """

    def __init__(self, split: str, *, root: Root, year: int = 2021, label: str = SPECIES) -> None:
        splits = ("train", "val", "train_mini") if year == 2021 else ("train", "val")
        require_choice("the split of INaturalist", split, splits)
        require_choice("config.data.year", str(year), ("2017", "2018", "2021"))
        top = require_folder(root, f"the images of {year}", ORIGIN.remedy)
        if year == 2021:
            folder, paths, numbers, categories = _read_folders(top, split)
            self.rule = f"from {folder}"
        else:
            file = f"{split}{year}.json"
            file_path = locate(top, (f"train_val{year}", "annotations"), file, ORIGIN.remedy) / file
            folder = top
            paths, numbers, categories = _read_annotations(file_path, top / "categories.json")
            self.rule = f"listed in {file_path}"
        label_of, names = _classes(categories, label)
        super().__init__(folder, paths, label_of[numbers], names)


def _read_folders(top: Path, split: str) -> tuple[Path, list[str], list[int], list[dict[str, Any]]]:
    """Returns (folder, paths, category of each, categories) of the layout of 2021."""
    if not (top / split).is_dir():
        raise FileNotFoundError(f"{top / split} is missing. {ORIGIN.remedy}")
    found = labeled_images(top / split)
    names = sorted(set(found.names))
    categories = []
    for name in names:
        words = name.split("_")
        if len(words) != len(RANKS) + 2 or not words[0].isdigit():
            raise ValueError(
                f"{top / split / name}: expected a folder <number>_<{'>_<'.join(RANKS)}>_<species>, as in "
                "2021; for 2017 and 2018 set config.data.year"
            )
        categories.append({SPECIES: name, **dict(zip(RANKS, words[1:], strict=False))})
    number_of = {name: number for number, name in enumerate(names)}
    return found.folder, found.paths, [number_of[name] for name in found.names], categories


def _read_annotations(file: Path, published: Path) -> tuple[list[str], list[int], list[dict[str, Any]]]:
    """Returns (paths, category of each, categories) of the annotations of 2017 and 2018."""
    images, found, pairs = read_coco(file, ORIGIN.remedy)
    category_of = dict(pairs)
    if len(category_of) < len(images) or len(pairs) > len(images):
        raise ValueError(
            f"{file}: expected one annotation an image, got {len(pairs)} for {len(images)} images"
        )
    later = read_json(published) if published.is_file() else []
    entries = later if isinstance(later, list) else []
    later_of = {
        entry["id"]: entry for entry in entries if isinstance(entry, dict) and type(entry.get("id")) is int
    }
    categories = [dict(later_of.get(key, own)) for key, own in found.items()]
    counts = collections.Counter(str(own.get("name")) for own in categories)
    for key, own in zip(found, categories, strict=True):
        name = str(own.get("name"))
        own[SPECIES] = name if counts[name] == 1 else f"{key} {name}"
    number_of = {key: number for number, key in enumerate(found)}
    return list(images.values()), [number_of[category_of[key]] for key in images], categories


def _classes(categories: Sequence[Mapping[str, Any]], label: str) -> tuple[np.ndarray, list[str]]:
    """Returns the label of each category, int32, and the names of the classes."""
    if not all(isinstance(own.get(label), str) for own in categories):
        known = sorted(key for key, value in categories[0].items() if isinstance(value, str))
        raise ValueError(f"config.data.label: the categories have no {label!r}; they have {known}")
    values = [own[label] for own in categories]
    names = values if label == SPECIES else sorted(set(values))
    number_of = {name: number for number, name in enumerate(names)}
    return np.array([number_of[value] for value in values], np.int32), names


make = INaturalist
