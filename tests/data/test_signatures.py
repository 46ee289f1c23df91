"""Signatures of classes: both forms of files, how rows find their classes, and every mistake by name."""

import time

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.config.resolve import resolve_data
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.data.signatures import read_signatures
from imgcls_jax.planning.stand_in import PlannedData

NAMES = ("001.Crow", "002.Gull", "003.Wren")
LINE = "normalize(0.5, 0.5)"
DIGITS = dict(source="digits", train_transforms=LINE, eval_transforms=LINE)


def write(folder, name, text):
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.fixture
def matrix(tmp_path):
    write(tmp_path, "classes.txt", "2 002.Gull\n1 001.Crow\n4 004.Swan\n3 003.Wren\n")
    return write(tmp_path, "attributes/continuous.txt", "0.0 100.0\n50 25\n1e1 2\n7 8\n")


def test_rows_find_their_classes_by_name(matrix, tmp_path):
    table = write(tmp_path, "rows.csv", "class,wing,beak\n003.Wren,10,2\n001.Crow,0,100\n002.Gull,50,25\n")
    for path in (matrix, table):  # the names of a matrix are in the folder above it
        np.testing.assert_array_equal(read_signatures(path, NAMES), [[0, 100], [50, 25], [10, 2]])
        np.testing.assert_array_equal(read_signatures(path, NAMES[::-1]), [[10, 2], [50, 25], [0, 100]])


def test_numbers_before_names_do_not_count_where_they_differ(matrix):
    # A part of the classes, numbered anew: 002 is another bird here than there.
    found = read_signatures(matrix, ("001.Gull", "002.Wren", "Swan"))
    np.testing.assert_array_equal(found, [[50, 25], [10, 2], [7, 8]])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("class,a,b\n001.Crow,1,2\n003.Wren,1,2\n", "1 of 3 classes have no signature.*'002.Gull'"),
        ("class,a\n001.Crow,1\n001.Crow,2\n", "two classes are named '001.Crow'"),
        ("class,a,b\n001.Crow,1,2\n002.Gull,1\n", "line 3: expected 2 numbers, as in the first row; got 1"),
        ("class,a,b\n001.Crow,1,nan\n", "line 2, number 2: a signature is of finite numbers; got 'nan'"),
        ("class,a,b\n001.Crow,1e39,2\n", "line 2, number 1: a signature is of finite numbers; got '1e39'"),
        ("class,a,b\n001.Crow,much,2\n", "line 2, number 1: .* got 'much'"),
        ("class,a,b\n001.Crow\n", "line 2: expected numbers; got 0"),
        ("class,a,b\n", "holds no row of numbers"),
        ("class,a\n1.Crow,1\n2.Crow,2\n002.Gull,1\n003.Wren,1\n", "'001.Crow' may be '1.Crow' and '2.Crow'"),
    ],
)
def test_mistakes_in_a_table(tmp_path, text, says):
    with pytest.raises(ValueError, match=f"rows.csv.*{says}"):
        read_signatures(write(tmp_path, "rows.csv", text), NAMES)


def test_mistakes_around_a_matrix(matrix, tmp_path):
    with pytest.raises(ValueError, match="the classes '001.Crow' and '9.Crow' have one row, '001.Crow'"):
        read_signatures(matrix, (*NAMES, "9.Crow"))
    with pytest.raises(ValueError, match="'Guull': did you mean '002.Gull'"):
        read_signatures(matrix, ("001.Crow", "Guull"))
    write(tmp_path, "classes.txt", "1 001.Crow\n")
    with pytest.raises(ValueError, match="has 4 rows, and .*classes.txt has 1 classes"):
        read_signatures(matrix, NAMES)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no classes.txt beside it or in the folder above"):
        read_signatures(matrix, NAMES)
    with pytest.raises(FileNotFoundError, match="is missing; restore it, or correct config.data"):
        read_signatures(str(tmp_path / "none.txt"), NAMES)


def test_the_classes_of_a_run_are_all_that_have_a_signature(tmp_path):
    rows = "".join(f"{digit},{digit},1\n" for digit in range(10))
    own = dict(known_classes=8, signatures=write(tmp_path, "rows.csv", f"class,a,b\n{rows}"))
    data = DataSide(resolve_data(DIGITS | own))
    assert len(data.training.class_names) == 10 and data.class_counts[8:] == (0, 0)
    np.testing.assert_array_equal(data.signatures[:, 0], range(10))
    assert set(data.source("unknown:test").labels) == {8, 9}
    assert DataSide(resolve_data(DIGITS)).signatures is None


