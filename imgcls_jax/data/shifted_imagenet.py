"""Test sets of ImageNet's classes that are not ImageNet's validation images: their layouts and class maps.

ImageNet-A     imagenet-a/<synset>/, 200 classes          Hendrycks et al. 2021, arXiv:1907.07174
ImageNet-R     imagenet-r/<synset>/, 200 classes          Hendrycks et al. 2021, arXiv:2006.16241
Sketch         sketch/<synset>/                           Wang et al. 2019, arXiv:1905.13549
ImageNet-V2    imagenetv2-...-format-val/<0 to 999>/      Recht et al. 2019, arXiv:1902.10811
ImageNet-C     <corruption>/<severity>/<synset>/          Hendrycks and Dietterich 2019, arXiv:1903.12261
ObjectNet      objectnet-1.0/images/, /mappings/*.json    Barbu et al. 2019, "ObjectNet"
ReaL           real.json, for ImageNet's own images       Beyer et al. 2020, arXiv:2006.07159

A label is an index into the 1,000 synsets, sorted, as published networks have them. ImageNet-V2 and ReaL
number the classes so; a folder "10" of ImageNet-V2 is class 10, though it stands before "2" among names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.data.annotations import read_json
from imgcls_jax.data.decoding import decode
from imgcls_jax.data.folders import Labeled, labeled_images, require_folder, subfolders
from imgcls_jax.data.source import Files, Root, Source

SYNSETS = tuple(Path(__file__).with_name("imagenet_synsets.txt").read_text(encoding="ascii").split())

_V2 = ("imagenetv2-matched-frequency", "imagenetv2-threshold0.7", "imagenetv2-top-images")
# split -> the names of its folder, in whatever case, as its archive has it and as others call it.
FOLDERS = {
    "imagenet-a": ("imagenet-a",),
    "imagenet-r": ("imagenet-r",),
    "imagenet-sketch": ("sketch", "imagenet-sketch"),
    **{name: (f"{name}-format-val", name) for name in _V2},
    "imagenet-c": ("imagenet-c",),
    "objectnet": ("objectnet-1.0", "objectnet"),
}
REAL, REAL_FILE = "imagenet-real", "real.json"
SPLITS = (*FOLDERS, REAL)
PAGES = {
    "imagenet-a": "https://github.com/hendrycks/natural-adv-examples",
    "imagenet-r": "https://github.com/hendrycks/imagenet-r",
    "imagenet-sketch": "https://github.com/HaohanWang/ImageNet-Sketch",
    **dict.fromkeys(_V2, "https://github.com/modestyachts/ImageNetV2"),
    "imagenet-c": "https://github.com/hendrycks/robustness",
    "objectnet": "https://objectnet.dev",
    REAL: "https://github.com/google-research/reassessed-imagenet",
}
# In the paper's order; `extra.tar` holds four more, which are not counted.
CORRUPTIONS = tuple(
    "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog "
    "brightness contrast elastic_transform pixelate jpeg_compression".split()
)
GROUPS = ("noise", "blur", "weather", "digital")  # the archives, whose names may be folders
SEVERITIES = range(1, 6)
BORDER = 2  # pixels: ObjectNet's red frame, which tells its images from training data
OBJECTNET_FILES = (
    "folder_to_objectnet_label.json",
    "objectnet_to_imagenet_1k.json",
    "pytorch_to_imagenet_2012_id.json",
    "imagenet_to_label_2012_v2",
)
VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")


def open_shifted(split: str, root: Root) -> Files:
    """Opens a test set, unpacked.

    Args:
      split: of FOLDERS.
      root: the folder that holds the set's own.

    Returns:
      Its images. Those of ObjectNet have any number of labels, [N, 1000]: all of ImageNet's classes that
      count as the object. Those of ImageNet-C have the fields "corruption", an index into CORRUPTIONS, and
      "severity", 1 to 5; it may lack some corruptions.

    Raises:
      FileNotFoundError: the folder, or a file of ObjectNet's, is missing.
      ValueError: a folder that is no class, or a file that is damaged; the message names it.
    """
    names = FOLDERS[split]
    top = require_folder(root, f"{names[0]}/")
    found = next((own for own in subfolders(top) if own.lower() in names), None)
    if found is None:
        raise FileNotFoundError(
            f"{top} holds no folder {' or '.join(names)}: download {split} from {PAGES[split]} and unpack it "
            "there"
        )
    folder = top / found
    if split == "objectnet":
        return _objectnet(folder)
    if split == "imagenet-c":
        return _corrupted(folder)
    images = labeled_images(folder)
    return _files(images, [_class_of(name, split, folder) for name in images.names])


def _files(images: Labeled, labels: Sequence[int]) -> Files:
    source = Files(images.folder, images.paths, labels, SYNSETS)
    source.rule, source.left_out = f"from {images.folder}", images.left_out
    return source


def _class_of(name: str, split: str, folder: Path) -> int:
    """Returns the label of a class folder."""
    numbered = split in _V2
    if numbered and name.isascii() and name.isdigit() and int(name) < len(SYNSETS):
        return int(name)
    if not numbered and name in _LABELS:
        return _LABELS[name]
    wanted = "numbers from 0 to 999" if numbered else "synsets of ImageNet's 1,000 classes"
    raise ValueError(f"{folder}: the class folders of {split} are {wanted}; got {name!r}")


_LABELS = {name: label for label, name in enumerate(SYNSETS)}


# ---- ImageNet-C


class Corrupted(Files):
    """Images with a corruption and a severity each.

    Args:
      root, paths, labels: as of `Files`.
      kinds: int [N, 2]: an index into CORRUPTIONS, and the severity.
    """

    def __init__(self, root: Path, paths: Sequence[str], labels: Sequence[int], kinds: np.ndarray) -> None:
        super().__init__(root, paths, labels, SYNSETS)
        self._kinds = np.asarray(kinds, np.int32)

    def __getitem__(self, index: int) -> dict[str, Any]:
        corruption, severity = self._kinds[index]
        return super().__getitem__(index) | {"corruption": corruption, "severity": severity}


def _corrupted(folder: Path) -> Corrupted:
    paths: list[str] = []
    labels: list[int] = []
    kinds: list[np.ndarray] = []
    for number, corruption in enumerate(CORRUPTIONS):
        places = (corruption, *(os.path.join(group, corruption) for group in GROUPS))
        inside = next((own for own in places if (folder / own).is_dir()), None)
        for severity in SEVERITIES if inside else ():
            own = os.path.join(inside or "", str(severity))
            if not (folder / own).is_dir():
                raise FileNotFoundError(f"{folder / own} is missing: unpack ImageNet-C's archive again")
            images = labeled_images(folder / own)
            paths += [os.path.join(own, path) for path in images.paths]
            labels += [_class_of(name, "imagenet-c", folder / own) for name in images.names]
            kinds.append(np.full((len(images.paths), 2), (number, severity), np.int32))
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds none of ImageNet-C's folders {', '.join(CORRUPTIONS[:3])}, ...: unpack its "
            f"archives ({PAGES['imagenet-c']}) there"
        )
    source = Corrupted(folder, paths, labels, np.concatenate(kinds))
    present = len(set(np.concatenate(kinds)[:, 0].tolist()))
    source.rule = f"from {folder}, {present} of {len(CORRUPTIONS)} corruptions"
    return source


# ---- ObjectNet


class Framed(Files):
    """Images without a frame of BORDER pixels; arguments as of `Files`."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        element = super().__getitem__(index)
        pixels = np.asarray(decode(element["image"]))
        return element | {"image": np.ascontiguousarray(pixels[BORDER:-BORDER, BORDER:-BORDER])}


