"""A workdir knows its data: others are refused and change nothing in it, the same elsewhere are taken."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from imgcls_jax import main
from imgcls_jax.inference import trained
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train import kept_data
from imgcls_jax.train.run import run
from tests.train.test_loop import folder_config, folder_of_images, stop_after


@pytest.fixture
def data(tmp_path):
    folder_of_images(tmp_path / "data", 12)
    return tmp_path / "data"


def config(data, **train):
    made = folder_config(data)
    del made["train"]["total_steps"]
    made["optimizer"] = {"name": "sgd", "learning_rate": 0.01, "schedule": "constant"}
    made["train"] |= {"total_epochs": 2.0, "log_every_steps": 100} | train
    return made


@pytest.fixture
def stopped(data, tmp_path, monkeypatch):
    """The workdir of a run that was stopped after two of its six steps."""
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            run(config(data), tmp_path / "run")
    return tmp_path / "run"


def files(workdir):
    return {
        path: path.read_bytes()
        for path in sorted(workdir.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def more_images(data, count, split="train"):
    rng = np.random.default_rng(1)
    for name in ("dark", "light"):
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(data / split / name / f"more{number}.png")


def refused(data, workdir, message, **options):
    before = files(workdir)
    with pytest.raises(ValueError, match=message):
        run(config(data), workdir, **options)
    assert files(workdir) == before


def test_changed_data_are_refused_and_change_nothing(data, stopped, capsys):
    (data / "train/dark").rename(data / "train/a_dark")
    (data / "val/dark").rename(data / "val/a_dark")
    refused(data, stopped, "other data: classes: 'dark' is gone, 'a_dark' is new")
    refused(data, stopped, "classes: 'dark' is gone", accept_data_growth=True)
    (data / "train/a_dark").rename(data / "train/dark")
    (data / "val/a_dark").rename(data / "val/dark")
    (data / "val/light/3.png").unlink()
    refused(data, stopped, r"split 'val': 1 image gone \('light/3.png'\)", accept_data_growth=True)
    shutil.copy(data / "val/light/4.png", data / "val/light/3.png")
    (data / "train/light").rename(data / "train/other")
    shutil.copytree(data / "train/other", data / "train/light")
    refused(data, stopped, "classes: 'other' is new")
    shutil.rmtree(data / "train/other")
    capsys.readouterr()
    run(config(data), stopped)  # all is back
    told = capsys.readouterr().out
    assert f"train: 24 images, 2 classes (dark, light), from {data}/train" in told
    assert f"val: 24 images, 2 classes (dark, light), from {data}/val" in told


def test_growth_is_accepted_where_it_is_asked_for(data, stopped):
    more_images(data, 4)
    refused(data, stopped, r"split 'train': 8 images more \('dark/more0.png', .*--accept_data_growth")
    result = run(config(data), stopped, accept_data_growth=True)
    kept = json.loads((stopped / "data.json").read_text())
    assert result["steps"] == 8 and result["resumed_from_step"] == 2  # two epochs of four steps
    assert kept["splits"]["train"]["examples"] == 32 and kept["grown_from"] == [{"train": 24, "val": 24}]


def test_growth_that_is_no_growth_is_refused(data, tmp_path, monkeypatch):
    for name, change in (
        ("cosine", {"optimizer": {"schedule": "cosine"}}),
        ("warmup", {"optimizer": {"warmup_epochs": 1.0}}),
        ("labels", {"data": {"labels_per_class": 8}}),
    ):
        made = config(data)
        for section, fields in change.items():
            made[section] |= fields
        with monkeypatch.context() as patch:
            stop_after(patch, 1)
            with pytest.raises(Interrupted):
                run(made, tmp_path / name)
    more_images(data, 4)
    for name, message in (
        ("cosine", "spreads over all of the run"),
        ("warmup", "optimizer.warmup_steps: what was trained is not"),
        ("labels", "data.labels_per_class draws other images"),
    ):
        made = config(data)
        made["optimizer"] |= {"cosine": {"schedule": "cosine"}, "warmup": {"warmup_epochs": 1.0}}.get(
            name, {}
        )
        made["data"] |= {"labels_per_class": 8} if name == "labels" else {}
        before = files(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            run(made, tmp_path / name, accept_data_growth=True)
        assert files(tmp_path / name) == before


def test_moved_data_are_the_same(data, stopped, tmp_path, capsys):
    moved = data.rename(tmp_path / "moved")
    result = run(config(moved), stopped)
    assert result["resumed_from_step"] == 2
    loss = result["metrics"]["val"]["loss"]
    again = moved.rename(tmp_path / "again")
    with pytest.raises(FileNotFoundError, match="--config.data.root=FOLDER"):
        trained.evaluate(stopped)
    assert trained.evaluate(stopped, moved={"root": str(again)})["val"]["loss"] == pytest.approx(loss)
    main.main(["--mode=eval", f"--workdir={stopped}", f"--config.data.root={again}"])
    assert "val: 24 images, 2 classes" in capsys.readouterr().err
    (again / "val/dark/0.png").unlink()
    with pytest.raises(SystemExit, match=r"split 'val': 1 image gone \('dark/0.png'\)"):
        main.main(["--mode=eval", f"--workdir={stopped}", f"--config.data.root={again}"])
    with pytest.raises(SystemExit, match="leave out --config.train.seed; --config.data.root=FOLDER alone"):
        main.main(["--mode=eval", f"--workdir={stopped}", "--config.train.seed=1"])
    with pytest.raises(SystemExit, match="config.data.table: the data of this workdir have no such field"):
        main.main(["--mode=eval", f"--workdir={stopped}", "--config.data.table=x.csv"])


def test_a_workdir_of_an_older_version_is_accepted_with_a_line(data, stopped, tmp_path, caplog):
    (stopped / "data.json").unlink()
    with pytest.raises(ValueError, match="data.root"):
        run(config(data.rename(tmp_path / "moved")), stopped)  # nothing tells that they are the same
    run(config((tmp_path / "moved").rename(data)), stopped)
    assert "keeps no digest of its data" in caplog.text
    assert (stopped / "data.json").exists()


def test_what_is_measured_on_training_images_is_said(data, tmp_path, caplog):
    shutil.rmtree(data / "val")
    (data / "val").symlink_to("train")
    run(config(data, total_epochs=1.0), tmp_path / "run")
    assert "24 of 24 images of the split 'val' are trained on, too" in caplog.text


def test_other_normalization_and_other_images_are_said(data, tmp_path, caplog, capsys):
    made = config(data, total_epochs=1.0)
    made["data"]["eval_transforms"] = "decode | resize(16)"
    run(made, tmp_path / "run")
    assert "eval_transforms normalizes otherwise than config.data.train_transforms" in caplog.text
    assert trained.unlike_training([0.7, 0.72], (0.3, 0.05)).startswith("these images are far brighter")
    assert trained.unlike_training([0.05], (0.6, 0.05)).startswith("these images are far darker")
    assert not trained.unlike_training([0.4, 0.9], (0.5, 0.15)) and not trained.unlike_training(
        [], (0.5, 0.1)
    )
    network = trained.load(tmp_path / "run")
    usual, spread = network.brightness
    assert 0.3 < usual < 0.8 and spread > 0.05
    Image.new("RGB", (16, 16), "white").save(tmp_path / "white.png")
    object.__setattr__(network, "brightness", (0.2, 0.02))
    list(network.outputs_of_files([tmp_path / "white.png"], trained.probabilities, batch_size=2))
    assert "warning: these images are far brighter" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [{"splits": {"train": {"examples": "9", "digest": "x"}}}, {"splits": {"train": {}}}, {"grown_from": 3}],
    ids=str,
)
def test_a_damaged_digest_of_the_data_is_named(tmp_path, wrong):
    content = {"class_names": ["a"], "splits": {"train": {"examples": 9, "digest": "x"}}}
    (tmp_path / "data.json").write_text(json.dumps(content | wrong))
    with pytest.raises(ValueError, match=r"data\.json is damaged: remove it"):
        kept_data.read(tmp_path)
