"""CelebA (Liu et al. 2015, arXiv:1411.7766): faces with 40 attributes each."""

from __future__ import annotations

import os
from pathlib import Path

from imgcls_jax.data.folders import Origin, locate
from imgcls_jax.data.lists import check_names, inside_root, read_lines, read_table
from imgcls_jax.data.source import Files, Root, require_choice

ORIGIN = Origin(
    "CelebA, 202,599 faces with 40 attributes",
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    "img_align_celeba.zip (1.4 GB), list_attr_celeba.txt and list_eval_partition.txt from the drives named "
    "there, by hand, and unpack the first",
    "celeba",
)
SPLITS = {"train": 0, "val": 1, "test": 2}
FLAGS = {"1": 1, "-1": 0}


class Celeba(Files):
    """The aligned faces of CelebA, 178x218, with 40 attributes as labels that apply or do not.

    The lists lie in root, or in Anno/ and Eval/ as published; the images in img_align_celeba/, or in
    Img/img_align_celeba/. Figures are the mean accuracy of the attributes; to always say the more frequent
    value reaches about 80 %.

    Args:
        split: "train", "val" or "test" (162,770 / 19,867 / 19,962 images).
        root: the folder of these, or the one that holds it as celeba/ or CelebA/.

    Raises:
        FileNotFoundError: a list, or the first image, is missing.
        ValueError: a malformed line or lists that disagree; the message names the file and the line or id.
    """

    def __init__(self, split: str, *, root: Root) -> None:
        require_choice("the split of Celeba", split, tuple(SPLITS))
        places = ("celeba", "CelebA")
        within = ("Anno", "celeba/Anno", "CelebA/Anno")
        folder = locate(root, (*places, *within), "list_attr_celeba.txt", ORIGIN.remedy)
        top = folder.parent if folder.name == "Anno" else folder
        partition = locate(top, "Eval", "list_eval_partition.txt", ORIGIN.remedy) / "list_eval_partition.txt"
        names, rows = _read_attributes(folder / "list_attr_celeba.txt")
        splits = {image: own for image, (own,) in read_table(partition, (str, int)).items()}
        if splits.keys() != rows.keys():
            differing = min(splits.keys() ^ rows.keys())
            raise ValueError(
                f"{partition}: only one of the lists has the image {differing!r}; download both again"
            )
        chosen = [image for image, own in splits.items() if own == SPLITS[split]]
        if not chosen:
            raise ValueError(f"{partition} lists no image of {split} ({SPLITS[split]})")
        images = next((top / place for place in ("img_align_celeba", "Img/img_align_celeba")
                       if os.path.isdir(top / place)), top / "img_align_celeba")  # fmt: skip
        self.rule = f"the official {split} split of {partition}"
        paths = [inside_root(image, str(partition)) for image in chosen]
        super().__init__(images, paths, [rows[image] for image in chosen], names)


def _read_attributes(path: Path) -> tuple[list[str], dict[str, list[int]]]:
    """Returns the names of the attributes, and {image: 0 or 1 for each}.

    The file: a line with the number of images, one with the names, and one an image, of 1 and -1.
    """
    lines = read_lines(path)
    next(lines, None)
    names = next(lines, (0, ""))[1].split()
    if not names:
        raise ValueError(f"{path}, line 2: expected the names of the attributes; download it again")
    check_names(names, path)
    rows: dict[str, list[int]] = {}
    for number, text in lines:
        image, *words = text.split()
        row = [FLAGS.get(word, -1) for word in words]
        if len(row) != len(names) or -1 in row or image in rows:
            raise ValueError(
                f"{path}, line {number}: expected an image, once, and {len(names)} times 1 or -1"
            )
        rows[image] = row
    return names, rows


make = Celeba
