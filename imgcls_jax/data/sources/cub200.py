"""CUB-200-2011: https://data.caltech.edu/records/65de6-vp158."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.data.captions import Captions
from imgcls_jax.data.clip_tokens import CONTEXT_LENGTH
from imgcls_jax.data.folders import Download, Origin, expanded, locate
from imgcls_jax.data.lists import check_names, inside_root, read_lines, read_matching, read_table
from imgcls_jax.data.regions import part_box
from imgcls_jax.data.source import Files, Root, require_choice
from imgcls_jax.data.subsets import stratified_split

ORIGIN = Origin(
    "CUB-200-2011, 11,788 photographs of 200 bird species",
    "https://data.caltech.edu/records/65de6-vp158",
    "CUB_200_2011.tgz (1.2 GB) and unpack it there",
    "cub200",
    # Size and SHA-256: the checksums of tensorflow_datasets 4.9.
    (
        Download(
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
            1_150_585_339,
            "sha256:0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            file="CUB_200_2011.tgz",
        ),
    ),
)
REGIONS = ("", "box", "head", "body")
# The points that make a part, by their names in parts.txt: Zhang et al. 2014, arXiv:1407.3867, whose released
# boxes are the tight boxes of these points. The throat is in both.
MEMBERS = {
    "head": ("beak", "crown", "forehead", "left eye", "nape", "right eye", "throat"),
    "body": (
        "back", "belly", "breast", "left leg", "left wing", "right leg", "right wing", "tail", "throat"
    ),
}  # fmt: skip
SHARED = ("throat",)


class Cub200(Files):
    """CUB-200-2011 (Caltech-UCSD Birds) in its official layout: 11,788 photographs of 200 species.

    Elements add, where the files exist,
        box: float32 [4], (x, y, width, height) of the bird in pixels (bounding_boxes.txt);
        parts: float32 [15, 3], (x, y, visible) of each part in pixels, all 0 where it is hidden (parts/);
        text: int32 [n, context_length], token ids of the image's captions (captions/SPECIES/IMAGE.txt, one a
            line, the form of the ten captions an image of Reed et al., arXiv:1605.05395); with a vocabulary.
    Class names are those of classes.txt ("001.Black_footed_Albatross"); labels count from 0, by class id.

    Args:
        split: "train" or "test".
        root: the folder CUB_200_2011, or the one that holds it.
        protocol: "official" follows train_test_split.txt (5,994 / 5,794 images); "random" draws the test
            images from all of them, so its figures compare with no official ones.
        test_fraction: part of all images that "random" holds out: 0.1 gives 10,609 / 1,179 images, and
            1191 / 11788 gives 10,597 / 1,191.
        split_seed: seed of "random".
        region: what "image" is decoded and cropped to, uint8 [h, w, 3]: "box" for the bird, "head" or "body"
            for the tight box of their visible points (`MEMBERS`), or "" for the whole photograph, undecoded.
            box and parts are then given in the cropped image. Images that do not show the head or the body
            (`data.regions.part_box`) are left out.
        vocabulary: of the captions, as data/clip_tokens.py or data/siglip_tokens.py reads it; ""
            reads no captions.
        captions: the folder of the captions, relative to that of the data set, or absolute.
        context_length: tokens of a caption; longer ones are cut.

    Raises:
        FileNotFoundError: the data set or one of its files is missing.
        ValueError: a malformed line or files that disagree; the message names the file and the line or id.
    """

    def __init__(
        self, split: str, *, root: Root, protocol: str = "official", test_fraction: float = 0.1,
        split_seed: int = 0, region: str = "", vocabulary: str = "", captions: str = "captions",
        context_length: int = CONTEXT_LENGTH,
    ) -> None:  # fmt: skip
        require_choice("the split of Cub200", split, ("train", "test"))
        require_choice("the protocol of Cub200", protocol, ("official", "random"))
        require_choice("the region of Cub200", region, REGIONS)
        folder = locate(root, "CUB_200_2011", "images.txt", ORIGIN.remedy)
        images = self._read_images(folder)
        class_names, label_of = self._read_classes(folder, images)
        if protocol == "random":
            indices = stratified_split(np.zeros(len(images)), test_fraction, split_seed)[split == "test"]
            ids = np.array(list(images))[indices].tolist()
        else:
            is_train = self._read_split(folder, images)
            ids = [key for key in images if is_train[key] == (split == "train")]
        if not ids:
            raise ValueError(f"{folder}: the {protocol} split {split!r} of {len(images)} images is empty")
        self._boxes = self._read_boxes(folder, images, ids)
        self._parts, self._part_names = self._read_parts(folder, images, ids)
        self._folder, self._regions = folder, None
        if region:
            self._regions = self.region_boxes(region)
            shown = np.isfinite(self._regions).all(axis=1)
            if not shown.any():
                raise ValueError(f"{folder}: no image of the {protocol} split {split!r} shows the {region}")
            self.left_out = {f"without a visible {region}": int((~shown).sum())}
            ids = [key for key, kept in zip(ids, shown, strict=True) if kept]
            self._regions = self._regions[shown]
            self._boxes = None if self._boxes is None else self._boxes[shown]
            self._parts = None if self._parts is None else self._parts[shown]
        self._captions = None
        if vocabulary:
            texts = [self._read_captions(folder / expanded(captions), images[key]) for key in ids]
            self._captions = Captions(texts, vocabulary, context_length)
        paths, labels = [images[key] for key in ids], [label_of[key] for key in ids]
        self.rule = f"the {protocol} split of {folder}"
        if protocol == "random":
            self.rule += f", {test_fraction:.3g} of all for test (data.test_fraction, data.split_seed)"
        super().__init__(folder / "images", paths, labels, class_names)

    def region_boxes(self, region: str) -> np.ndarray:
        """Returns a region of every image, float64 [N, 4], (x1, y1, x2, y2) in pixels; NaN where it is not
        visible.

        Args:
            region: "box", "head" or "body".

        Raises:
            FileNotFoundError: the file of boxes or of parts is missing.
            ValueError: parts.txt lacks a point of the region.
        """
        require_choice("the region of Cub200", region, REGIONS[1:])
        if region == "box":
            if self._boxes is None:
                raise FileNotFoundError(
                    f"region='box' needs {self._folder / 'bounding_boxes.txt'}, which is missing"
                )
            boxes = self._boxes.astype(np.float64)
            return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        if self._parts is None:
            path = self._folder / "parts" / "part_locs.txt"
            raise FileNotFoundError(f"region={region!r} needs {path}, which is missing")
        missing = sorted(set(MEMBERS[region]) - set(self._part_names))
        if missing:
            path = self._folder / "parts" / "parts.txt"
            raise ValueError(f"{path}: region={region!r} needs the part {missing[0]!r}, which it lacks")
        rows, shared = (
            [self._part_names.index(name) for name in names] for names in (MEMBERS[region], SHARED)
        )
        found = [part_box(points, rows, shared) for points in self._parts]
        return np.array([np.full(4, np.nan) if box is None else box for box in found])

    @staticmethod
    def _read_images(folder: Path) -> dict[int, str]:
        """Returns {image id: normalized path inside images/}."""
        path = folder / "images.txt"
        id_of: dict[str, int] = {}
        for key, (image,) in read_table(path, (int, str)).items():
            image = inside_root(image, f"{path}, id {key}")
            if image in id_of:
                raise ValueError(f"{path}: {image!r} has the ids {id_of[image]} and {key}; remove one")
            id_of[image] = key
        return {key: image for image, key in id_of.items()}

    @staticmethod
    def _read_split(folder: Path, images: Collection[int]) -> dict[int, int]:
        """Returns {image id: 1 for train, 0 for test}."""
        path = folder / "train_test_split.txt"
        flags = {key: flag for key, (flag,) in read_matching(path, (int, int), images).items()}
        for key, flag in flags.items():
            if flag not in (0, 1):
                raise ValueError(f"{path}: image id {key} has {flag}; expected 1 for train or 0 for test")
        return flags

    @staticmethod
    def _read_classes(folder: Path, images: Mapping[int, str]) -> tuple[list[str], dict[int, int]]:
        """Returns (K class names in the order of class ids, {image id: label})."""
        classes = read_table(folder / "classes.txt", (int, str))
        position = {class_id: label for label, class_id in enumerate(sorted(classes))}
        path = folder / "image_class_labels.txt"
        label_of = {}
        for key, (class_id,) in read_matching(path, (int, int), images).items():
            if class_id not in position:
                raise ValueError(f"{path}: image id {key} has class {class_id}, which classes.txt lacks")
            label_of[key] = position[class_id]
        names = [classes[class_id][0] for class_id in position]
        check_names(names, folder / "classes.txt")
        for key, image in images.items():
            held, named = image.split(os.sep)[0], names[label_of[key]]
            if held != named and held in names:
                raise ValueError(f"{path}: image id {key} is a {named}, but lies in the folder {held}")
        return names, label_of

    @staticmethod
    def _read_boxes(folder: Path, images: Collection[int], ids: list[int]) -> np.ndarray | None:
        path = folder / "bounding_boxes.txt"
        if not path.is_file():
            return None
        boxes = read_matching(path, (int, float, float, float, float), images)
        for key, (_, _, width, height) in boxes.items():
            if width <= 0 or height <= 0:
                raise ValueError(f"{path}: image id {key} has a box of {width} x {height} pixels")
        return np.array([boxes[key] for key in ids], np.float32)  # [N, 4]

    @staticmethod
    def _read_parts(
        folder: Path, images: Collection[int], ids: list[int]
    ) -> tuple[np.ndarray | None, list[str]]:
        """Returns (x, y, visible) of the P parts, float32 [N, P, 3], and their names."""
        path = folder / "parts" / "part_locs.txt"
        if not path.is_file():
            return None, []
        table = read_table(folder / "parts" / "parts.txt", (int, str))
        parts = sorted(table)
        pairs = [(key, part) for key in images for part in parts]
        locations = read_matching(path, (int, int, float, float, int), pairs, "images.txt and parts.txt")
        rows = [[locations[key, part] for part in parts] for key in ids]
        return np.array(rows, np.float32), [table[part][0] for part in parts]

    @staticmethod
    def _read_captions(folder: Path, image: str) -> list[str]:
        path = (folder / image).with_suffix(".txt")
        captions = [text for _, text in read_lines(path)]
        if not captions:
            raise ValueError(f"{path}: expected a caption a line; it is empty")
        return captions

    def __getitem__(self, index: int) -> dict[str, Any]:
        element = super().__getitem__(index)
        if self._captions is not None:
            element["text"] = self._captions[index]
        if self._boxes is not None:
            element["box"] = self._boxes[index].copy()
        if self._parts is not None:
            element["parts"] = self._parts[index].copy()
        if self._regions is None:
            return element
        return self._crop(element, self._regions[index].tolist(), self.describe(index))

    @staticmethod
    def _crop(element: dict[str, Any], box: list[float], where: str) -> dict[str, Any]:
        from imgcls_jax.data.decoding import decode  # Pillow is loaded by those who crop

        image = decode(element["image"])
        left, top = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
        # Rounded first: 22.9 + 201.1 exceeds 224 in float32.
        right = min(image.width, math.ceil(round(box[2], 3)))
        bottom = min(image.height, math.ceil(round(box[3], 3)))
        if left >= right or top >= bottom:
            raise ValueError(f"{where}: the region {box} misses the image of {image.size} pixels")
        element["image"] = np.array(image.crop((left, top, right, bottom)))
        if "box" in element:
            element["box"][:2] -= left, top
        if "parts" in element:
            corner = np.array([left, top], np.float32)
            element["parts"][:, :2] -= element["parts"][:, 2:] * corner  # hidden: stays 0
        return element


make = Cub200