def _objectnet(folder: Path) -> Framed:
    """Returns the images of objects that ImageNet has a class for."""
    classes_of = objectnet_classes(folder / "mappings")
    images = labeled_images(folder / "images" if (folder / "images").is_dir() else folder)
    kept = [row for row, name in enumerate(images.names) if name in classes_of]
    if not kept:
        raise ValueError(f"{images.folder} holds no folder that {OBJECTNET_FILES[0]} names")
    labels = np.zeros((len(kept), len(SYNSETS)), np.int32)
    for row, at in enumerate(kept):
        labels[row, classes_of[images.names[at]]] = 1
    source = Framed(images.folder, [images.paths[row] for row in kept], labels, SYNSETS)
    others = len(images.paths) - len(kept)
    source.rule = f"from {images.folder}, {BORDER} pixels off each side"
    source.left_out = {**images.left_out, "of objects that ImageNet has no class for": others}
    return source


def objectnet_classes(folder: Path) -> dict[str, list[int]]:
    """Returns {folder of an object: the labels of ImageNet that count as it} by ObjectNet's four files.

    `objectnet_to_imagenet_1k.json` gives an object's classes by their descriptions, separated by "; ";
    `imagenet_to_label_2012_v2` has a description a line, in an order of its own, and
    `pytorch_to_imagenet_2012_id.json` gives the line, from 0, of each label.

    Args:
      folder: `mappings` of the data set.

    Raises:
      FileNotFoundError: one of the files is missing.
      ValueError: one is damaged; names it.
    """
    files = [folder / name for name in OBJECTNET_FILES]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; it comes with ObjectNet ({PAGES['objectnet']})")
    objects, descriptions = (_texts(file) for file in files[:2])
    lines = files[3].read_text(encoding="utf-8", errors="replace").splitlines()
    lines_of = read_json(files[2])
    if (
        not isinstance(lines_of, dict)
        or sorted(lines_of, key=str) != sorted(map(str, range(len(SYNSETS))))
        or not all(isinstance(line, int) and 0 <= line < len(lines) for line in lines_of.values())
    ):
        raise ValueError(
            f"{files[2]} is damaged: expected a line of {files[3].name}, from 0, for each label 0 to 999"
        )
    label_of = {lines[line].strip(): int(label) for label, line in lines_of.items()}
    classes_of = {}
    for name, described in objects.items():
        words = descriptions[described].split("; ") if described in descriptions else []
        for word in words:
            if word not in label_of:
                raise ValueError(f"{files[1]}: {files[3].name} has no line {word[:60]!r}")
        if words:
            classes_of[name] = sorted(label_of[word] for word in words)
    return classes_of


