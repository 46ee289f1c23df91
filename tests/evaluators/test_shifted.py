"""The evaluators of shifted test sets by hand, and a run that measures a miniature of each."""

import io
import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imgcls_jax.contracts.evaluator import SplitFacts
from imgcls_jax.data.shifted_imagenet import CORRUPTIONS, SYNSETS
from imgcls_jax.evaluators import corruptions, shifted
from imgcls_jax.train.run import run

TASK = SimpleNamespace(num_classes=7)
LOGITS = np.array(
    [
        [5.0, 4.0, 0.0, 0.0, 0.0, 0.0, 3.0],
        [9.0, 1.0, 8.0, 0.0, 0.0, 0.0, 2.0],
        [0.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0],
        [3.0, 0.0, 3.0, 0.0, 0.0, 0.0, 1.0],
    ]
)


def evaluated(module, labels, task=TASK, **others):
    def open_split(split):
        for rows in (slice(0, 2), slice(2, None)):
            label = jnp.asarray(labels[rows])
            columns = {name: jnp.asarray(column[rows]) for name, column in others.items()}
            yield {"image": LOGITS[rows], "label": label, "mask": jnp.ones(len(label), bool)} | columns

    return module.make(
        lambda params, objective_state, batch: {"logits": jnp.asarray(batch["image"])},
        open_split,
        task=task,
        split="test",
    )({}, {})


def test_all_classes_and_those_of_the_set():
    """Of classes 0, 2 and 6 the third image is best a 2, though among all it is a 1; the last is a tie."""
    found = evaluated(shifted, np.array([0, 2, 6, 0]))
    assert found["accuracy"] == 1 / 4 and found["num_set_classes"] == 3
    assert found["top5_accuracy"] == 3 / 4 and found["set_accuracy"] == 1 / 4
    found = evaluated(shifted, np.array([0, 0, 2, 6]))
    assert found["accuracy"] == 2 / 4 and found["set_accuracy"] == 3 / 4


def test_one_of_several_right_labels_is_enough():
    right = np.zeros((4, 7), int)
    right[0, [1, 6]] = right[1, [2, 0]] = right[2, [1, 2]] = right[3, [0, 2]] = 1
    found = evaluated(shifted, right)
    assert found["num_examples"] == 4 and found["num_set_classes"] == 4
    assert found["accuracy"] == 3 / 4  # two right ones that tie are no error
    assert found["set_accuracy"] == 3 / 4
    right[3] = 0
    with pytest.raises(ValueError, match="an image of test has no right label"):
        evaluated(shifted, right)


def test_a_network_of_other_classes_is_refused():
    facts = {"split": SplitFacts("imagenet-a", 2, SYNSETS, (), False)}
    with pytest.raises(ValueError, match="'imagenet-a' has 1000 classes, and the network knows 7"):
        shifted.check(facts, {}, TASK)
    several = {"split": SplitFacts("objectnet", 2, tuple("abcdefg"), (), True)}
    shifted.check(several, {}, TASK)
    with pytest.raises(ValueError, match="this evaluator measures one label an image"):
        corruptions.check(several, {}, TASK)


def test_the_mean_corruption_error_by_hand():
    """Whoever errs exactly as AlexNet has 1; half as often, 1/2; the five severities count alike."""
    kinds = np.stack(np.meshgrid(np.arange(15), np.arange(1, 6), np.arange(2000), indexing="ij"), -1)
    corruption, severity, image = kinds.reshape(-1, 3).T
    limits = np.array(corruptions.ALEXNET_ERRORS)[corruption] * 2000
    found = corruptions.report(image < limits, corruption, severity)
    assert found["mce"] == pytest.approx(1, abs=1e-3)
    assert found["accuracy"] == pytest.approx(1 - np.mean(corruptions.ALEXNET_ERRORS), abs=1e-3)
    half = corruptions.report(image < limits / 2, corruption, severity)
    assert half["mce"] == pytest.approx(0.5, abs=1e-3) and half["ce_fog"] == pytest.approx(0.5, abs=2e-3)
    worst = corruptions.report(severity == 5, corruption, severity)
    assert worst["errors"][3] == [0, 0, 0, 0, 1]
    np.testing.assert_allclose(worst["mce"], np.mean([0.2 / error for error in corruptions.ALEXNET_ERRORS]))
    few = corruption < 2
    part = corruptions.report(severity[few] == 5, corruption[few], severity[few])
    assert part["mce"] is None and part["ce_fog"] is None and part["errors"][9] == [None] * 5
    assert part["ce_shot_noise"] == pytest.approx(0.2 / 0.894468)


