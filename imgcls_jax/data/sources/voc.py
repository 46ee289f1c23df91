"""PASCAL VOC (Everingham et al. 2010): photographs with any number of 20 kinds of objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.data.folders import Download, Origin, locate
from imgcls_jax.data.lists import inside_root, read_table
from imgcls_jax.data.source import Files, Root, require_choice

HOST = "http://host.robots.ox.ac.uk/pascal/VOC"
ORIGIN = Origin(
    "PASCAL VOC, photographs with any number of 20 kinds of objects",
    f"{HOST}/",
    "VOCtrainval_11-May-2012.tar (2.0 GB), or the archives of another year, and unpack it there",
    "voc",
    # MD5: torchvision's datasets/voc.py. Sizes: the checksums of tensorflow_datasets 4.9.
    (
        Download(
            f"{HOST}/voc2012/VOCtrainval_11-May-2012.tar",
            1_999_639_040,
            "md5:6cd6e144f989b92b3379bac3b3de84fd",
            part="2012",
        ),
        Download(
            f"{HOST}/voc2007/VOCtrainval_06-Nov-2007.tar",
            460_032_000,
            "md5:c52e279531787c972589f7e41ab4ae64",
            part="2007",
        ),
        Download(
            f"{HOST}/voc2007/VOCtest_06-Nov-2007.tar",
            451_020_800,
            "md5:b6e924de25625d8de591ea690078ad9f",
            part="2007",
        ),
    ),
)
CLASS_NAMES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor".split()
)
APPLIES, DOES_NOT, DIFFICULT = 1, -1, 0  # as the lists write them


class Voc(Files):
    """PASCAL VOC in its official layout: VOC<year>/JPEGImages and VOC<year>/ImageSets/Main.

    A list a class says of each image 1 (an object of the class), -1 (none), or 0: only objects that are hard
    to recognize, which the official average precision leaves out.

    With difficult = "ignore" an element adds
        ignore: int32 [20], 1 where the class is neither to be found nor to be missed.

    Args:
        split: "train", "val" or "trainval"; of 2007 also "test", whose labels are published.
        root: the folder VOC<year>, VOCdevkit, or the one that holds it.
        year: 2012 has 5,717 / 5,823 images in train / val, 2007 2,501 / 2,510 and 4,952 in test.
        difficult: "ignore" for label 0 and a 1 in `ignore`, which the evaluator `multilabel` leaves out of
            its measures (training takes the label 0); "negative" or "positive" for the label alone.

    Raises:
        FileNotFoundError: the split's lists or the first image are missing.
        ValueError: a malformed line, or lists that disagree; the message names the file and the line or id.
    """

    def __init__(self, split: str, *, root: Root, year: int = 2012, difficult: str = "ignore") -> None:
        require_choice("the split of Voc", split, ("train", "val", "trainval", "test"))
        require_choice("config.data.difficult", difficult, ("ignore", "negative", "positive"))
        places = (f"VOCdevkit/VOC{year}", f"VOC{year}", f"TrainVal/VOCdevkit/VOC{year}")  # the last of 2011
        folder = locate(root, places, f"ImageSets/Main/{split}.txt", ORIGIN.remedy)
        if folder.name.startswith("VOC2") and folder.name != f"VOC{year}":
            raise ValueError(f"{folder} is not of {year}: set config.data.year, or name another root")
        lists = folder / "ImageSets" / "Main"
        ids = list(read_table(lists / f"{split}.txt", (str,)))
        if not ids:
            raise ValueError(f"{lists / f'{split}.txt'} is empty; unpack it again")
        flags = np.stack([_read_class(lists / f"{name}_{split}.txt", ids) for name in CLASS_NAMES], axis=1)
        self._ignore = (flags == DIFFICULT).astype(np.int32) if difficult == "ignore" else None
        labels = flags >= DIFFICULT if difficult == "positive" else flags == APPLIES
        paths = [inside_root(f"{name}.jpg", f"{lists / f'{split}.txt'}, id {name}") for name in ids]
        self.rule = f"the official {split} split of {folder}"
        super().__init__(folder / "JPEGImages", paths, labels, CLASS_NAMES)

    def __getitem__(self, index: int) -> dict[str, Any]:
        element = super().__getitem__(index)
        return element if self._ignore is None else element | {"ignore": self._ignore[index]}


def _read_class(path: Path, ids: list[str]) -> np.ndarray:
    """Returns what a class's list says of each image, int [N]."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: of this split no labels are published, or unpack it again"
        )
    flags = {name: flag for name, (flag,) in read_table(path, (str, int)).items()}
    for differing, what in ((set(ids) - set(flags), "lacks"), (set(flags) - set(ids), "alone has")):
        if differing:
            raise ValueError(f"{path} {what} the image {min(differing)!r}, unlike the split's list")
    for name, flag in flags.items():
        if flag not in (APPLIES, DOES_NOT, DIFFICULT):
            raise ValueError(f"{path}: the image {name!r} has {flag}; expected 1, -1 or 0")
    return np.array([flags[name] for name in ids])


make = Voc
