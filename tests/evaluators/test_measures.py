"""What evaluators declare to measure is what they measure."""

import importlib
import inspect
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax import evaluators
from imgcls_jax.contracts.objective import Task
from imgcls_jax.train.contract import measured
from imgcls_jax.train.writer import flatten

KNOWN, CLASSES, DIM = 6, 8, 4
TASK = Task(
    num_classes=CLASSES,
    num_examples=48,
    steps_per_epoch=1,
    total_steps=1,
    image_shape=(1, 1, 1),
    class_counts=(8, 7, 6, 5, 4, 3, 0, 0),
    signatures=tuple(map(tuple, np.random.default_rng(0).normal(size=(CLASSES, 3)).tolist())),
)
# (evaluator, options); what stands in an option's place is needed to measure all that is declared.
CASES = [
    ("classification", {}),
    ("classification_report", {}),
    ("classification_report", {"top_k": (2, 3), "shots": (5, 6), "bootstrap": 100}),
    ("classification_report", {"temperature_split": "valid"}),
    ("clustering", {"fit_split": "train"}),
    ("corruptions", {}),
    ("dap", {}),
    ("eszsl", {"folds": 2, "alphas": (0.0,), "gammas": (0.0,)}),
    ("image_text", {"k": (1, 3)}),
    ("image_text", {"k": 2}),
    ("knn", {"k": (1, 5)}),
    ("knn", {"k": 3}),
    ("linear_probe", {}),
    ("multilabel", {}),
    ("multilabel", {"fit_split": "train", "voc_year": 2007}),
    ("open_set", {}),
    ("open_set", {"train_split": "train"}),
    ("retrieval", {}),
    ("shifted", {}),
    ("zero_shot", {}),
    ("zero_shot", {"unseen_split": "unknown:test"}),
    ("zero_shot", {"unseen_split": "unknown:test", "delta": 0.5}),
]


def predict(params, objective_state, batch):
    x = batch["image"]
    logits = jnp.tile(x, (1, CLASSES // DIM)) * jnp.arange(1.0, CLASSES + 1)
    return {
        "logits": logits,
        "embedding": x,
        "probabilities": 1 / (1 + jnp.exp(-logits)),
        "text_embedding": jnp.stack([x, -x], axis=1),
        "subhead_logits": jnp.stack([logits, -logits], axis=1),
    }


def splits_of(evaluator):
    def open_split(name):
        rng = np.random.default_rng(len(name))
        classes = range(KNOWN, CLASSES) if name.startswith("unknown:") else range(KNOWN)
        labels = np.repeat(classes, 15 if evaluator == "corruptions" else 8)
        images = rng.normal(size=(len(labels), DIM)) + labels[:, None]
        if evaluator == "multilabel":
            labels = rng.integers(0, 2, (len(labels), CLASSES))
        yield {
            "image": jnp.asarray(images, jnp.float32),
            "label": jnp.asarray(labels, jnp.int32),
            "mask": jnp.ones(len(labels), bool),
            "text": jnp.ones((len(labels), 2, 3), jnp.int32),
            "corruption": jnp.arange(len(labels)) % 15,
            "severity": jnp.arange(len(labels)) // 15 % 5 + 1,
        }

    return open_split


def test_every_evaluator_declares():
    names = {path.stem for path in Path(evaluators.__file__).parent.glob("[a-z]*.py")}
    assert names == {name for name, _ in CASES}


@pytest.mark.filterwarnings("ignore")  # of so few examples
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_what_is_declared_is_measured(name, options):
    module = importlib.import_module(f"imgcls_jax.evaluators.{name}")
    evaluate = module.make(predict, splits_of(name), task=TASK, split="test", **options)
    found = flatten(evaluate({}, {}), "")
    defaults = {
        own.name: own.default
        for own in inspect.signature(module.make).parameters.values()
        if own.default is not inspect.Parameter.empty
    }
    declared = measured(module, defaults | {"split": "test"} | options)
    assert {f"/{own}" for own in declared} == set(found) and len(set(declared)) == len(declared)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["knn", "linear_probe", "multilabel", "retrieval"])
def test_intervals_hold_the_numbers_that_are_measured(name):
    options = {"knn": {"k": (1, 5)}, "multilabel": {"voc_year": 2007}}.get(name, {})
    module = importlib.import_module(f"imgcls_jax.evaluators.{name}")

    def measure(**fields):
        evaluator = module.make(predict, splits_of(name), task=TASK, split="test", **options, **fields)
        return evaluator({}, {})

    found, without = measure(bootstrap=200), measure()
    assert {own: value for own, value in found.items() if own != "intervals"} == without
    numbers = set(flatten(without, "")) - {"/num_examples", "/train_accuracy"}
    assert {f"/{own}" for own in found["intervals"]} == numbers
    for own, (low, high) in found["intervals"].items():
        assert low <= found[own] + 1e-9 and found[own] - 1e-9 <= high, own
    assert any(low < high for low, high in found["intervals"].values())
    with pytest.raises(ValueError, match=f"{name}: bootstrap is 0"):
        measure(bootstrap=5)
