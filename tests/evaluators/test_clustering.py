"""Clustering metrics against a table, brute force and scikit-learn, over uneven batches."""

from itertools import permutations
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

from imgcls_jax.evaluators import clustering
from imgcls_jax.evaluators.clustering import majority_classes, one_to_one_accuracy

CLASSES = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2], np.int32)
CLUSTERS = np.array([1, 1, 1, 0, 0, 2, 2, 2, 2], np.int32)


def evaluate(splits, num_classes=3, batch_size=4, **options):
    """splits: {name: (outputs {key: [N, ...]}, labels [N])}."""

    def open_split(name):
        outputs, labels = splits[name]
        for start in range(0, len(labels), batch_size):
            rows = np.arange(start, start + batch_size)
            mask = rows < len(labels)
            rows = np.where(mask, rows, 0)
            columns = {key: jnp.asarray(value[rows], jnp.float32) for key, value in outputs.items()}
            yield columns | {"label": jnp.asarray(labels[rows]), "mask": jnp.asarray(mask)}

    def predict(params, objective_state, batch):
        return {key: value for key, value in batch.items() if key not in ("label", "mask")}

    options = {"split": "test", "task": SimpleNamespace(num_classes=num_classes)} | options
    return clustering.make(predict, open_split, **options)({}, {})


def test_the_table():
    metrics = evaluate({"test": ({"logits": np.eye(3)[CLUSTERS]}, CLASSES)})
    assert metrics["num_examples"] == 9 and metrics["num_clusters"] == 3
    np.testing.assert_allclose(metrics["accuracy"], 8 / 9)
    np.testing.assert_allclose([metrics["nmi"], metrics["ari"]], [0.786013, 0.642857], atol=1e-6)
    assert "mapped_accuracy" not in metrics and "silhouette" not in metrics


@pytest.mark.parametrize("seed", range(5))
def test_one_to_one_accuracy_is_the_best_of_all_permutations(seed):
    rng = np.random.default_rng(seed)
    labels, clusters = rng.integers(0, 4, 60), rng.integers(0, 6, 60)
    best = max(np.mean(np.array(p)[clusters] == labels) for p in permutations(range(6)))
    np.testing.assert_allclose(one_to_one_accuracy(clusters, labels), best)
    np.testing.assert_allclose(one_to_one_accuracy(rng.permutation(6)[clusters], labels), best)


def test_extremes():
    labels = np.arange(12) % 4
    assert one_to_one_accuracy(labels[::-1], labels) == 1
    assert one_to_one_accuracy(np.zeros(12, int), labels) == 0.25
    metrics = evaluate({"test": ({"logits": np.eye(5)[np.zeros(12, int)]}, labels)}, 4)
    assert metrics["nmi"] == 0 and metrics["accuracy"] == 0.25


def test_the_many_to_one_map_is_fit_on_the_split_it_is_told():
    assert majority_classes(np.array([5, 5, 5, 2, 2]), np.array([1, 1, 0, 3, 0])) == {2: 0, 5: 1}
    train = ({"logits": np.eye(5)[[0, 0, 1, 2, 2, 2]]}, np.int32([1, 1, 0, 2, 2, 0]))
    test = ({"logits": np.eye(5)[[0, 1, 2, 3, 0]]}, np.int32([1, 0, 2, 0, 2]))  # cluster 3: unknown
    metrics = evaluate({"train": train, "test": test}, fit_split="train")
    np.testing.assert_allclose(metrics["mapped_accuracy"], 3 / 5)


def test_sub_heads_are_averaged_and_the_best_is_named():
    rng = np.random.default_rng(0)
    labels = np.arange(30, dtype=np.int32) % 3
    subheads = np.stack([np.eye(3)[labels], rng.normal(size=(30, 3))], axis=1)  # [B, S, K]
    metrics = evaluate({"test": ({"logits": subheads[:, 1], "subhead_logits": subheads}, labels)}, 3)
    worse = one_to_one_accuracy(subheads[:, 1].argmax(1), labels)
    assert metrics["accuracy"] == worse < 1 and metrics["subhead_accuracy_best"] == 1
    np.testing.assert_allclose(metrics["subhead_accuracy_mean"], (1 + worse) / 2)


@pytest.mark.parametrize("fit_split", ["", "train"])
def test_embeddings_are_clustered_by_kmeans(fit_split):
    rng = np.random.default_rng(1)
    labels = np.arange(61, dtype=np.int32) % 3
    points = (10 * np.eye(3)[labels] + rng.normal(size=(61, 3))).astype(np.float32)
    split = ({"embedding": points}, labels)
    metrics = evaluate({"train": split, "test": split}, key="embedding", fit_split=fit_split)
    assert metrics["accuracy"] == metrics["nmi"] == 1
    assert metrics.get("mapped_accuracy") == (1 if fit_split else None)
    np.testing.assert_allclose(metrics["silhouette"], silhouette_score(points, labels), rtol=1e-4)
    finer = evaluate({"test": split}, key="embedding", num_clusters=6)
    assert finer["num_clusters"] == 6 and finer["accuracy"] < 1


def test_against_scikit_learn_whatever_the_batches():
    rng = np.random.default_rng(2)
    labels, logits = rng.integers(0, 3, 50).astype(np.int32), rng.normal(size=(50, 4)).astype(np.float32)
    embedding = rng.normal(size=(50, 6)).astype(np.float32)
    splits = {"test": ({"logits": logits, "embedding": embedding}, labels)}
    one, other = (evaluate(splits, batch_size=size) for size in (7, 64))
    assert one == other
    clusters = logits.argmax(1)
    np.testing.assert_allclose(one["nmi"], normalized_mutual_info_score(labels, clusters))
    np.testing.assert_allclose(one["ari"], adjusted_rand_score(labels, clusters))
    np.testing.assert_allclose(one["silhouette"], silhouette_score(embedding, clusters), rtol=1e-5)
    assert "silhouette" not in evaluate(splits, silhouette_examples=0)


def test_what_cannot_be_evaluated_is_named():
    logits = {"logits": np.eye(3)[CLUSTERS]}
    with pytest.raises(ValueError, match="the prediction has no output 'scores'; it has logits"):
        evaluate({"test": (logits, CLASSES)}, key="scores")
    with pytest.raises(ValueError, match="no example of the split 'test'"):
        evaluate({"test": (logits, CLASSES[:0])})
    with pytest.raises(FloatingPointError, match="NaN"):
        evaluate({"test": ({"logits": np.full((9, 3), np.nan)}, CLASSES)})
