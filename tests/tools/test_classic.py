"""The command without a network, on drawn images: what it writes, what others read of it, what it refuses."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from imgcls_jax import main as training
from imgcls_jax.classic import features, sift
from imgcls_jax.inference import predictions_file
from imgcls_jax.tools import classic, predict, report, results


def stripes(label, seed):
    """Returns a noisy image whose stripes lie (0) or stand (1)."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(32) * rng.uniform(0.7, 1.1) + rng.uniform(0, 6))
    pixels = 127 + 70 * np.repeat(wave[:, None], 32, axis=1) + rng.normal(0, 25, (32, 32))
    return Image.fromarray(np.clip(pixels.T if label else pixels, 0, 255).astype(np.uint8)).convert("RGB")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stripes")
    for number in range(40):
        label, split = number % 2, "train" if number < 24 else "val"
        place = folder / split / ("lying", "standing")[label]
        place.mkdir(parents=True, exist_ok=True)
        stripes(label, number).save(place / f"{number}.png")
    return folder


def words(root, workdir, *more, **flags):
    flags = {"features": "mean", "classifier": "linear_svm"} | flags
    own = [f"--{name}={value}" for name, value in flags.items()]
    line = "--config.data.eval_transforms=decode | normalize(0.5, 0.5)"
    config = ["--config=configs/mouth_simpleconv3.py", f"--config.data.root={root}", line]
    return [*config, f"--workdir={workdir}", *own, *more]


@pytest.fixture
def no_package(monkeypatch):
    """Puts a feature of NumPy alone in place of those of packages that may be missing."""

    def edges(image):
        gray = image[:, :, 0].astype(np.float32) / 255
        return np.array([np.abs(np.diff(gray, axis=axis)).mean() for axis in (0, 1)], np.float32)

    monkeypatch.setattr(features, "NAMES", ("mean",))
    monkeypatch.setattr(features, "FIELDS", {"mean": ()})
    monkeypatch.setattr(features, "fit", lambda *_: features.Feature(edges, {}))


@pytest.fixture
def finished(root, tmp_path, no_package, capsys):
    assert classic.main(words(root, tmp_path / "run")) == 0
    return tmp_path / "run"


def test_what_is_written(root, tmp_path, no_package, capsys):
    workdir = tmp_path / "run"
    assert classic.main(words(root, workdir, "--config.train.seed=3")) == 0
    printed = capsys.readouterr().out
    assert "train: 24 images, 2 classes (lying, standing)" in printed and "val/accuracy 1" in printed
    result = json.loads((workdir / "result.json").read_text())
    assert result["metrics"]["val"]["num_examples"] == 16 and result["metrics"]["val"]["accuracy"] == 1
    assert result["metrics"]["val"]["loss"] < 0.5
    assert result["config"]["model"]["name"] == "mean" and result["config"]["train"]["seed"] == 3
    assert result["chosen"]["C"] > 0 and "scikit-learn" in result["versions"]
    kept = predictions_file.read(workdir, "val")
    assert kept.example.tolist() == list(range(16)) and kept.label.tolist() == [0] * 8 + [1] * 8
    np.testing.assert_allclose(np.exp(kept.log_probabilities).sum(axis=1), 1, rtol=1e-5)
    assert (kept.log_probabilities.argmax(axis=1) == kept.label).all()


def test_others_read_it(finished, tmp_path, capsys):
    more = ["--metric", "val/accuracy", "--method", "m", "--protocol", "p", "--command", "c"]
    assert results.main(["add", str(tmp_path / "kept.json"), str(finished), *more]) == 0
    assert json.loads((tmp_path / "kept.json").read_text())["runs"][0]["value"] == 1
    assert report.main([str(finished)]) == 0
    assert "without predictions" not in capsys.readouterr().err
    page = (finished / "report.html").read_text()
    assert "linear_svm" in page and "Confusion" in page and "Calibration" in page


def test_pictures_of_what_is_wrong(finished, capsys):
    kept = predictions_file.read(finished, "val")
    predictions_file.write(finished, "val", kept._replace(log_probabilities=kept.log_probabilities[:, ::-1]))
    run = report.read_run(finished, split="", data=report.NOTHING)
    assert run.by_class["accuracy"] == 0 and "taken for" in report.build([run])


