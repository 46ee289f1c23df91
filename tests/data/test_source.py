"""imgcls_jax.data.source: the contract of a source, and images in memory."""

import importlib
import inspect
import pkgutil
import sys

import numpy as np
import pytest

from imgcls_jax.config.resolve import resolve_data
from imgcls_jax.config.settings import DataSettings
from imgcls_jax.data import sources
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.data.source import Arrays, class_counts, require_source

# ---- Arrays


def make_arrays() -> Arrays:
    images = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2, 1)
    return Arrays(images, np.array([1, 0, 1]), ["a", "b"], "toy")


def test_arrays_contract():
    source = make_arrays()
    require_source(source, "here")
    assert len(source) == 3 and source.class_names == ("a", "b")
    assert source.image_shape == (2, 2, 1) and source.describe(2) == "toy[2]"


def test_arrays_hand_out_fresh_arrays():
    source = make_arrays()
    batch = source.gather(np.array([2, 0, 2]))
    assert batch["image"][:, 0, 0, 0].tolist() == [8, 0, 8] and batch["label"].tolist() == [1, 1, 1]
    assert batch["image"].dtype == np.uint8 and batch["label"].dtype == np.int32
    batch["image"][:], batch["label"][:], source[1]["image"][:] = 99, 99, 99
    assert source.images.max() == 11 and source.labels.tolist() == [1, 0, 1]
    assert source.gather([0, 1, 2])["image"].base is None


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 3, 1), np.float32), [0, 1], r"images must be uint8 \[N, H, W, C\]; got float32"),
        (np.zeros((2, 3, 3), np.uint8), [0, 1], r"uint8 \[N, H, W, C\]; got uint8 \[2, 3, 3\]"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0], r"integers \[2\], one an image; got int64 \[1\]"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0.0, 1.0], "labels must be integers .* got float64"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0, 2], r"toy: labels must lie in 0\.\.1; example 1 has 2"),
        (np.zeros((2, 3, 3, 1), np.uint8), [-1, 1], r"example 0 has -1"),
    ],
)
def test_arrays_refuse(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Arrays(images, np.array(labels), ["a", "b"], "toy")


def test_class_counts_of_single_labels():
    source = Arrays(np.zeros((3, 2, 2, 1), np.uint8), np.array([2, 0, 2]), "abcd", "x")
    assert class_counts(source) == (1, 0, 2, 0)


# ---- the contract

SOUND = """
import numpy as np

class Toy:
    class_names = ("cat", "dog")
    labels = np.array([0, 1, 1], np.int32)

    def __init__(self, split, *, side=2):
        self.side = side

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"image": np.zeros((self.side, self.side, 3), np.uint8), "label": self.labels[index]}

    def describe(self, index):
        return f"toy {index}"

make = Toy
"""


@pytest.fixture
def open_source(tmp_path, monkeypatch):
    """Opens the split "train" of a source whose file was just added to data/sources/."""
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])

    def open_source(text: str, **fields):
        (tmp_path / "toy.py").write_text(text)
        section = {"source": "toy", "train_transforms": "", "eval_transforms": ""} | fields
        return DataSide(resolve_data(section)).source("train")

    yield open_source
    sys.modules.pop("imgcls_jax.data.sources.toy", None)
    vars(sources).pop("toy", None)


def test_a_file_added_to_the_room_is_a_source(open_source):
    assert open_source(SOUND, side=5)[2]["image"].shape == (5, 5, 3)


