"""Workdirs from strangers: no command that looks opens what they name, or writes through their links."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from imgcls_jax import main
from imgcls_jax.inference import trained
from imgcls_jax.tools import report, visualise
from imgcls_jax.train import known_data
from imgcls_jax.train.known_data import Named
from imgcls_jax.train.run import run as train
from imgcls_jax.train.workdir import load_configuration

CLASSES = ("cat", "dog")


def config_of(root, **data):
    return {
        "data": {
            "source": "image_folder",
            "root": str(root),
            "train_transforms": "decode | resize(16, 16) | normalize(0.5, 0.5)",
            "eval_transforms": "decode | resize(16, 16) | normalize(0.5, 0.5)",
        }
        | data,
        "model": {"name": "simpleconv3"},
        "objective": {"name": "supervised"},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "train": {"batch_size": 8, "total_steps": 1},
        "evals": {"val": {"evaluator": "classification", "split": "val"}},
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    workdir = tmp_path_factory.mktemp("run") / "workdir"
    train(config_of(images), workdir)
    return workdir


@pytest.fixture
def strange(run, tmp_path, monkeypatch):
    """The workdir, as it comes to a user who never trained on its data."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return shutil.copytree(run, tmp_path / "workdir")


def planted(workdir, **data):
    """Changes what a workdir says of its data."""
    path = workdir / "config.json"
    content = json.loads(path.read_text())
    for form in ("written", "resolved"):
        content[form]["data"] |= data
    path.write_text(json.dumps(content))
    return workdir


def test_of_ones_own_runs_the_data_are_opened_without_a_word(run, capsys, tmp_path):
    assert trained.evaluate(run)["val"]["num_examples"] == 8
    assert report.main([str(run), "--output", str(tmp_path / "r.html")]) == 0
    assert "without predictions" not in capsys.readouterr().err


def test_of_a_stranger_they_stay_closed_until_the_user_says_so(strange, images, capsys, tmp_path):
    page = tmp_path / "r.html"
    assert report.main([str(strange), "--output", str(page)]) == 0
    assert "left out: pass --data_root" in capsys.readouterr().err
    assert "left out: pass --data_root" in page.read_text()
    for data in (Named(root=images), Named(trusted=True)):
        assert trained.evaluate(strange, data=data)["val"]["num_examples"] == 8
    for flags in (["--data_root", str(images)], ["--trust_data"]):
        assert report.main([str(strange), "--output", str(page), *flags]) == 0
        assert "left out" not in capsys.readouterr().err


CLOSED = {
    "eval": lambda w, t: main.main(["--mode", "eval", "--workdir", str(w)]),
    "embedding": lambda w, t: visualise.main(
        ["embedding", "--workdir", str(w), "--split", "val", "--output", str(t / "a.png")]
    ),
    "augmentation": lambda w, t: visualise.main(
        ["augmentation", "--workdir", str(w), "--output", str(t / "a.png")]
    ),
}


@pytest.mark.parametrize("command", CLOSED.values(), ids=CLOSED)
def test_every_command_that_looks_asks(strange, capsys, tmp_path, command):
    try:
        command(strange, tmp_path)
        said = capsys.readouterr().err
    except SystemExit as error:
        said = str(error)
    assert said.startswith("error: pass --data_root FOLDER") and "--trust_data" in said


def test_no_line_of_another_file_comes_into_a_page(strange, tmp_path, capsys):
    secret = tmp_path / "passwd"
    secret.write_text("root:secret:0\n")
    fields = {"source": "list_file", "root": str(tmp_path), "list_file": "passwd", "classes": None}
    for name in ("test_fraction", "split_seed"):
        path = strange / "config.json"
        content = json.loads(path.read_text())
        content["resolved"]["data"].pop(name, None)
        path.write_text(json.dumps(content))
    planted(strange, **fields)
    page = tmp_path / "r.html"
    assert report.main([str(strange), "--output", str(page)]) == 0
    assert "secret:" not in page.read_text() + capsys.readouterr().err
    for outside in (str(secret), "../passwd", "~/passwd"):
        planted(strange, list_file=outside)
        (tmp_path / "data").mkdir(exist_ok=True)
        assert report.main([str(strange), "--output", str(page), "--data_root", str(tmp_path / "data")]) == 0
        assert "lies outside --data_root" in page.read_text() and "secret:" not in page.read_text()


def test_a_flag_that_would_do_nothing_is_refused(strange, capsys, tmp_path):
    with pytest.raises(SystemExit):
        report.main([str(strange), "--no_data", "--trust_data"])
    picture = ["--output", str(tmp_path / "a.png")]
    workdir = ["--workdir", str(strange)]
    assert visualise.main(["embedding", *workdir, str(tmp_path), "--data_root", str(tmp_path), *picture]) == 2
    assert "are of --split" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="--data_root is of --mode eval, and this run trains"):
        main.main(["--config", "configs/digits_simpleconv3.py:test", "--data_root", str(tmp_path)])


def test_a_user_without_a_home_trains_all_the_same(images, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    train(config_of(images), tmp_path / "workdir")
    configuration = load_configuration(tmp_path / "workdir")
    assert known_data.placed(configuration, tmp_path, known_data.NOTHING)[1]
    assert not known_data.placed(configuration, tmp_path, Named(trusted=True))[1]


LINKS = ["lock", "metrics.jsonl", "config.json", "task.json", "result.json"]


@pytest.mark.parametrize("hard", [False, True], ids=["symbolic", "hard"])
def test_links_in_a_workdir_are_not_written_through(images, tmp_path, hard):
    """Whether a run starts or says why not: nothing outside changes."""
    victims = tmp_path / "victims"
    victims.mkdir()
    for name in LINKS:
        workdir = tmp_path / f"run_{name}"
        workdir.mkdir()
        victim = victims / name
        victim.write_text("precious")
        (workdir / name).hardlink_to(victim) if hard else (workdir / name).symlink_to(victim)
        try:
            train(config_of(images), workdir)
        except (ValueError, OSError) as error:
            assert str(workdir / name) in str(error)
        assert victim.read_text() == "precious", name
        assert [path.name for path in victims.iterdir()] == [name]
        victim.unlink()


def test_a_link_for_a_folder_or_a_page_is_not_followed(images, run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "tensorboard").symlink_to(elsewhere)
    with pytest.raises(OSError, match="tensorboard cannot be written: it is a symbolic link"):
        train(config_of(images), workdir)
    copy = shutil.copytree(run, tmp_path / "copy")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (copy / "report.html").symlink_to(victim)
    assert report.main([str(copy), "--no_data"]) == 0
    assert victim.read_text() == "precious" and not (copy / "report.html").is_symlink()
    assert not list(elsewhere.iterdir())
