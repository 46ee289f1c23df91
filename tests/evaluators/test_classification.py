"""Classification metrics against scikit-learn, over uneven batches."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, recall_score, top_k_accuracy_score

from imgcls_jax.evaluators import classification

CLASSES = 7


def evaluate(logits, labels, batch_size, num_classes=CLASSES):
    def open_split(split):
        assert split == "test"
        for start in range(0, len(labels), batch_size):
            rows = np.arange(start, start + batch_size)
            mask = rows < len(labels)
            rows = np.where(mask, rows, 0)
            yield {
                "image": jnp.asarray(logits[rows]),
                "label": jnp.asarray(labels[rows]),
                "mask": jnp.asarray(mask),
            }

    def predict(params, objective_state, batch):
        return {"logits": params * batch["image"]}

    task = SimpleNamespace(num_classes=num_classes)
    return classification.make(predict, open_split, task=task, split="test")(jnp.float32(1), {})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_against_scikit_learn(seed, batch_size):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(45, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES, 45).astype(np.int32)
    metrics = evaluate(logits, labels, batch_size)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    every = list(range(CLASSES))
    assert metrics["num_examples"] == 45
    np.testing.assert_allclose(metrics["accuracy"], accuracy_score(labels, logits.argmax(axis=1)))
    np.testing.assert_allclose(
        metrics["top5_accuracy"], top_k_accuracy_score(labels, probabilities, k=5, labels=every)
    )
    np.testing.assert_allclose(metrics["loss"], log_loss(labels, probabilities, labels=every), rtol=1e-5)
    recall = recall_score(labels, logits.argmax(axis=1), labels=every, average=None)
    np.testing.assert_allclose(metrics["per_class_accuracy"], recall)


def test_a_collapsed_or_broken_network_scores_nothing():
    labels = np.arange(14, dtype=np.int32) % CLASSES
    for value in (0.0, np.nan):
        metrics = evaluate(np.full((14, CLASSES), value, np.float32), labels, 4)
        assert metrics["accuracy"] == 0 and metrics["top5_accuracy"] == 0


def test_classes_without_examples_and_few_classes():
    labels = np.zeros(3, np.int32)
    metrics = evaluate(np.eye(2, dtype=np.float32)[[0, 0, 1]], labels, 2, num_classes=2)
    np.testing.assert_allclose(metrics["accuracy"], 2 / 3)
    assert metrics["per_class_accuracy"] == [pytest.approx(2 / 3), None]
    assert "top5_accuracy" not in metrics