def test_its_fields_are_checked_like_those_of_any_other(open_source):
    with pytest.raises(ValueError, match="config.data.sides: no such field; did you mean 'side'"):
        open_source(SOUND, sides=5)
    with pytest.raises(ValueError, match="sources/ has no file toys.py; did you mean 'toy'"):
        open_source(SOUND, source="toys")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('class_names = ("cat", "dog")', "", "class_names, a tuple of K strings; its Toy has no class_names"),
        ('("cat", "dog")', '"catdog"', "class_names, a tuple of K strings; its Toy has 'catdog'"),
        ('("cat", "dog")', "(0, 1)", r"class_names, .* its Toy has \(0, 1\)"),
        ('("cat", "dog")', "2", "class_names, .* its Toy has 2 "),
        ('("cat", "dog")', "()", r"class_names, .* its Toy has \(\)"),
        ("labels = np.array([0, 1, 1], np.int32)", "", "labels, integers .* or None; its Toy has no labels"),
        ("[0, 1, 1], np.int32", "[0, 1, 2]", "labels from 0 to 2 with K = 2"),
        ("[0, 1, 1], np.int32", "[0, -1, 1]", "labels from -1 to 1 with K = 2"),
        ("[0, 1, 1], np.int32", "[0, 1]", r"has labels \[2\] with N = 3 and K = 2"),
        ("[0, 1, 1], np.int32", "[[0, 1, 1]] * 3", r"has labels \[3, 3\] with N = 3 and K = 2"),
        ("[0, 1, 1], np.int32", "[[0, 2]] * 3", "has labels from 0 to 2"),
        ("[0, 1, 1], np.int32", "[0.0, 1, 1]", r"has float64 \[3\]"),
        ("np.array([0, 1, 1], np.int32)", "[0, 1, 1]", r"labels, integers .* has \[0, 1, 1\]"),
        ("__len__", "length", r"a length, len\(source\); its Toy has no __len__"),
        ("__getitem__", "get", r"elements source\[i\] = .* its Toy has no __getitem__"),
        ("def describe", "def where", "describe.* its Toy has no describe"),
        ('"image": np', '"picture": np', r"gives {picture: uint8 \[2, 2, 3\], label: int32 \[\]} for"),
        ("np.uint8", "np.float32", r"gives {image: float32 \[2, 2, 3\], label: int32 \[\]} for \[0\]"),
        ('"label": self.labels[index]', '"label": "cat"', "gives {.*label: 'cat'} for"),
        ("return {", "return (0, {", None),
        ("make = Toy", "", "must export a function make.*; it has nothing"),
        (
            "make = Toy",
            "make = Toy.class_names",
            "must export a function make.*; it has make = .'cat', 'dog'.",
        ),
        ("make = Toy", "def make(part): return Toy(part)", "make takes the split as its first argument"),
        (
            "make = Toy",
            "def make(split): return None",
            "its NoneType has no __len__",
        ),
    ],
)
def test_a_broken_source_is_refused_in_one_line(open_source, old, new, message):
    assert old in SOUND
    text = SOUND.replace(old, new, 1)
    if message is None:  # an element that is no dictionary
        text = SOUND.replace("return {", "return ({", 1).replace("[index]}", "[index]},)", 1)
        message = r"for \[0\]"
    with pytest.raises(ValueError, match=message) as caught:
        open_source(text)
    assert "imgcls_jax/data/sources/toy.py" in str(caught.value) and "\n" not in str(caught.value)


def test_a_first_image_that_cannot_be_read_is_left_to_the_pipeline(open_source):
    broken = 'raise OSError("gone")'
    source = open_source(SOUND.replace('return {"image"', f'{broken}; return {{"image"'))
    with pytest.raises(OSError, match="gone"):
        source[0]


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(sources.__path__)])
def test_every_file_of_the_room_exports_one_make(name):
    make = importlib.import_module(f"imgcls_jax.data.sources.{name}").make
    first, *others = inspect.signature(make).parameters.values()
    assert first.name == "split" and all(other.kind is other.KEYWORD_ONLY for other in others)
    for parameter in (first, *others):
        assert parameter.annotation is not parameter.empty
        assert f"{parameter.name}" in inspect.getdoc(make)
    own = {field.name for field in DataSettings.__dataclass_fields__.values()}
    assert not own & {other.name for other in others}, "these fields never reach the source"
