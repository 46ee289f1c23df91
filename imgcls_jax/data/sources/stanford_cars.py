"""Stanford Cars (Krause et al. 2013): 16,185 photographs of 196 models of cars."""

from __future__ import annotations

import numpy as np

from imgcls_jax.data.annotations import read_mat
from imgcls_jax.data.folders import Origin, locate
from imgcls_jax.data.lists import inside_root
from imgcls_jax.data.source import Files, Root, check_labels, require_choice

ORIGIN = Origin(
    "Stanford Cars, 16,185 photographs of 196 models",
    "https://ai.stanford.edu/~jkrause/cars/car_dataset.html, whose archives are gone (there are copies on "
    "Kaggle)",
    "cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat and unpack them there",
    "stanford_cars",
)
ANNOTATIONS = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}


class StanfordCars(Files):
    """Stanford Cars in its official layout: cars_train/, cars_test/ and the lists of devkit/.

    Class names are those of cars_meta.mat ("AM General Hummer SUV 2000"); labels count from 0.

    Args:
        split: "train" (8,144 images) or "test" (8,041). The devkit's own list of the test images has no
            classes: cars_test_annos_withlabels.mat lies beside it, or in root.
        root: the folder of devkit/.

    Raises:
        ImportError: scipy is missing.
        FileNotFoundError: a list, or the first image, is missing.
        ValueError: a list that is damaged, or a class that cars_meta.mat lacks.
    """

    def __init__(self, split: str, *, root: Root) -> None:
        require_choice("the split of StanfordCars", split, tuple(ANNOTATIONS))
        places = ("stanford_cars", "cars")
        top = locate(root, places, "devkit/cars_meta.mat", ORIGIN.remedy)
        names = [str(name) for name in read_mat(top / "devkit/cars_meta.mat", "class_names").tolist()]
        file = locate(top, "devkit", ANNOTATIONS[split], ORIGIN.remedy) / ANNOTATIONS[split]
        rows = read_mat(file, "annotations", fields=("fname", "class"))
        labels = np.array([int(label) for label in rows["class"]]) - 1
        check_labels(labels, len(names), f"{file} (counted from 0)")
        paths = [inside_root(str(name), str(file)) for name in rows["fname"]]
        self.rule = f"the official {split} split, {file}"
        super().__init__(top / f"cars_{split}", paths, labels, names)


make = StanfordCars