def test_a_stranger_opens_no_data(finished, root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nobody"))
    assert report.main([str(finished)]) == 0
    assert "pass --data_root FOLDER" in capsys.readouterr().err
    moved = shutil.copytree(root, tmp_path / "moved")
    assert report.main([str(finished), "--data_root", str(moved)]) == 0
    assert capsys.readouterr().err == ""
    (moved / "val/lying/24.png").unlink()
    assert report.main([str(finished), "--data_root", str(moved)]) == 0
    assert "holds other images now" in capsys.readouterr().err


def test_damaged_predictions(finished, capsys):
    file = predictions_file.path(finished, "val")
    whole = file.read_bytes()
    good = predictions_file.read(finished, "val")
    for content in (b"", b"PK", whole[:200], whole[:-100]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="predictions_val.npz is damaged"):
            predictions_file.read(finished, "val")
    for changed in (
        good._replace(label=good.label + 1),
        good._replace(example=good.example[::-1]),
        good._replace(example=good.example - 1),
        good._replace(log_probabilities=good.log_probabilities * np.float32(np.nan)),
        good._replace(log_probabilities=good.log_probabilities[:3]),
        good._replace(label=good.label.astype(np.float32)),
    ):
        predictions_file.write(finished, "val", changed)
        with pytest.raises(ValueError, match="its arrays do not go together"):
            predictions_file.read(finished, "val")
    assert report.main([str(finished)]) == 0 and "damaged" in capsys.readouterr().err
    assert predictions_file.path(finished, "a/../b").parent == finished


def test_no_training_goes_on_there(finished, root, capsys):
    given = words(root, finished)
    with pytest.raises(SystemExit, match="is of tools.classic, which keeps no network"):
        training.main([word for word in given if not word.startswith(("--features", "--classifier"))])
    assert classic.main(given) == 2
    assert f"error: {finished} holds a run: choose another --workdir" in capsys.readouterr().err
    assert predict.main(["--workdir", str(finished), str(root / "val")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def blocks(image, *, step, patches):
    """Stands in for dense SIFT: the gray values of blocks of 8 x 16 pixels."""
    seen = np.lib.stride_tricks.sliding_window_view(image[:, :, 0], (8, 16))[::step, ::step]
    y, x = np.indices(seen.shape[:2]).reshape(2, -1)
    points = np.stack([(x * step + 8) / 32, (y * step + 4) / 32], axis=1)
    return points, seen.reshape(-1, 128).astype(np.float32) / 255


def test_nothing_is_fitted_to_the_test_split(root, tmp_path, monkeypatch, capsys):
    """The codebook and all that was learned stay when the images that are measured become others."""
    monkeypatch.setattr(sift, "dense_sift", blocks)
    other = shutil.copytree(root, tmp_path / "other")
    for file in (other / "val").glob("*/*.png"):
        Image.effect_noise((32, 32), 90).convert("RGB").save(file)
    third = shutil.copytree(root, tmp_path / "third")
    Image.effect_noise((32, 32), 90).convert("RGB").save(third / "train/lying/0.png")
    digests = {}
    for folder in (root, other, third):
        workdir = tmp_path / f"run_{folder.name}"
        options = ["--words=8", "--step=4", "--patches", "16", "24"]
        given = words(folder, workdir, *options, features="sift_bow", classifier="intersection_svm")
        assert classic.main(given) == 0
        result = json.loads((workdir / "result.json").read_text())
        digests[folder.name] = result["state_digest"], result["metrics"]["val"]["accuracy"]
    assert digests[root.name][0] == digests["other"][0] != digests["third"][0]
    assert digests[root.name][1] > 0.8 > digests["other"][1]
    assert result["config"]["model"] == {
        "name": "sift_bow", "step": 4, "patches": [16, 24], "words": 8, "descriptors": 100_000
    }  # fmt: skip


def test_folds_of_the_training_split(root, tmp_path, no_package, capsys):
    folds = ["--config.data.folds=3", "--config.data.fold=1", "--config.evals.val.split=fold"]
    assert classic.main(words(root, tmp_path / "run", *folds)) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["val"]["num_examples"] == 8
    assert "train: 16 of 24 images" in capsys.readouterr().out


def test_images_that_cannot_be_read(root, tmp_path, no_package, capsys):
    broken = shutil.copytree(root, tmp_path / "broken")
    (broken / "val/lying/24.png").write_bytes(b"nothing")
    (broken / "train/lying/0.png").write_bytes(b"nothing")
    assert classic.main(words(broken, tmp_path / "first")) == 2
    assert "0.png" in capsys.readouterr().err and not (tmp_path / "first").exists()
    assert classic.main(words(broken, tmp_path / "run", "--config.data.on_bad_example=skip")) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["bad_examples"] == 2 and result["metrics"]["val"]["num_examples"] == 15
    assert predictions_file.read(tmp_path / "run", "val").example.tolist() == list(range(1, 16))
    run = report.read_run(tmp_path / "run", split="", data=report.NOTHING)
    assert run.why_not == "" and run.by_class["accuracy"] == 1 and len(run.predictions.source) == 15


@pytest.mark.parametrize(
    "more, told",
    [
        (["--config.evals.val.evaluator=knn"], "reads 'embedding' of what the objective predicts"),
        (["--config.data.root=/nowhere"], "/nowhere"),
        (["--config.evals.val.split=test"], "test"),
        (["--config.data.folds=1"], "folds"),
        (["--config.data.oversample=True"], "config.data.oversample repeats images"),
        (["--config.data.labels_per_class=2", "--config.data.labeled_batch_size=2"], "0 leaves those of"),
    ],
)
def test_mistakes_are_one_line(root, tmp_path, no_package, capsys, more, told):
    assert classic.main(words(root, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and told in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_option_that_says_nothing(root, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        classic.main(words(root, tmp_path / "run", "--words=9", features="hog"))
    assert end.value.code == 2 and "--words says nothing to --features hog" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module, name, feature", [("skimage.feature", "scikit-image", "hog"), ("cv2", "opencv", "sift_bow")]
)
def test_a_missing_package_is_one_line(root, tmp_path, monkeypatch, capsys, module, name, feature):
    monkeypatch.setitem(sys.modules, module, None)
    assert classic.main(words(root, tmp_path / "run", features=feature)) == 2
    error = capsys.readouterr().err
    assert name in error and "pip install 'imgcls-jax[classic]'" in error and error.count("\n") == 1
