"""Known against unknown: thresholds and areas worked out by hand, and a run's held-out classes."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.config.resolve import resolve_data
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.evaluators import open_set

KNOWN = np.array([0.9, 0.8, 0.7, 0.6, 0.2])


@pytest.mark.parametrize(
    ("accept", "threshold", "false_accepts"), [(0.8, 0.6, 0.5), (0.6, 0.7, 0.25), (0.95, 0.2, 0.75)]
)
def test_worked_out_by_hand(accept, threshold, false_accepts):
    unknown = np.array([0.1, 0.3, 0.6, 0.85])
    found = open_set.separation(KNOWN, unknown, accept=accept)
    assert (found["threshold"], found["false_accepts"]) == (threshold, false_accepts)
    # Above the unknown of 0.1 lie five known scores, of 0.3 four, of 0.6 three and an equal one, of 0.85 one.
    assert found["auroc"] == pytest.approx((5 + 4 + 3.5 + 1) / 20)


def test_the_scores_of_a_network():
    rng = np.random.default_rng(0)
    logits = {
        name: rng.normal(size=(n, 3)).astype(np.float32) for name, n in dict(a=20, b=10, train=15).items()
    }
    labels = {name: np.zeros(len(rows), np.int32) for name, rows in logits.items()}

    def open_split(name):
        for rows in np.array_split(np.arange(len(labels[name])), 3):
            image, label = jnp.asarray(logits[name][rows]), jnp.asarray(labels[name][rows])
            yield {"image": image, "label": label, "mask": jnp.ones(len(rows), bool)}

    def predict(params, objective_state, batch):
        return {"logits": batch["image"], "embedding": batch["image"]}

    options = dict(task=SimpleNamespace(), split="a", unknown_split="b")
    metrics = open_set.make(predict, open_split, train_split="train", **options)({}, {})
    assert (metrics["num_examples"], metrics["num_unknown"]) == (20, 10)
    assert metrics["accuracy"] == np.mean(logits["a"].argmax(axis=1) == 0)
    exponents = {name: np.exp(np.float64(rows)) for name, rows in logits.items()}
    units = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in logits.items()}
    scores = {
        "max_probability": {n: (e / e.sum(axis=1, keepdims=True)).max(axis=1) for n, e in exponents.items()},
        "max_logit": {n: rows.max(axis=1) for n, rows in logits.items()},
        "nearest_cosine": {n: (rows @ units["train"].T).max(axis=1) for n, rows in units.items()},
    }
    for name, score in scores.items():
        for key, value in open_set.separation(score["a"], score["b"], accept=0.95).items():
            assert metrics[f"{name}_{key}"] == pytest.approx(value, abs=1e-6)
    assert not any("cosine" in name for name in open_set.make(predict, open_split, **options)({}, {}))
    with pytest.raises(ValueError, match="accept lies between 0 and 1"):
        open_set.make(predict, open_split, accept=1.0, **options)


def test_held_out_classes_are_the_rest_of_every_split():
    section = dict(
        source="digits", train_transforms="normalize(0.5, 0.5)", eval_transforms="normalize(0.5, 0.5)"
    )
    whole, data = DataSide(resolve_data(section)), DataSide(resolve_data(section | {"known_classes": 8}))
    assert data.training.class_names == whole.training.class_names[:8] and len(data.class_counts) == 8
    for split in ("train", "test"):
        known, unknown = data.source(split), data.source(f"unknown:{split}")
        assert set(known.labels) == set(range(8)) and set(unknown.labels) == {8, 9}
        assert len(known) + len(unknown) == len(whole.source(split))
        batches = data.eval_batches(f"unknown:{split}", 64, data.training.class_names)
        assert sum(batches[i]["mask"].sum() for i in range(len(batches))) == len(unknown)
    with pytest.raises(
        ValueError, match="known_classes: every split and its unknown:SPLIT share out 10 classes"
    ):
        DataSide(resolve_data(section | {"known_classes": 10})).source("train")
    with pytest.raises(ValueError, match="lies between 1 and 9; got 0"):
        whole.source("unknown:test")
