"""COCO (Lin et al. 2014, arXiv:1405.0312): photographs with any number of 80 kinds of objects."""

from __future__ import annotations

import numpy as np

from imgcls_jax.data.annotations import read_coco
from imgcls_jax.data.folders import Download, Origin, require_folder
from imgcls_jax.data.source import Files, Root, require_choice

HOST = "http://images.cocodataset.org"
# Sizes and SHA-256: the checksums of tensorflow_datasets 4.9.
ORIGIN = Origin(
    "COCO, photographs with any number of 80 kinds of objects",
    "https://cocodataset.org/#download",
    "train2017.zip (19 GB), val2017.zip and annotations_trainval2017.zip, or those of 2014, and unpack them "
    "there",
    "coco",
    (
        Download(
            f"{HOST}/annotations/annotations_trainval2017.zip",
            252_907_541,
            "sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            part="2017",
        ),
        Download(
            f"{HOST}/zips/val2017.zip",
            815_585_330,
            "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            part="2017",
        ),
        Download(
            f"{HOST}/zips/train2017.zip",
            19_336_861_798,
            "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            part="2017",
        ),
        Download(
            f"{HOST}/annotations/annotations_trainval2014.zip",
            252_872_794,
            "sha256:031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
            part="2014",
        ),
        Download(
            f"{HOST}/zips/val2014.zip",
            6_645_013_297,
            "sha256:fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
            part="2014",
        ),
        Download(
            f"{HOST}/zips/train2014.zip",
            13_510_573_713,
            "sha256:ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
            part="2014",
        ),
    ),
)


class Coco(Files):
    """COCO in its official layout: <split><year>/*.jpg and annotations/instances_<split><year>.json.

    An image has the label of a category where an object of it is annotated, crowds included. Labels follow
    the category ids, which run from 1 to 90 with gaps. Images without an object have no label and are kept.

    Args:
        split: "train" or "val".
        root: the folder of both.
        year: 2017 (118,287 / 5,000 images) or 2014 (82,783 / 40,504); most figures of multi-label papers are
            of 2014.

    Raises:
        FileNotFoundError: the annotations or the first image are missing.
        ValueError: annotations that are damaged or disagree.
    """

    def __init__(self, split: str, *, root: Root, year: int = 2017) -> None:
        require_choice("the split of Coco", split, ("train", "val"))
        folder = require_folder(root, "train2017/, val2017/ and annotations/", ORIGIN.remedy)
        file = folder / "annotations" / f"instances_{split}{year}.json"
        images, categories, pairs = read_coco(file, ORIGIN.remedy)
        row_of = {key: row for row, key in enumerate(images)}
        column_of = {key: column for column, key in enumerate(categories)}
        labels = np.zeros((len(images), len(categories)), np.int32)
        for image, category in pairs:
            labels[row_of[image], column_of[category]] = 1
        self.rule = f"listed in {file}"
        names = [category["name"] for category in categories.values()]
        super().__init__(folder / f"{split}{year}", list(images.values()), labels, names)


make = Coco
