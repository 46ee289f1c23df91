"""FGVC-Aircraft (Maji et al. 2013, arXiv:1306.5151): 10,000 photographs of 100 models of aircraft."""

from __future__ import annotations

from imgcls_jax.data.folders import Download, Origin, locate
from imgcls_jax.data.lists import inside_root, read_names, read_table
from imgcls_jax.data.source import Files, Root, require_choice

HOST = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft"
ORIGIN = Origin(
    "FGVC-Aircraft, 10,000 photographs of 100 models",
    f"{HOST}/",
    "fgvc-aircraft-2013b.tar.gz (2.75 GB) and unpack it there",
    "fgvc_aircraft",
    # The page links to an MD5 sum, which was not at hand to be recorded, nor was the size in bytes.
    (Download(f"{HOST}/archives/fgvc-aircraft-2013b.tar.gz", 0),),
)
NAMES = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}


class FgvcAircraft(Files):
    """FGVC-Aircraft in its official layout: data/images/*.jpg and the lists data/images_<label>_<split>.txt.

    The lowest 20 rows of each image are a banner with the photographer's name, which the authors say to
    remove; it is left in here.

    Args:
        split: "train" (3,334 images), "val" (3,333), "trainval" or "test" (3,333).
        root: the folder data/, the one that holds it, or the one that holds fgvc-aircraft-2013b/.
        label: "variant" (100 classes), "family" (70) or "manufacturer" (30).

    Raises:
        FileNotFoundError: a list, or the first image, is missing.
        ValueError: a malformed line or an unknown class; the message names the file.
    """

    def __init__(self, split: str, *, root: Root, label: str = "variant") -> None:
        require_choice("the split of FgvcAircraft", split, ("train", "val", "trainval", "test"))
        require_choice("config.data.label", label, tuple(NAMES))
        marker = f"images_{label}_{split}.txt"
        folder = locate(root, ("data", "fgvc-aircraft-2013b/data"), marker, ORIGIN.remedy)
        names = read_names(folder / NAMES[label])
        label_of = {name: number for number, name in enumerate(names)}
        paths, labels = [], []
        for image, (name,) in read_table(folder / marker, (str, str)).items():
            if name not in label_of:
                raise ValueError(
                    f"{folder / marker}: the image {image} is a {name!r}, which {NAMES[label]} lacks"
                )
            paths.append(inside_root(f"{image}.jpg", f"{folder / marker}, image {image}"))
            labels.append(label_of[name])
        if not paths:
            raise ValueError(f"{folder / marker} is empty; unpack it again")
        self.rule = f"the official {split} split, {folder / marker}"
        super().__init__(folder / "images", paths, labels, names)


make = FgvcAircraft
