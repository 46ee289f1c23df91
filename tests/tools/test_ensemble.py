"""An ensemble: the mean of probabilities, of files and of splits, against a computation by hand."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imgcls_jax.data.image_files import FileOutput
from imgcls_jax.inference import ensemble, trained
from imgcls_jax.inference.mean import mean_of_files
from imgcls_jax.tools import ensemble as command
from imgcls_jax.tools import predict
from imgcls_jax.train.run import run
from tests.inference.test_strange_exports import planted
from tests.train.test_loop import digits_config

SIZES = {"one": 8, "two": 16}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Two networks of other widths, seeds and transforms."""
    folder = tmp_path_factory.mktemp("ensemble")
    for seed, (name, size) in enumerate(SIZES.items()):
        config = digits_config(total_steps=3, seed=seed)
        config["model"] = {"name": "mlp", "hidden": (size,)}
        line = f"resize({size}) | normalize(0.5, 0.5)"
        config["data"] |= {"train_transforms": line, "eval_transforms": line}
        config["evals"]["knn"] = {"evaluator": "knn", "split": "test"}
        run(config, folder / name)
    return folder


def test_the_ensemble_is_the_mean_and_each_member_is_as_its_run_has_it(workdirs, capsys, tmp_path):
    names, output = [str(workdirs / name) for name in SIZES], tmp_path / "result.json"
    assert command.main([*names, "--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*names, "ensemble"] and "test/accuracy" in lines[0]
    result = json.loads(output.read_text())
    members = [trained.load(name) for name in names]
    found = ensemble.read_split(members, names, "test", 50)
    mean, labels = np.mean([rows for rows, _ in found], axis=0), found[0][1]
    metrics = result["ensemble"]["test"]
    assert metrics["num_examples"] == len(labels) and "knn" not in result["ensemble"]
    np.testing.assert_allclose(metrics["accuracy"], (mean.argmax(1) == labels).mean())
    np.testing.assert_allclose(
        metrics["loss"], -np.log(mean[np.arange(len(labels)), labels]).mean(), rtol=1e-5
    )
    for name in names:
        own = json.loads((workdirs / name / "result.json").read_text())["metrics"]["test"]
        assert own["accuracy"] == result[name]["test"]["accuracy"] and result["steps"][name] == 3
        np.testing.assert_allclose(result[name]["test"]["loss"], own["loss"], rtol=1e-4)


def planted_pair(folder, **fields):
    for name, found in (("one", [0.5, 0.75]), ("two", [0.5, 0.25])):
        network = lambda images, found=found: {  # noqa: E731
            "probabilities": 0 * images.mean((1, 2, 3))[:, None] + jnp.array(found)
        }
        planted(folder / name, network, class_names=["cat", "dog"], **fields.get(name, {}))
    return [flag for name in ("one", "two") for flag in ("--exported", str(folder / name))]


def test_predict_takes_the_mean_of_several(capsys, tmp_path):
    flags = planted_pair(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    assert predict.main([*flags, "--top_k=2", "--format=json", str(tmp_path)]) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert {row["class"]: row["probability"] for row in good["predictions"]} == {"cat": 0.5, "dog": 0.5}
    assert "error" in bad
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    flags = planted_pair(tmp_path, two={"multi_label": True})
    assert predict.main([*flags, str(tmp_path / "a.png")]) == 2
    assert "all give one label, or all any number" in capsys.readouterr().err


def test_an_error_of_one_is_that_of_all():
    good, bad = FileOutput("a", np.array([0.2, 0.8]), ""), FileOutput("a", None, "gone")
    other = FileOutput("a", np.array([0.6, 0.4]), "")
    assert list(mean_of_files([[good], [bad]])) == [FileOutput("a", None, "gone")]
    np.testing.assert_allclose(next(mean_of_files([[good], [other]])).output, [0.4, 0.6])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"known_classes": 4}, "knows 4 classes and .* 10, or in another order: an ensemble is of networks"),
        ({"folds": 2}, "the split 'train' of .* holds other examples than that of"),
    ],
)
def test_networks_that_do_not_go_together_are_refused(workdirs, tmp_path, change, message, capsys):
    config = digits_config(total_steps=1)
    config["data"] |= change
    run(config, tmp_path / "other")
    split = ["--split=train"]
    assert command.main([str(workdirs / "one"), str(tmp_path / "other"), *split]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_one_workdir_is_no_ensemble(workdirs, capsys):
    assert command.main([str(workdirs / "one")]) == 2
    assert "two workdirs at least" in capsys.readouterr().err