# AlexNet's errors by severity, a row a corruption, as other repositories give them.
ALEXNET_BY_SEVERITY = """
0.69528 0.82542 0.93554 0.98138 0.99452
0.71224 0.85108 0.93574 0.98182 0.99146
0.78374 0.89808 0.9487 0.9872 0.99548
0.65624 0.73202 0.85036 0.91364 0.94714
0.64308 0.75054 0.88806 0.91622 0.93344
0.5843 0.70048 0.82108 0.8975 0.92638
0.70008 0.76992 0.80784 0.84198 0.87198
0.71726 0.88392 0.86468 0.9187 0.94952
0.6139 0.79734 0.8879 0.89942 0.9343
0.67474 0.7605 0.84378 0.8726 0.945
0.4514 0.48502 0.54048 0.62166 0.7244
0.64548 0.7615 0.88874 0.9776 0.9927
0.52596 0.70116 0.55686 0.64076 0.80554
0.52218 0.5462 0.73728 0.87092 0.91262
0.51002 0.54718 0.57294 0.65458 0.74778
"""


def test_alexnets_errors_are_the_means_of_those_by_severity():
    by_severity = np.array(ALEXNET_BY_SEVERITY.split(), float).reshape(15, 5)
    np.testing.assert_allclose(corruptions.ALEXNET_ERRORS, by_severity.mean(axis=1), atol=1e-9)
    assert CORRUPTIONS[0] == "gaussian_noise" and CORRUPTIONS[-1] == "jpeg_compression"


def test_corruptions_over_batches_and_without_any():
    labels, severity = np.array([0, 0, 1, 0]), np.array([1, 1, 2, 5])
    found = evaluated(corruptions, labels, corruption=np.full(4, 9), severity=severity)
    assert found["errors"][9] == [0, 0, None, None, 1] and found["accuracy"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="say neither corruption nor severity"):
        evaluated(corruptions, labels)


def png(path, size=8, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    path.write_bytes(stream.getvalue())


def config_of(root, **evals):
    line = "decode | resize(4, 4) | normalize(0.5, 0.5)"
    return {
        "data": {
            "source": "imagenet",
            "root": str(root),
            "train_split": "imagenet-a",
            "train_transforms": line,
            "eval_transforms": line,
        },
        "model": {"name": "mlp", "hidden": [4]},
        "objective": {"name": "supervised"},
        "optimizer": {"name": "sgd", "learning_rate": 0.0},
        "train": {"batch_size": 8, "total_steps": 0},
        "evals": evals,
    }


def test_a_run_of_no_steps_measures_them(tmp_path):
    """From the folders to result.json; the network is random."""
    for seed, name in enumerate((SYNSETS[3], SYNSETS[40])):
        for number in range(6):
            png(tmp_path / "imagenet-a" / name / f"{number}.png", seed=10 * seed + number)
        for corruption in CORRUPTIONS:
            for severity in range(1, 6):
                png(tmp_path / "imagenet-c" / corruption / str(severity) / name / "0.png", seed=severity)
    for number in (1, 2):
        png(tmp_path / "val" / SYNSETS[number] / f"ILSVRC2012_val_0000000{number}.png")
    (tmp_path / "real.json").write_text(json.dumps([list(range(1000)), []]))
    evals = {
        "a": {"evaluator": "shifted", "split": "imagenet-a", "bootstrap": 100},
        "c": {"evaluator": "corruptions", "split": "imagenet-c"},
        "real": {"evaluator": "shifted", "split": "imagenet-real"},
    }
    metrics = run(config_of(tmp_path, **evals), tmp_path / "run")["metrics"]
    assert metrics["a"]["num_examples"] == 12 and metrics["a"]["num_set_classes"] == 2
    assert metrics["a"]["set_accuracy"] > metrics["a"]["accuracy"]
    assert set(metrics["a"]["intervals"]) == {"accuracy", "top5_accuracy", "set_accuracy"}
    assert metrics["c"]["num_examples"] == 150 and metrics["c"]["mce"] > 0
    assert metrics["real"]["num_examples"] == 1 and metrics["real"]["accuracy"] == 1
    kept = json.loads((tmp_path / "run" / "result.json").read_text())
    assert kept["metrics"]["c"] == metrics["c"]


def test_a_network_of_other_synsets_is_told_in_one_line(tmp_path):
    for number in (1, 2):
        for split in ("train", "val"):
            for own in range(4):
                png(tmp_path / split / SYNSETS[number] / f"{own}.png")
    png(tmp_path / "imagenet-a" / SYNSETS[1] / "0.png")
    config = config_of(tmp_path, a={"evaluator": "shifted", "split": "imagenet-a"})
    config["data"]["train_split"] = "train"
    with pytest.raises(ValueError, match="'imagenet-a' has the classes 1000 .*, training has 2") as caught:
        run(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
