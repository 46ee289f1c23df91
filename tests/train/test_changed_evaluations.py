"""A run goes on with other evaluations; those that cannot measure their splits are refused at the start."""

import json

import pytest
from PIL import Image

from imgcls_jax.contracts.evaluator import SplitFacts
from imgcls_jax.evaluators import classification, classification_report, clustering, knn, multilabel
from imgcls_jax.inference import trained
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train.run import run
from tests.train.test_loop import digits_config, stop_after

KNN = {"evaluator": "knn", "split": "test", "k": (1,)}


def digits(evals=None, **train):
    config = digits_config(**train)
    config["data"]["source"] = "digits"
    return config | ({"evals": evals} if evals else {})


def test_a_run_goes_on_with_other_evaluations_to_the_same_state(tmp_path, monkeypatch, capsys):
    whole = run(digits(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Interrupted):
            run(digits(), tmp_path / "run")
    kept = json.loads((tmp_path / "run/data.json").read_text())
    assert set(kept["splits"]) == {"train", "test"} and kept["grown_from"] == []
    capsys.readouterr()
    other = {"knn": KNN | {"split": "train"}}
    result = run(digits(other), tmp_path / "run")
    assert result["resumed_from_step"] == 4 and result["state_digest"] == whole["state_digest"]
    assert set(result["metrics"]) == {"knn"}
    shown = capsys.readouterr().out
    assert "the evaluations change here: evals.knn.k: 'absent' in the workdir, [1] now" in shown
    assert "evals.test.evaluator: 'classification' in the workdir, 'absent' now" in shown
    kept = json.loads((tmp_path / "run/data.json").read_text())
    assert set(kept["splits"]) == {"train"} and kept["grown_from"] == []
    # A finished run measures its last state anew, and the result before stays.
    again = run(digits(), tmp_path / "run")
    assert again["state_digest"] == whole["state_digest"] and again["metrics"] == whole["metrics"]
    assert json.loads((tmp_path / "run/result_8.json").read_text())["metrics"] == result["metrics"]
    capsys.readouterr()
    run(digits(), tmp_path / "run")
    assert "nothing to do" in capsys.readouterr().out


def test_the_measure_of_the_best_checkpoint_changes_by_another_name_alone(tmp_path):
    best = {"best_metric": "test/accuracy", "eval_every_steps": 4, "total_steps": 4}
    run(digits(**best), tmp_path)
    evals = {"test": {"evaluator": "classification", "split": "train"}}
    with pytest.raises(ValueError, match=r"'test', by which .* evals\.test_2, and name that in train\.best"):
        run(digits(evals, **best), tmp_path)
    result = run(digits({"test_2": evals["test"]}, **best | {"best_metric": "test_2/accuracy"}), tmp_path)
    assert set(result["metrics"]) == {"test_2"}


@pytest.mark.parametrize(
    "fields, data, message",
    [
        (
            KNN | {"k": 2000},
            {},
            "knn: k = 2000 is more than the 1438 neighbors that train_split = 'train' off",
        ),
        (KNN | {"split": "train", "k": 1438}, {}, "k = 1438 is more than the 1437 neighbors"),
        (
            {"evaluator": "linear_probe", "split": "test", "labels_per_class": 400},
            {},
            "labels_per_class = 400, and a class of train_split = 'train' has 139 examples",
        ),
        (
            {"evaluator": "clustering", "split": "test", "key": "embedding", "num_clusters": 400},
            {},
            "400 clusters among the 359 examples of 'test'",
        ),
        (
            {"evaluator": "classification", "split": "unknown:test"},
            {"known_classes": 8},
            "split = 'unknown:test' has 10 classes, and the network knows 8",
        ),
        (
            KNN | {"split": "unknown:test"},
            {"known_classes": 8},
            "no class of split = 'unknown:test' is in train_split = 'train'",
        ),
        (
            {"evaluator": "open_set", "split": "test", "unknown_split": "test"},
            {"known_classes": 8},
            "split and unknown_split are the same images",
        ),
        ({"evaluator": "open_set", "split": "test"}, {}, "config.data.known_classes"),
    ],
)
def test_what_a_split_does_not_offer_is_known_before_the_first_step(tmp_path, fields, data, message):
    config = digits({"own": fields})
    config["data"] |= data
    with pytest.raises(ValueError, match=f"config.evals.own.*{message}"):
        run(config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").glob("*")] in ([], ["lock"])


@pytest.mark.parametrize("evaluator", [classification, classification_report, clustering, knn, multilabel])
def test_labels_of_the_other_kind(evaluator):
    one = evaluator is multilabel
    split = SplitFacts("val", 5, ("a", "b"), (), multi_label=not one)
    options = {"split": "val", "train_split": "val", "k": 1}
    with pytest.raises(ValueError, match="the data give " + ("one label" if one else "any number")):
        evaluator.check({"split": split, "train_split": split}, options, None)
    with pytest.raises(ValueError, match="split = 'val' has no example"):
        evaluator.check({"split": split._replace(num_examples=0)}, options, None)


def test_a_temperature_is_not_fitted_on_images_that_are_measured(tmp_path):
    """A folder without split folders holds one part out, whatever name it is asked for by."""
    for number in range(10):
        file = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(file)
    line = "decode | resize(4, 4) | normalize(0.5, 0.5)"
    own = {"evaluator": "classification_report", "split": "val", "temperature_split": "test"}
    config = digits({"own": own})
    config["data"] = {
        "source": "image_folder",
        "root": str(tmp_path / "data"),
        "train_transforms": line,
        "eval_transforms": line,
    }
    config["train"]["batch_size"] = 8
    with pytest.raises(ValueError, match="config.evals.own: 2 images of temperature_split = 'test' are meas"):
        run(config, tmp_path / "run")


def test_another_split_is_evaluated_by_what_was_fitted_before(tmp_path):
    """The neighbours stay those of the training split, and an image of it is none of its own."""
    run(digits({"own": {"evaluator": "knn", "split": "test", "k": 1}}), tmp_path / "run")
    found = trained.evaluate(tmp_path / "run", split="train")["own"]
    assert found["num_examples"] > 1000 and found["accuracy_k1"] < 1