def test_a_plan_without_the_data(tmp_path):
    path = write(tmp_path, "rows.csv", "class,a,b\n" + "".join(f"bird {i},{i},1\n" for i in range(4)))
    settings = resolve_data(DIGITS | {"known_classes": 8, "signatures": path})
    data = PlannedData(settings, (40, 10))
    assert data.class_counts == (5,) * 8 + (0, 0)
    assert data.signatures.shape == (10, 2)


@pytest.mark.parametrize("signed", [False, True])
def test_known_classes_by_name_come_first(tmp_path, signed):
    rows = "".join(f"{digit},{digit},1\n" for digit in range(10))
    own = {"known_classes": write(tmp_path, "known.txt", "7\n1\n4\n")}
    own |= {"signatures": write(tmp_path, "rows.csv", f"class,a,b\n{rows}")} if signed else {}
    whole, data = DataSide(resolve_data(DIGITS)), DataSide(resolve_data(DIGITS | own))
    order = [1, 4, 7, 0, 2, 3, 5, 6, 8, 9]  # both parts in the order of the source
    names = tuple(str(label) for label in order)
    assert data.training.class_names == (names if signed else names[:3])
    if signed:
        np.testing.assert_array_equal(data.signatures[:, 0], order)
    for split in ("train", "test"):
        everything = whole.source(split)
        for name, is_known in ((split, True), (f"unknown:{split}", False)):
            source = data.source(name)
            taken = np.flatnonzero(np.isin(everything.labels, order[:3]) == is_known)
            np.testing.assert_array_equal(np.array(order)[source.labels], everything.labels[taken])
            batch = source.gather(np.arange(5))
            np.testing.assert_array_equal(batch["image"], everything.gather(taken[:5])["image"])
            np.testing.assert_array_equal(batch["label"], source.labels[:5])
            assert source[3]["label"] == source.labels[3]


def test_mistakes_in_the_file_of_known_classes(tmp_path):
    def opened(text):
        path = write(tmp_path, "known.txt", text)
        return DataSide(resolve_data(DIGITS | {"known_classes": path})).training

    with pytest.raises(
        ValueError, match="known.txt, line 2: not the name of a class; the data have 10: 0, 1, 2, "
    ):
        opened("1\none\n")
    with pytest.raises(
        ValueError, match="config.data.known_classes: .*known.txt, line 2: a class that is named before"
    ):
        opened("1\n1\n")
    for known in (str(tmp_path / "none.txt"), 10**30, -1):
        with pytest.raises(ValueError, match="config.data.known_classes: "):
            DataSide(resolve_data(DIGITS | {"known_classes": known})).source("train")
    with pytest.raises(ValueError, match="config.data.signatures: .*none.csv is missing"):
        assert DataSide(resolve_data(DIGITS | {"signatures": str(tmp_path / "none.csv")})).signatures
    with pytest.raises(ValueError, match="lies between 1 and 9; got 10"):
        opened("\n".join(map(str, range(10))))


def test_images_of_unknown_classes_are_not_trained_on(tmp_path):
    for name in ("train/a/1.png", "train/b/2.png", "train/c/3.png", "test/a/1.png", "test/c/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name)
    section = dict(source="image_folder", root=str(tmp_path), known_classes=2)
    data = DataSide(resolve_data(section | dict(train_transforms=LINE, eval_transforms=LINE)))
    assert len(data.training) == 2 and len(data.source("unknown:train")) == 1
    assert data.shared_with_training("unknown:train") == data.shared_with_training("test") == 0


def test_many_classes_take_no_time(tmp_path):
    """Forty thousand, of which two have one row: pairs alone would take minutes."""
    names = [f"class {number}" for number in range(40_000)]
    file = write(tmp_path, "many.csv", "class,a\n" + "".join(f"{name},1\n" for name in names))
    start = time.monotonic()
    assert read_signatures(file, names).shape == (40_000, 1)
    with pytest.raises(ValueError, match="the classes 'class 39999' and '7.class 39999' have one row"):
        read_signatures(file, [*names, "7.class 39999"])
    write(tmp_path, "many.csv", "class,a\n" + "".join(f"{name},1\n" for name in [*names, names[-1]]))
    with pytest.raises(ValueError, match="two classes are named 'class 39999'"):
        read_signatures(file, names)
    assert time.monotonic() - start < 10
