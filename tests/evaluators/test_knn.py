"""The k-NN vote against values worked out by hand, brute force and scikit-learn."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from imgcls_jax.evaluators import knn

CLASSES = 4


def drawn(rows, seed, dim=6):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows).astype(np.int32)
    means = np.random.default_rng(9).normal(size=(CLASSES, dim))
    return (means[labels] + rng.normal(size=(rows, dim))).astype(np.float32), labels


SPLITS = {"train": drawn(150, 1), "test": drawn(45, 2)}


def evaluate(splits=SPLITS, batch_size=16, split="test", **options):
    """Padding repeats row 0 under another label, so that a row that should not count is noticed."""

    def open_split(name):
        embedding, labels = splits[name]
        for start in range(0, len(labels), batch_size):
            rows = np.arange(start, start + batch_size)
            mask = rows < len(labels)
            rows = np.where(mask, rows, 0)
            label = np.where(mask, labels[rows], (labels[rows] + 1) % CLASSES).astype(np.int32)
            yield {
                "image": jnp.asarray(embedding[rows]),
                "label": jnp.asarray(label),
                "mask": jnp.asarray(mask),
            }

    def predict(params, objective_state, batch):
        return {"embedding": params * batch["image"]}

    task = SimpleNamespace(num_classes=CLASSES)
    return knn.make(predict, open_split, task=task, split=split, **options)(jnp.float32(3.0), {})


def brute_force(queries, bank, k, temperature, itself=False):
    """Accuracy by float64 numpy, a query at a time."""
    labels, y = queries[1], bank[1]
    embedding, x = (np.float64(a) / np.linalg.norm(a, axis=1, keepdims=True) for a in (queries[0], bank[0]))
    hits = 0
    for i, (row, label) in enumerate(zip(embedding, labels, strict=True)):
        cosines = x @ row
        if itself:
            cosines[i] = -np.inf
        near = np.argsort(-cosines)[:k]
        scores = np.bincount(y[near], np.exp(cosines[near] / temperature), CLASSES)
        hits += scores.argmax() == label
    return hits / len(labels)


def test_weights_worked_out_by_hand():
    train = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    similarity, labels = train @ jnp.array([0.96, 0.28]), jnp.array([[0, 1, 1]])
    np.testing.assert_allclose(similarity, [0.96, 0.936, 0.28], rtol=1e-6)
    scores = knn.vote(similarity[None], labels, num_classes=2, temperature=0.07)
    np.testing.assert_allclose(scores[0] * np.exp(0.96 / 0.07), [903_730, 641_467], rtol=1e-5)
    np.testing.assert_allclose(
        knn.vote(similarity[None], labels, num_classes=2, temperature=1e-4), [[1, 0]], atol=1e-6
    )


@pytest.mark.parametrize("chunks", [(256, 16384), (8, 32)])
@pytest.mark.parametrize("split", ["test", "train"])
def test_against_brute_force(monkeypatch, chunks, split):
    monkeypatch.setattr(knn, "QUERIES", chunks[0])
    monkeypatch.setattr(knn, "EXAMPLES", chunks[1])
    metrics = evaluate(split=split, k=[1, 5, 20, 100], temperature=0.2)
    assert metrics["num_examples"] == len(SPLITS[split][1])
    for k in (1, 5, 20, 100):
        expected = brute_force(SPLITS[split], SPLITS["train"], k, 0.2, itself=split == "train")
        np.testing.assert_allclose(metrics[f"accuracy_k{k}"], expected)


def test_limits_of_k_and_temperature():
    metrics = {t: evaluate(k=(1, 7, 150), temperature=t) for t in (1e-4, 0.07, 1e6)}
    x, y = ([*SPLITS["train"][0]], SPLITS["train"][1])
    nearest = KNeighborsClassifier(1, metric="cosine").fit(x, y).score(*SPLITS["test"])
    for values in metrics.values():
        np.testing.assert_allclose(values["accuracy_k1"], nearest)
    assert metrics[1e-4]["accuracy_k150"] == pytest.approx(nearest)
    commonest = np.bincount(y).argmax()
    np.testing.assert_allclose(metrics[1e6]["accuracy_k150"], np.mean(SPLITS["test"][1] == commonest))


def test_a_doubled_training_set_with_doubled_k_decides_alike():
    doubled = SPLITS | {"train": tuple(np.concatenate([array, array]) for array in SPLITS["train"])}
    once, twice = evaluate(k=9), evaluate(doubled, k=18)
    assert once["accuracy_k9"] == twice["accuracy_k18"]


def test_batches_do_not_matter():
    assert evaluate(batch_size=7) == evaluate(batch_size=64)


def test_errors():
    with pytest.raises(ValueError, match="k of at least 1 and a positive temperature"):
        evaluate(k=[0, 5])
    with pytest.raises(ValueError, match="positive temperature"):
        evaluate(temperature=0.0)
    with pytest.raises(ValueError, match="k = 150 is more"):
        evaluate(split="train", k=150)
    broken = SPLITS | {"test": (np.full((3, 6), np.nan, np.float32), np.zeros(3, np.int32))}
    with pytest.raises(FloatingPointError, match="'test' holds a NaN"):
        evaluate(broken)
    with pytest.raises(ValueError, match="no example of the split 'test'"):
        evaluate(SPLITS | {"test": (np.zeros((0, 6), np.float32), np.zeros(0, np.int32))})


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_the_search_is_exact_over_uneven_blocks(monkeypatch, leave_one_out):
    monkeypatch.setattr(knn, "QUERIES", 7)
    monkeypatch.setattr(knn, "EXAMPLES", 32)
    bank = SPLITS["train"][0]
    queries = bank if leave_one_out else SPLITS["test"][0]
    similarity, index = knn.nearest(queries, bank, k=9, leave_one_out=leave_one_out)
    unit = [np.float64(rows) / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, bank)]
    cosines = unit[0] @ unit[1].T
    if leave_one_out:
        np.fill_diagonal(cosines, -np.inf)
    expected = np.argsort(-cosines, axis=1)[:, :9]
    assert index.tolist() == expected.tolist()
    np.testing.assert_allclose(similarity, np.take_along_axis(cosines, expected, axis=1), atol=1e-5)


def test_embeddings_of_any_magnitude_are_compared():
    bank, queries = SPLITS["train"][0].copy(), SPLITS["test"][0]
    plain = knn.nearest(queries, bank, k=9)
    bank *= np.float32(10.0) ** np.arange(-25, 25)[np.arange(len(bank)) % 50][:, None]
    similarity, index = knn.nearest(queries, bank, k=9)
    assert index.tolist() == plain[1].tolist()
    np.testing.assert_allclose(similarity, plain[0], atol=1e-5)
    bank[3] = 0  # as like to every query as what is at a right angle to it
    similarity, index = knn.nearest(queries, bank, k=len(bank))
    assert np.isfinite(similarity).all() and (similarity[index == 3] == 0).all()
