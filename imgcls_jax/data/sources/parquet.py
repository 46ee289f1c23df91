"""Folders of Parquet files, as data sets of the Hugging Face hub come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.data.hub_features import Feature, features_of_readme, features_of_schema
from imgcls_jax.data.lists import LABEL_COLUMNS
from imgcls_jax.data.parquet_files import ImageRows, naming_parquet, open_parquet
from imgcls_jax.data.shards import Shards, class_names_file, to_labels
from imgcls_jax.data.source import Root

SUFFIX = ".parquet"
IMAGES = ("image", "img", "jpg", "png", "picture", "photo")
LABELS = (*LABEL_COLUMNS, "labels", "classes", "targets")
MAX_WORD = 1000  # characters of the name of a class
HOW = (
    ", with a column of images and one of labels. Of a data set of the Hugging Face hub: `hf download NAME "
    "--repo-type dataset --local-dir FOLDER`; one that `save_to_disk` wrote becomes such by its to_parquet"
)


class Parquet:
    """A folder of Parquet files, read by row.

    root holds .parquet files at any depth, as data/train-00000-of-00003.parquet or train/0000.parquet; their
    split as data/shards.py says. Images are encoded files: a column of structures {bytes, path}, as
    Hugging Face's data sets have it, or of bytes. Labels are whole numbers, or words, or lists of numbers:
    any number of labels. Their names are those of the schema ("huggingface"), or of README.md in root or the
    folder above (`dataset_info`), or of `classes`; else words are the names, sorted, and numbers name
    themselves; of the training split where it is there.

    Examples come in the order of the files' names and of their rows. To read one, its row group is read: in
    the order of the files that is cheap, in a shuffled order it is not. `tools.dataset pack` makes shards of
    it in which it is. Each process keeps row groups of up to 256 MiB.

    Args:
        split: of the names of the files, or of the folders that they lie in; all of "train" without such.
        root: the folder; of a data set in several configurations that of one of them.
        image_column, label_column: names of the columns; "" for those that the features say, or their names.
        classes: optional file, relative to root or absolute, with one class name a line.

    Raises:
        ImportError: pyarrow is missing, or PyYAML, where README.md is read.
        FileNotFoundError: root or the split's files are missing.
        ValueError: a file that is damaged, has no such columns or too large row groups, or an example without
            a label; when read, one without an image. The message names file and row.
    """

    def __init__(
        self, split: str, *, root: Root, image_column: str = "", label_column: str = "",
        classes: str | None = None,
    ) -> None:  # fmt: skip
        shards = Shards(root, SUFFIX, HOW)
        self.root = shards.root
        own, training = shards.require(split), shards.of("train")
        paths = [self.root / name for name in own]
        with naming_parquet(paths[0]), open_parquet(paths[0]) as file:
            schema = file.schema_arrow
        told = features_of_schema(schema.metadata)
        if not any(feature.names for feature in told.values()) and classes is None:
            told = told | features_of_readme(self.root, own[0].rpartition("/")[0])
        label = _column(paths[0], schema, told, "label", label_column, LABELS)
        image = _column(paths[0], schema, told, "image", image_column, IMAGES)
        self._rows = ImageRows(paths, _leaf(paths[0], schema, image))
        values = _values(paths, label)
        if len(values) != len(self._rows):
            raise ValueError(
                f"{self.root}: the files of {split!r} have {len(self._rows)} images and {len(values)} labels"
            )
        if not values:
            raise ValueError(f"{self.root}: the files of {split!r} have no row")
        self.paths = [f"{own[number]}/{row}" for number, row in map(self._rows.place, range(len(values)))]
        others = [self.root / name for name in training if training != own]
        self.labels, self.class_names = to_labels(
            values,
            self.describe,
            names=class_names_file(self.root, classes) or told.get(label, Feature("")).names or None,
            training=(lambda: _values(others, label)) if others else None,
        )
        self.rule = f"from {len(own)} Parquet files of {self.root}"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        image = self._rows[index]
        if image is None:
            raise ValueError(f"{self.describe(index)} has no image, or names a file that is elsewhere")
        return {"image": image, "label": self.labels[index]}

    def describe(self, index: int) -> str:
        return str(self.root / self.paths[index])


def _column(
    path: Path, schema: Any, told: dict[str, Feature], kind: str, name: str, usual: Sequence[str]
) -> str:
    """Returns the name of the column of images, or of labels.

    Raises:
      ValueError: there is none, or several may be it.
    """
    found = [name] if name else [own for own in told if told[own].kind == kind and own in schema.names]
    if len(found) != 1 and not name:
        found = [own for own in usual if own in (found or schema.names)][:1]
    if len(found) != 1 or schema.names.count(found[0]) != 1:
        raise ValueError(
            f"{path}: which column is the {kind}? Set config.data.{kind}_column to one of {schema.names}"
        )
    return found[0]


def _leaf(path: Path, schema: Any, name: str) -> str:
    """Returns the path, in the schema, of the encoded images of a column."""
    import pyarrow.types as kinds

    kind = schema.field(name).type
    if kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, name = kind.field("bytes").type, f"{name}.bytes"
    if not (kinds.is_binary(kind) or kinds.is_large_binary(kind)):
        raise ValueError(
            f"{path}: the column {name!r} holds {kind}, no encoded images (bytes, or {{bytes, path}})"
        )
    return name


def _values(paths: Sequence[Path], column: str) -> list[Any]:
    """Returns the labels in some files: numbers, words or lists of numbers; None where there is none."""
    values: list[Any] = []
    for path in paths:
        with naming_parquet(path):
            with open_parquet(path) as file:
                metadata, words = file.metadata, _are_words(path, file.schema_arrow, column)
            # A dictionary holds each word once, however often it comes.
            with open_parquet(path, metadata, read_dictionary=[column] if words else []) as file:
                for batch in file.iter_batches(columns=[column], use_threads=False):
                    found = batch.column(0)
                    values += _words_of(path, found) if words else found.to_pylist()
    return values


def _are_words(path: Path, schema: Any, column: str) -> bool:
    """Returns whether the labels are words; else they are numbers, or lists of such."""
    import pyarrow.types as kinds

    if column not in schema.names:
        raise ValueError(f"{path} has no column {column!r}, unlike the first file")
    kind = schema.field(column).type
    if kinds.is_dictionary(kind):
        kind = kind.value_type
    if kinds.is_string(kind) or kinds.is_large_string(kind):
        return True
    is_list = kinds.is_list(kind) or kinds.is_large_list(kind)
    if not kinds.is_integer(kind.value_type if is_list else kind):
        raise ValueError(
            f"{path}: the column {column!r} holds {kind}, neither integers, nor words, nor lists of "
            "integers: cast it, as to int64"
        )
    return False


def _words_of(path: Path, found: Any) -> list[str | None]:
    words = found.dictionary.to_pylist()
    if any(len(word) > MAX_WORD for word in words):
        raise ValueError(f"{path}: the labels are texts, no names of classes: set config.data.label_column")
    return [None if at is None else words[at] for at in found.indices.to_pylist()]


make = Parquet
