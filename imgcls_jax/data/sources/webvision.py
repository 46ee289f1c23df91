"""WebVision 1.0 (Li et al. 2017, arXiv:1708.02862): 2.4 million images found by search, with wrong labels."""

from __future__ import annotations

import os

import numpy as np

from imgcls_jax.data.folders import Download, Origin, locate
from imgcls_jax.data.lists import read_list, read_names
from imgcls_jax.data.source import Files, Root, check_labels, require_choice

HOST = "https://data.vision.ee.ethz.ch/cvl/webvision"
ORIGIN = Origin(
    "WebVision 1.0, 2.4 million images of ImageNet's 1,000 classes",
    f"{HOST}/download.html",
    "info.tar, google_resized_256.tar (17 GB), flickr_resized_256.tar (28 GB) and val_images_256.tar and "
    "unpack them there",
    "webvision",
    # Sizes in bytes and checksums were not found in a text of the publisher.
    (
        Download(f"{HOST}/info.tar", 0),
        Download(f"{HOST}/val_images_256.tar", 0, part="val"),
        Download(f"{HOST}/google_resized_256.tar", 0, part="google"),
        Download(f"{HOST}/flickr_resized_256.tar", 0, part="flickr"),
    ),
)
SITES = ("google", "flickr")


class WebVision(Files):
    """WebVision 1.0 in its official layout: info/, google/q0001/*, flickr/q0001/*, val_images_256/.

    A training image has the class for which it was found, which some 20 % are not; the folders are queries,
    several a class. The validation images were labelled by hand. Class names are the lines of
    info/synsets.txt.

    Args:
        split: "train" or "val".
        root: the folder of info/.
        site: of the training images: "google", "flickr", or "google+flickr".

    Raises:
        FileNotFoundError: a list, or the first image, is missing.
        ValueError: a malformed line; the message names the file and the line.
    """

    def __init__(self, split: str, *, root: Root, site: str = "google+flickr") -> None:
        require_choice("the split of WebVision", split, ("train", "val"))
        require_choice("config.data.site", site, (*SITES, "+".join(SITES)))
        top = locate(root, "webvision", "info/synsets.txt", ORIGIN.remedy)
        names = read_names(top / "info/synsets.txt")
        files = [f"train_filelist_{own}.txt" for own in site.split("+")]
        inside = ""
        if split == "val":
            files = ["val_filelist.txt"]
            inside = "val_images_256" if os.path.isdir(top / "val_images_256") else "val_images"
        paths, labels = [], []
        for file in files:
            own_paths, own_labels, _ = read_list(top / "info" / file)
            check_labels(own_labels, len(names), top / "info" / file)
            paths += own_paths
            labels.append(own_labels)
        self.rule = f"listed in {top / 'info'}: {', '.join(files)}"
        super().__init__(top / inside, paths, np.concatenate(labels), names)


make = WebVision
