"""Configurations on the command line: files found, fields overridden, mistakes in one line."""

from pathlib import Path

import pytest

from imgcls_jax.config import files
from imgcls_jax.config.resolve import resolve

DIGITS = "configs/digits_simpleconv3.py"


def load(config, **overrides):
    named = files.find(config, {name.replace("__", "."): text for name, text in overrides.items()})
    return files.load(named)


def write(folder, body, name="own.py"):
    path = folder / name
    path.write_text(body)
    return str(path)


FILE = """
def get_config():
    return {
        "data": {"source": "digits", "train_transforms": "", "eval_transforms": "", "root": "2019"},
        "model": {"name": "simpleconv3"},
        "objective": {"name": "supervised", "ema_decay": None, "class_weights": (1.0, 2.0)},
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
        "train": {"batch_size": 8, "total_epochs": 3.0},
        "evals": {},
    }
"""


def test_words_become_values(tmp_path):
    own = write(tmp_path, FILE)
    config, notes = load(
        own,
        data__root="2020",
        model__variant="simpleconv3",
        objective__ema_decay="0.9",
        objective__class_weights="None",
        objective__label_smoothing="1e-1",
        optimizer__nesterov="false",
        train__batch_size="16",
        evals__late__evaluator="knn",
        evals__late__split="test",
    )
    assert config["data"]["root"] == "2020"
    assert config["objective"]["ema_decay"] == 0.9 and config["objective"]["class_weights"] is None
    assert config["objective"]["label_smoothing"] == 0.1 and config["optimizer"]["nesterov"] is False
    assert config["train"]["batch_size"] == 16 and config["evals"]["late"]["split"] == "test"
    assert notes == [] and resolve(config).batch_size == 16


def test_another_optimizer_drops_what_it_does_not_take(tmp_path):
    config, notes = load(write(tmp_path, FILE), optimizer__name="adamw", optimizer__b2="0.95")
    optimizer = resolve(config).resolved["optimizer"]
    assert optimizer["name"] == "adamw" and optimizer["b2"] == 0.95 and "momentum" not in optimizer
    assert optimizer["nesterov"] is True  # adamw takes it
    assert notes == ["optimizer.name = 'adamw' takes no optimizer.momentum: left out"]
    config, notes = load(DIGITS, optimizer__name="adamw")
    assert resolve(config).resolved["optimizer"]["name"] == "adamw" and "momentum" in notes[0]


def test_another_source_drops_what_it_does_not_read():
    named = "configs/cub_bcnn.py"
    config, notes = load(named, data__source="array_record", data__root="packed")
    assert notes == ["data.source = 'array_record' takes no data.protocol, data.test_fraction: left out"]
    assert resolve(config).data.fields == {"root": "packed"}
    assert load(named, data__source="cub200")[1] == []
    with pytest.raises(ValueError, match="has no file array_recrod.py; did you mean 'array_record'"):
        load(named, data__source="array_recrod")


def test_a_duration_takes_the_place_of_one_in_another_unit(tmp_path):
    config, _ = load(write(tmp_path, FILE), train__total_steps="7")
    assert resolve(config).in_steps(22)["train"]["total_steps"] == 7


def test_the_command_line_is_split():
    words = ["--mode", "train", "--config.train.seed=1", "--config.model.variant", "a=b", "--config=x.py"]
    others, overrides = files.split_overrides(words)
    assert others == ["--mode", "train", "--config=x.py"]
    assert overrides == {"train.seed": "1", "model.variant": "a=b"}
    with pytest.raises(ValueError, match="--config.train.seed has no value"):
        files.split_overrides(["--config.train.seed", "--mode=eval"])


def test_a_configuration_of_the_project_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits_simpleconv3", "digits_simpleconv3:test", "configs/digits_simpleconv3.py"):
        assert files.find(name, {}).path.name == "digits_simpleconv3.py"
    with pytest.raises(ValueError, match="--config digits_simpleconv: .*did you mean 'digits_simpleconv3'"):
        files.find("digits_simpleconv", {})
    with pytest.raises(ValueError, match="elsewhere/digits.py: there is no such file"):
        files.find("elsewhere/digits.py", {})


def test_a_file_at_hand_goes_before_the_projects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, FILE, "digits_simpleconv3.py")
    assert files.find("digits_simpleconv3.py", {}).path == Path("digits_simpleconv3.py")


@pytest.mark.parametrize(
    ("config", "workdir"),
    [
        (DIGITS, "runs/digits_simpleconv3"),
        (f"{DIGITS}:test", "runs/digits_simpleconv3_test"),
        ("cub_bcnn:compact,test", "runs/cub_bcnn_compact_test"),
    ],
)
def test_the_default_workdir(config, workdir):
    assert files.find(config, {}).default_workdir == Path(workdir)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def get_config(:", r"own.py, line 1: SyntaxError"),
        ("\nimport no_such_module", r"own.py, line 2: ModuleNotFoundError: .*no_such_module"),
        ("x = 1", "has no function get_config"),
        ("get_config = 1", "has no function get_config"),
        ("x = {}['a']", "own.py, line 1: KeyError"),
        ("def get_config():\n    return {}['a']", "own.py, line 2: KeyError"),
        ("def get_config():\n    raise ValueError('no such bird')", "own.py: no such bird"),
        ("def get_config():\n    return 3", "a configuration is a dictionary"),
        ("def get_config():\n    return {'data': {}}", "missing"),
    ],
)
def test_a_broken_file_is_one_line(body, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        load(write(tmp_path, body))
    assert "\n" not in str(error.value)


def test_options_of_a_file_that_has_none(tmp_path):
    with pytest.raises(ValueError, match="takes no options; got 'test'"):
        load(write(tmp_path, FILE) + ":test")


def test_an_evaluation_is_left_out_or_added():
    changed = {"evals__test": "none", "evals__fold": "{'evaluator': 'classification', 'split': 'fold'}"}
    assert load(DIGITS, **changed)[0]["evals"] == {"fold": {"evaluator": "classification", "split": "fold"}}
    with pytest.raises(ValueError, match=r"config\.evals\.tets: no such section .*; did you mean 'test'"):
        load(DIGITS, evals__tets="None")


def test_a_search_space_stands_in_the_file(tmp_path):
    assert files.search_space(files.find(DIGITS, {})) == {}
    own = write(tmp_path, FILE + "\ndef sweep():\n    return {'optimizer.learning_rate': [0.1, 0.2]}\n")
    assert files.search_space(files.find(own, {})) == {"optimizer.learning_rate": [0.1, 0.2]}
    for body, line in (("return 3", "got 3"), ("return 1 / 0", "line 12: ZeroDivisionError")):
        own = write(tmp_path, f"{FILE}def sweep():\n    {body}\n")
        with pytest.raises(ValueError, match=line):
            files.search_space(files.find(own, {}))


def test_an_override_of_no_section(tmp_path):
    with pytest.raises(ValueError, match="--config.trian.seed: no such section; did you mean 'train'"):
        load(write(tmp_path, FILE), trian__seed="1")
