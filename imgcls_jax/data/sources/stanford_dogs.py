"""Stanford Dogs (Khosla et al. 2011): 20,580 photographs of 120 breeds, from ImageNet."""

from __future__ import annotations

from pathlib import Path

from imgcls_jax.data.annotations import read_mat
from imgcls_jax.data.folders import Download, Origin, locate
from imgcls_jax.data.lists import inside_root
from imgcls_jax.data.source import Files, Root, require_choice

HOST = "http://vision.stanford.edu/aditya86/ImageNetDogs"
ORIGIN = Origin(
    "Stanford Dogs, 20,580 photographs of 120 breeds",
    f"{HOST}/",
    "images.tar (0.8 GB) and lists.tar and unpack them there",
    "stanford_dogs",
    # Sizes and SHA-256: the checksums of tensorflow_datasets 4.9.
    (
        Download(
            f"{HOST}/lists.tar",
            481_280,
            "sha256:34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
        ),
        Download(
            f"{HOST}/images.tar",
            793_579_520,
            "sha256:a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
        ),
    ),
)
LISTS = {"train": "train_list.mat", "test": "test_list.mat"}


class StanfordDogs(Files):
    """Stanford Dogs in its official layout: Images/<class>/*.jpg, and the official split of the .mat lists.

    Class names are those of the folders ("n02085620-Chihuahua"); labels count from 0, by the lists' number.
    The images are of ImageNet's training split: a network trained on that has seen the test images.

    Args:
        split: "train" (12,000 images, 100 a class) or "test" (8,580).
        root: the folder of Images/ and the lists, which may lie in lists/.

    Raises:
        ImportError: scipy is missing.
        FileNotFoundError: a list, or the first image, is missing.
        ValueError: a list that is damaged, or a label that means two folders.
    """

    def __init__(self, split: str, *, root: Root) -> None:
        require_choice("the split of StanfordDogs", split, tuple(LISTS))
        folder = locate(root, "lists", LISTS["train"], ORIGIN.remedy)
        top = folder.parent if folder.name == "lists" else folder
        lists = {own: _read(folder / file) for own, file in LISTS.items()}
        name_of: dict[int, str] = {}
        for own, (paths, labels) in lists.items():
            for path, label in zip(paths, labels, strict=True):
                name = path.partition("/")[0]
                if name_of.setdefault(label, name) != name:
                    both = f"{name_of[label]} and {name}"
                    raise ValueError(f"{folder / LISTS[own]}: the label {label} means the folders {both}")
        label_of = {number: label for label, number in enumerate(sorted(name_of))}
        paths, labels = lists[split]
        self.rule = f"the official {split} split, {folder / LISTS[split]}"
        names = [name_of[number] for number in label_of]
        super().__init__(top / "Images", paths, [label_of[number] for number in labels], names)


def _read(path: Path) -> tuple[list[str], list[int]]:
    """Returns the paths of a list, <class>/<file>, and their labels, from 1."""
    files = read_mat(path, "file_list", ORIGIN.remedy).tolist()
    labels = read_mat(path, "labels", ORIGIN.remedy).tolist()
    if len(files) != len(labels) or not all(isinstance(file, str) and "/" in file for file in files):
        raise ValueError(
            f"{path}: expected a file_list of <class>/<file> and as many labels; unpack it again"
        )
    return [inside_root(file, str(path)) for file in files], [int(label) for label in labels]


make = StanfordDogs
