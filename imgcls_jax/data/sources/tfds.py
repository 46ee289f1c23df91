"""Data sets of tensorflow_datasets."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.data.folders import expanded
from imgcls_jax.data.source import Root

# tensorflow_datasets imports the class that a feature names, and a namespace is code from elsewhere.
NAME = re.compile(r"[A-Za-z]\w*(/\w[\w.+-]*)?(:[\d*][\w.*]*)?")
FEATURE_CLASS = re.compile(r"tensorflow_datasets\.core\.features(\.[A-Za-z]\w*)+")
CLASS_FIELDS = ("type", "pythonClassName", "python_class_name")
DESCRIPTIONS = ("features.json", "dataset_info.json")  # of a prepared data set
MAX_DESCRIPTION_BYTES = 2**24


class Tfds:
    """A data set of tensorflow_datasets, read without TensorFlow from files prepared as array_record.

    Elements are image and label alone. RGB images of varying size come as the bytes of the encoded file,
    others as the uint8 array [H, W, C] that tfds decodes. `labels` is None: tfds keeps them in the records.
    The reader opens its files at the first read in each process, and drops them when it is pickled.

    Args:
        split: a split of the data set, or a part of one such as "train[:10%]".
        name: the name in tensorflow_datasets, with "/config" or ":version" where needed.
        root: the folder of prepared data sets (tfds's data_dir); None for its usual place.
        image_key, label_key: the data set's names of the image and of the class label.

    Raises:
        ImportError: a package is missing.
        FileNotFoundError: the data set is not prepared, or in a format without random access.
        ValueError: an unknown name, split or key; when read, an example without a label.
    """

    labels = None

    def __init__(
        self, split: str, *, name: str, root: Root | None = None,
        image_key: str = "image", label_key: str = "label",
    ) -> None:  # fmt: skip
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise ImportError("Tfds needs tensorflow_datasets: pip install 'imgcls-jax[tfds]'") from error
        root = None if root is None else str(expanded(root))
        if not NAME.fullmatch(name):
            raise ValueError(f"config.data.name is 'set', 'set/config' or 'set:version'; got {name!r}")
        folder = expanded(root or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
        stem = re.split("[/:]", name)[0]
        for spelled in {stem, tfds.core.naming.camelcase_to_snakecase(stem)}:
            check_features(folder / spelled)
        try:
            builder = tfds.builder(name, data_dir=root)
        except tfds.core.DatasetNotFoundError:
            version = tfds.__version__
            raise ValueError(f"tensorflow_datasets {version} has no {name!r}; correct the name") from None
        features = dict(builder.info.features.items())
        for key, kind in ((image_key, tfds.features.Image), (label_key, tfds.features.ClassLabel)):
            if not isinstance(features.get(key), kind):
                known = ", ".join(f"{other} ({type(features[other]).__name__})" for other in features)
                remedy = "set image_key and label_key"
                raise ValueError(f"{name} has no {kind.__name__} {key!r}, only {known}; {remedy}")
        self.class_names = tuple(features[label_key].names)
        self._name, self._split, self._image_key, self._label_key = name, split, image_key, label_key
        is_photo = features[image_key].shape == (None, None, 3)
        self._records = self._open(builder, {image_key: tfds.decode.SkipDecoding()} if is_photo else None)

    def _open(self, builder: Any, decoders: dict[str, Any] | None) -> Sequence[dict[str, Any]]:
        try:
            return builder.as_data_source(split=self._split, decoders=decoders)
        except ValueError as error:
            raise ValueError(f"{self._name}, split {self._split!r}: {error}") from error
        except ImportError as error:
            raise ImportError(f"{error}; to read {self._name}: pip install 'imgcls-jax[tfds]'") from error
        except (NotImplementedError, KeyError) as error:
            place = f"data_dir={str(builder.data_dir_root)!r}, file_format='array_record'"
            raise FileNotFoundError(
                f"{self._name} is not prepared as array_record in {builder.data_dir}; remove what is there "
                f'and run once, with TensorFlow installed: python -c "import tensorflow_datasets as tfds; '
                f'tfds.builder({self._name!r}, {place}).download_and_prepare()"'
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._records[range(len(self))[index]]  # range knows negative indices and raises IndexError
        label = np.int32(record[self._label_key])
        if not 0 <= label < len(self.class_names):
            raise ValueError(f"{self.describe(index)} has no label ({label}); choose a labeled split")
        return {"image": record[self._image_key], "label": label}

    def describe(self, index: int) -> str:
        return f"{self._name}/{self._split}[{index}]"


def check_features(folder: Path) -> None:
    """Checks what the prepared files of a data set name, before tensorflow_datasets imports it.

    Args:
      folder: of the data set, with all its configs and versions; perhaps absent.

    Raises:
      ValueError: one that is damaged, or names a class that is no feature of tensorflow_datasets.
    """
    for path in sorted(path for name in DESCRIPTIONS for path in folder.rglob(name)):
        try:
            if path.stat().st_size > MAX_DESCRIPTION_BYTES:
                raise ValueError(f"it has more than {MAX_DESCRIPTION_BYTES} bytes")
            content = json.loads(path.read_text(encoding="utf-8"))
            classes = [*_classes(content.get("features") if path.name == DESCRIPTIONS[1] else content)]
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} describes no features: {error}") from error
        for name in classes:
            if not FEATURE_CLASS.fullmatch(name):
                raise ValueError(
                    f"{path} names the class {name!r}, which is none of tensorflow_datasets.core.features; "
                    "nothing of it was run. Prepare the data set anew"
                )


def _classes(content: Any) -> Iterator[str]:
    """Yields the names of classes at any depth of a description, texts that are JSON themselves included."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if key in CLASS_FIELDS and isinstance(value, str):
            yield value
        yield from _classes(json.loads(value) if key == "json" and isinstance(value, str) else value)
    for value in content if isinstance(content, list) else ():
        yield from _classes(value)


make = Tfds
