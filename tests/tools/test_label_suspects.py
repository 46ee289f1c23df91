"""From a cross-validation to the images whose label is likely wrong, and files of probabilities that lie."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.config.files import read_config
from imgcls_jax.inference import out_of_fold
from imgcls_jax.inference.out_of_fold import OutOfFold
from imgcls_jax.tools import dataset
from imgcls_jax.train.run import run

LINE = "decode | gray | normalize(0.5, 0.5)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve dark and twelve bright images; one of each lies in the folder of the other."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(24):
        dark = number < 12
        wrong = number in (0, 12)
        pixels = rng.integers(0, 90, (16, 16)) + (0 if dark else 160)
        path = root / "train" / ("dark" if dark != wrong else "bright") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def folds(folder, tmp_path_factory):
    trial = tmp_path_factory.mktemp("trial_0000")
    fields = {
        "data.source": "image_folder",
        "data.root": folder,
        "data.train_transforms": LINE,
        "data.eval_transforms": LINE,
        "data.folds": 2,
        "evals.test": "None",
        "optimizer.learning_rate": 0.02,
        "train.total_epochs": 40.0,
        "train.batch_size": 8,
        "model.hidden": "()",
    }
    for fold in range(2):
        words = [f"--config.{name}={value}" for name, value in (fields | {"data.fold": fold}).items()]
        run(read_config(["--config=configs/digits_simpleconv3.py", *words]), trial / f"fold_{fold}")
    (trial / "fold_0.log").touch()
    return trial


def test_the_whole_way(folder, folds, tmp_path, capsys):
    file = tmp_path / "p.npz"
    assert dataset.main(["probabilities", str(folds), "--output", str(file)]) == 0
    assert f"{file}: 24 images, out-of-fold accuracy 0.9" in capsys.readouterr().out
    assert out_of_fold.read(file).class_names == ["bright", "dark"]
    words = ["check", str(folder), "--small", "8", "--probabilities", str(file)]
    assert dataset.main([*words, "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert {row["path"] for row in report["suspects"]} == {"train/bright/00.png", "train/dark/12.png"}
    joint = np.array(report["joint"])
    assert joint[0, 1] == joint[1, 0] == 1 and report["absent"] == 0
    with open(tmp_path / "p.suspects.csv") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["path"] for row in rows] == [row["path"] for row in report["suspects"]]
    assert rows[0]["label"] != rows[0]["likely"] and float(rows[0]["p_label"]) < 0.5
    assert dataset.main(words) == 1
    shown = capsys.readouterr().out
    assert "suspect: train/bright/00.png: bright 0." in shown and "2 suspects" in shown
    # An image that was moved to its class is no suspect any more.
    (folder / "train/bright/00.png").rename(folder / "train/dark/00.png")
    try:
        assert dataset.main(words) == 1
    finally:
        (folder / "train/dark/00.png").rename(folder / "train/bright/00.png")
    assert "not here any more under their label: 1 images" in capsys.readouterr().out


def test_what_is_no_cross_validation(folder, folds, tmp_path, capsys):
    out = ["--output", str(tmp_path / "p.npz")]
    assert dataset.main(["probabilities", str(folds / "fold_0"), str(folds / "fold_0"), *out]) == 2
    assert "is held out twice" in capsys.readouterr().err
    fields = {"data.source": "digits", "train.total_epochs": "None", "train.total_steps": 0}
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    run(read_config(["--config=configs/digits_simpleconv3.py", *words]), tmp_path / "run")
    assert dataset.main(["probabilities", str(tmp_path / "run"), *out]) == 2
    assert "config.data.folds = 0" in capsys.readouterr().err
    assert dataset.main(["probabilities", str(folds), "--output", "p.csv"]) == 2
    assert "--output ends with .npz" in capsys.readouterr().err


def arrays(**changes):
    whole = {
        "names": np.array(["a", "b"]),
        "labels": np.array([0, 1]),
        "class_names": np.array(["x", "y"]),
        "probabilities": np.array([[0.5, 0.5], [0.1, 0.9]], np.float32),
    }
    return {name: array for name, array in (whole | changes).items() if array is not None}


LIES = {
    "no labels": ({"labels": None}, "no array 'labels'"),
    "pickles": ({"names": np.array([{}, {}], object)}, "is no file of"),
    "bytes": ({"names": np.array([b"a", b"b"])}, r"names is \|S1"),
    "twice": ({"names": np.array(["a", "a"])}, "holds 'a' twice"),
    "another class": ({"labels": np.array([0, 2])}, "labels lie in 0..1; got 0 to 2"),
    "float labels": ({"labels": np.zeros(2)}, "labels is float64"),
    "more labels": ({"labels": np.array([0, 1, 1])}, "labels is int64"),
    "a scalar": ({"class_names": np.array("x")}, "class_names is"),
    "nothing": ({"names": np.array([], str), "labels": np.array([], int)}, "names is"),
    "NaN": ({"probabilities": np.full((2, 2), np.nan)}, "row 0 of probabilities sums to nan"),
    "logits": ({"probabilities": np.array([[0.5, 0.5], [-1.0, 2.0]])}, "row 1 of probabilities"),
    "counts": ({"probabilities": np.array([[1, 0], [0, 1]])}, "probabilities is int64"),
}


@pytest.mark.parametrize(("changes", "says"), LIES.values(), ids=LIES)
def test_files_that_lie(tmp_path, changes, says):
    np.savez(tmp_path / "p.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=f"p.npz.*{says}"):
        out_of_fold.read(tmp_path / "p.npz")


def test_files_that_are_none(folder, tmp_path, capsys):
    words = ["check", str(folder), "--probabilities", str(tmp_path / "p.npz")]
    for content in (None, b"nothing"):
        if content is not None:
            (tmp_path / "p.npz").write_bytes(content)
        assert dataset.main(words) == 2
        assert "p.npz is" in capsys.readouterr().err
    np.savez(tmp_path / "p.npz", **arrays())
    assert dataset.main(words) == 2
    assert (
        "has no image of this folder under its label; its first is a, labeled 'x'" in capsys.readouterr().err
    )
    out_of_fold.write(tmp_path / "q.npz", OutOfFold(["ä"], np.array([0]), ["x"], np.ones((1, 1))))
    assert out_of_fold.read(tmp_path / "q.npz").names == ["ä"]