def _texts(file: Path) -> Mapping[str, str]:
    content = read_json(file)
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise ValueError(f"{file} is damaged: expected an object of texts")
    return content


# ---- ReaL


class Reassessed:
    """ImageNet's validation images that have a reassessed label.

    Args:
      source: of the validation images, whose file names have their numbers.
      rows: int [n], which of them.
      labels: int32 [n, 1000] of 0 and 1.
    """

    left_out: Mapping[str, int] = {}

    def __init__(self, source: Any, rows: Sequence[int], labels: np.ndarray) -> None:
        self._source, self._rows = source, rows
        self.root, self.paths = source.root, [source.paths[row] for row in rows]
        self.labels, self.class_names = labels, SYNSETS
        self.rule = ""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[self._rows[index]] | {"label": self.labels[index]}

    def describe(self, index: int) -> str:
        return str(self._source.describe(self._rows[index]))


def reassessed(validation: Source, root: Root) -> Reassessed:
    """Returns the validation images with the labels of `real.json`, without those that it has no label for.

    Args:
      validation: ImageNet's, by whatever layout.
      root: the folder that holds real.json.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or has no entry for an image.
    """
    file = require_folder(root, REAL_FILE) / REAL_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: download it from {PAGES[REAL]}")
    lists = read_json(file)
    if not isinstance(lists, list) or not all(
        isinstance(own, list) and all(isinstance(k, int) and 0 <= k < len(SYNSETS) for k in own)
        for own in lists
    ):
        raise ValueError(f"{file} is damaged: expected a list of labels, 0 to 999, for each image")
    rows, chosen = [], []
    for row, path in enumerate(validation.paths):  # type: ignore[attr-defined]
        match = VAL_IMAGE.fullmatch(os.path.basename(path))
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(lists):
            raise ValueError(
                f"{validation.describe(row)}: expected ILSVRC2012_val_<number> with a number up to "
                f"{len(lists)}, the entries of {file}"
            )
        if lists[number - 1]:
            rows.append(row)
            chosen.append(lists[number - 1])
    if not rows:
        raise ValueError(f"{file} has no label for any of the {len(validation)} images")
    labels = np.zeros((len(rows), len(SYNSETS)), np.int32)
    for row, own in enumerate(chosen):
        labels[row, own] = 1
    source = Reassessed(validation, rows, labels)
    without = len(validation) - len(rows)
    source.rule = f"ImageNet's validation images, labelled by {file}"
    source.left_out = {"without a reassessed label": without} if without else {}
    return source
