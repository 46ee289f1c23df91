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
        crop_to_box: whether "image" is decoded and cropped to the box: uint8 [h, w, 3]. box and parts are
            then given in the cropped image.
        vocabulary: of the captions, as data/clip_tokens.py reads it; "" reads no captions.
        captions: the folder of the captions, relative to that of the data set, or absolute.
        context_length: tokens of a caption; longer ones are cut.

    Raises:
        FileNotFoundError: the data set or one of its files is missing.
        ValueError: a malformed line or files that disagree; the message names the file and the line or id.
    """

    def __init__(
        self, split: str, *, root: Root, protocol: str = "official", test_fraction: float = 0.1,
        split_seed: int = 0, crop_to_box: bool = False, vocabulary: str = "", captions: str = "captions",
        context_length: int = CONTEXT_LENGTH,
    ) -> None:  # fmt: skip
        require_choice("the split of Cub200", split, ("train", "test"))
        require_choice("the protocol of Cub200", protocol, ("official", "random"))
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
        self._parts = self._read_parts(folder, images, ids)
        if crop_to_box and self._boxes is None:
            raise FileNotFoundError(f"crop_to_box needs {folder / 'bounding_boxes.txt'}, which is missing")
        self._crop_to_box = crop_to_box
        self._captions = None
        if vocabulary:
            texts = [self._read_captions(folder / expanded(captions), images[key]) for key in ids]
            self._captions = Captions(texts, vocabulary, context_length)
        paths, labels = [images[key] for key in ids], [label_of[key] for key in ids]
        self.rule = f"the {protocol} split of {folder}"
        if protocol == "random":
            self.rule += f", {test_fraction:.3g} of all for test (data.test_fraction, data.split_seed)"
        super().__init__(folder / "images", paths, labels, class_names)

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
    def _read_parts(folder: Path, images: Collection[int], ids: list[int]) -> np.ndarray | None:
        path = folder / "parts" / "part_locs.txt"
        if not path.is_file():
            return None
        parts = sorted(read_table(folder / "parts" / "parts.txt", (int, str)))
        pairs = [(key, part) for key in images for part in parts]
        locations = read_matching(path, (int, int, float, float, int), pairs, "images.txt and parts.txt")
        return np.array([[locations[key, part] for part in parts] for key in ids], np.float32)  # [N, P, 3]

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
        return self._crop(element, self.describe(index)) if self._crop_to_box else element

    @staticmethod
    def _crop(element: dict[str, Any], where: str) -> dict[str, Any]:
        from imgcls_jax.data.decoding import decode  # Pillow is loaded by those who crop

        image = decode(element["image"])
        x, y, width, height = element["box"].tolist()
        left, top = max(0, math.floor(x)), max(0, math.floor(y))
        # Rounded first: 22.9 + 201.1 exceeds 224 in float32.
        right = min(image.width, math.ceil(round(x + width, 3)))
        bottom = min(image.height, math.ceil(round(y + height, 3)))
        if left >= right or top >= bottom:
            raise ValueError(f"{where}: box {[x, y, width, height]} misses the image of {image.size} pixels")
        element["image"] = np.array(image.crop((left, top, right, bottom)))
        element["box"][:2] -= left, top
        if "parts" in element:
            corner = np.array([left, top], np.float32)
            element["parts"][:, :2] -= element["parts"][:, 2:] * corner  # hidden: stays 0
        return element


make = Cub200
