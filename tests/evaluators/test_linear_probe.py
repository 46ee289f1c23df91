"""The linear probe against scikit-learn on the same embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from imgcls_jax.contracts.objective import Task
from imgcls_jax.data.subsets import balanced_subset
from imgcls_jax.evaluators import knn, linear_probe
from imgcls_jax.models import simpleconv3
from imgcls_jax.objectives import simclr
from imgcls_jax.train.state import TrainState, state_digest

CLASSES = 3
SCALES = np.array([1e-3, 1.0, 1e3, 1.0, 0.0], np.float32)  # standardising makes up for these


def drawn(rows, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows).astype(np.int32)
    means = np.random.default_rng(9).normal(size=(CLASSES, 5))
    return ((means[labels] + rng.normal(size=(rows, 5))) * SCALES).astype(np.float32), labels


SPLITS = {"train": drawn(200, 1), "test": drawn(90, 2)}


def open_split(splits, batch_size=16):
    def batches(name):
        images, labels = splits[name]
        for start in range(0, len(labels), batch_size):
            rows = np.arange(start, start + batch_size)
            mask = rows < len(labels)
            rows = np.where(mask, rows, 0)
            label = np.where(mask, labels[rows], (labels[rows] + 1) % CLASSES).astype(np.int32)
            yield {"image": jnp.asarray(images[rows]), "label": jnp.asarray(label), "mask": jnp.asarray(mask)}

    return batches


def evaluate(splits=SPLITS, **options):
    evaluator = linear_probe.make(
        lambda params, objective_state, batch: {"embedding": batch["image"] + params},
        open_split(splits),
        task=None,
        split="test",
        **options,
    )
    return evaluator(jnp.float32(0.0), {})


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_against_scikit_learn(C):
    (x, y), (x_test, y_test) = SPLITS["train"], SPLITS["test"]
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    x, x_test = ((a - mean) / np.where(std > 0, std, 1) for a in (x, x_test))
    probe = LogisticRegression(C=C, max_iter=1000).fit(x, y)
    metrics = evaluate(C=C)
    assert metrics["num_examples"] == 90
    np.testing.assert_allclose(metrics["accuracy"], probe.score(x_test, y_test))
    np.testing.assert_allclose(metrics["train_accuracy"], probe.score(x, y))
    assert metrics["accuracy"] > 0.6


def test_some_labels_of_each_class():
    few = evaluate(labels_per_class=2)
    chosen = balanced_subset(SPLITS["train"][1], 2, 0)
    assert np.bincount(SPLITS["train"][1][chosen]).tolist() == [2, 2, 2]
    alone = SPLITS | {"train": tuple(array[chosen] for array in SPLITS["train"])}
    assert few == evaluate(alone) and few["train_accuracy"] == 1


def test_shuffled_labels_give_chance():
    rng = np.random.default_rng(3)
    shuffled = {name: (x, rng.permutation(y)) for name, (x, y) in SPLITS.items()}
    assert evaluate(shuffled)["accuracy"] < 0.5


def test_errors():
    with pytest.raises(ValueError, match="positive C"):
        evaluate(C=0.0)


@pytest.mark.parametrize("evaluator", [linear_probe, knn])
def test_evaluating_leaves_the_network_as_it_is(evaluator):
    task = Task(num_classes=3, num_examples=24, steps_per_epoch=3, total_steps=6, image_shape=(8, 8, 1))
    objective = simclr.make(simpleconv3.build(), task)
    rng = np.random.default_rng(0)
    splits = {
        name: (rng.normal(size=(rows, 8, 8, 1)).astype(np.float32), np.arange(rows, dtype=np.int32) % 3)
        for name, rows in (("train", 30), ("test", 10))
    }
    images = splits["test"][0]
    params, objective_state = jax.jit(objective.init)(jax.random.key(0), {"views": (images, images)})
    state = TrainState(jnp.int32(0), params, objective_state, {}, jax.random.key(0))
    before = state_digest(state)
    run = evaluator.make(objective.predict, open_split(splits), task=task, split="test")
    assert run(params, objective_state) == run(params, objective_state)
    assert state_digest(state) == before
