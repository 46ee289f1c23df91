"""Zero-shot evaluators: closed forms against printed values, and laws that hold whatever the data."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.preprocessing import normalize

from imgcls_jax.contracts.objective import Task
from imgcls_jax.data.subsets import stratified_split
from imgcls_jax.evaluators import dap, eszsl, zero_shot

# Six classes of three attributes, of which the first four are learned.
SIGNATURES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [1, 1, 0], [0, 1, 1]], np.float64)
LEARNED = np.arange(6) < 4
TASK = Task(
    num_classes=6,
    num_examples=40,
    steps_per_epoch=1,
    total_steps=1,
    image_shape=(1, 1, 1),
    class_counts=(10,) * 4 + (0, 0),
    signatures=tuple(map(tuple, SIGNATURES.tolist())),
)


def drawn(classes, rows):
    """Images whose embedding is the signature of their class."""
    labels = np.repeat(classes, rows).astype(np.int32)
    return SIGNATURES[labels], labels


def splits(**given):
    def open_split(name):
        images, labels = given[name]
        yield {
            "image": jnp.asarray(images, jnp.float32),
            "label": jnp.asarray(labels),
            "mask": jnp.ones(len(labels), bool),
        }

    return open_split


def embed(params, objective_state, batch):
    return {"embedding": batch["image"]}


SPLITS = {"train": drawn(range(4), 10), "test": drawn(range(4), 5), "unknown:test": drawn([4, 5], 5)}


@pytest.mark.parametrize(
    ("exponents", "expected"),
    [
        ((0, 0), [[0.308824, 0.014706], [0.014706, 0.191176]]),
        ((1, -1), [[0.146089, 0.000283], [0.028312, 0.077574]]),
    ],
)
def test_eszsl_by_hand(exponents, expected):
    embeddings = np.array([[1.0, 0], [0, 1], [1, 1]])
    # The signature of the third class, which is not learned, changes nothing.
    signatures = np.array([[1, 0.5], [0, 1], [9, 9]])
    solved = eszsl.Eszsl(embeddings, np.array([0, 1, 0]), signatures, np.array([True, True, False]))
    np.testing.assert_allclose(solved.weights(*exponents), expected, atol=1e-6)


def test_eszsl_is_the_minimum_of_its_objective():
    rng = np.random.default_rng(0)
    x, labels, s = rng.normal(size=(12, 5)), np.arange(12) % 4, rng.normal(size=(4, 3))
    y, a, g = np.eye(4)[labels], 10.0**-0.5, 10.0**0.3
    w = eszsl.Eszsl(x, labels, s, np.ones(4, bool)).weights(-0.5, 0.3)
    gradient = x.T @ (x @ w @ s.T - y) @ s + a * w @ s.T @ s + g * x.T @ x @ w + a * g * w
    np.testing.assert_allclose(gradient, 0, atol=1e-10)


def test_dap_by_hand():
    p = np.array([[0.9, 0.2], [0.4, 0.7]])
    classes = np.array([[1, 0], [0, 1], [1, 1]], bool)
    found = dap.scores(np.log(p / (1 - p)), classes, np.array([0.5, 0.25]))
    expected = [[0.652325, -1.832581, 0.364643], [-1.139434, 1.211941, 0.806476]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_attributes_that_learned_classes_share_are_left_out():
    signatures = np.array([[80.0, 5, 30], [60, 5, 10], [0, 90, 0]])
    found = dap.binary_attributes(signatures, np.array([True, True, False]))
    np.testing.assert_array_equal(found, [[True, True], [False, False], [False, False]])
    with pytest.raises(ValueError, match="all have the same signature"):
        dap.binary_attributes(np.ones((3, 2)), np.array([True, True, False]))


@pytest.mark.parametrize(("evaluator", "options"), [(eszsl, {"folds": 2}), (dap, {"C": 1000.0})])
def test_perfect_attributes_find_classes_never_seen(evaluator, options):
    run = evaluator.make(embed, splits(**SPLITS), task=TASK, split="test", **options)
    found = run({}, {})
    assert (found["num_examples"], found["num_seen"]) == (10, 20)
    assert found["accuracy"] == 1.0
    assert run({}, {}) == found


def test_no_unseen_class_takes_part_in_a_choice():
    rng = np.random.default_rng(0)
    signatures = normalize(rng.normal(size=(6, 4)))
    labels = np.arange(48, dtype=np.int32) % 4
    rows = signatures[labels] + 0.5 * rng.normal(size=(48, 4))
    grid = [(a, g) for a in (-1.0, 0.0, 1.0) for g in (-1.0, 0.0, 1.0)]
    chosen = eszsl.choose(rows, labels, signatures, LEARNED, grid=grid, folds=2, seed=0)
    others = np.where(LEARNED[:, None], signatures, 77.0)
    assert eszsl.choose(rows, labels, others, LEARNED, grid=grid, folds=2, seed=0) == chosen
    # The same choice with inverses in place of eigenvectors, and two classes held out of four.
    classes = np.random.default_rng(0).permutation(4)
    kept_back = stratified_split(labels, 0.2, 0)[1]
    rates = np.zeros((2, len(grid)))
    for fold, at in np.ndindex(rates.shape):
        new, known = classes[fold::2], classes[1 - fold :: 2]
        own = np.setdiff1d(np.flatnonzero(np.isin(labels, known)), kept_back)
        x, y, s = rows[own], (labels[own][:, None] == known).astype(float), signatures[known]
        alpha, gamma = 10.0 ** np.array(grid[at])
        w = np.linalg.inv(x.T @ x + alpha * np.eye(4)) @ x.T @ y @ s
        scores = rows @ w @ np.linalg.inv(s.T @ s + gamma * np.eye(4)) @ signatures[new].T
        hits = new[scores.argmax(axis=1)] == labels
        rates[fold, at] = np.mean([hits[labels == c].mean() for c in new])
    assert chosen[:2] == grid[int(rates.mean(axis=0).argmax())]
    assert chosen.held_out_accuracy == pytest.approx(rates.mean(axis=0).max())


def test_a_network_s_own_scores():
    def predict(params, objective_state, batch):
        return {"logits": batch["image"] @ jnp.asarray(SIGNATURES.T, jnp.float32)}

    labels = np.array([0, 0, 0, 1], np.int32)
    opened = splits(any=(np.eye(3)[[0, 0, 1, 1]], labels), **SPLITS)
    plain = zero_shot.make(predict, opened, task=TASK, split="any")({}, {})
    assert plain == {"num_examples": 4, "accuracy": 0.75, "class_mean_accuracy": pytest.approx(5 / 6)}
    options = dict(task=TASK, split="test", unseen_split="unknown:test")
    found = zero_shot.make(predict, opened, delta=1.5, **options)({}, {})
    assert found["accuracy"] == 1.0
    # The image (1, 1, 0) of class 4 has the score 2 for it, and 2 for class 3 = (1, 1, 1), which comes first.
    assert (found["generalized_unseen"], found["generalized_seen"]) == (0.0, 1.0)
    # 1.5 less for what is learned: class 3 still wins its own images, 3 - 1.5 = 1.5 to 2 it does not.
    assert (found["calibrated_unseen"], found["calibrated_seen"]) == (1.0, 0.0)


@pytest.mark.parametrize("evaluator", [eszsl, dap])
def test_mistakes(evaluator):
    with pytest.raises(ValueError, match="set config.data.signatures to their file"):
        task = dataclasses.replace(TASK, signatures=())
        evaluator.make(embed, None, task=task, split="test")
    with pytest.raises(ValueError, match="all 6 classes of the run are learned"):
        task = dataclasses.replace(TASK, class_counts=(1,) * 6)
        evaluator.make(embed, None, task=task, split="test")
    with pytest.raises(ValueError, match="positive C" if evaluator is dap else "from 2 to half of the 4"):
        evaluator.make(embed, None, task=TASK, split="test", **({"C": 0.0} if evaluator is dap else {}))


def test_too_few_images_to_keep_some_back():
    with pytest.raises(ValueError, match="keeps 20% of each class's images back, and none has enough"):
        eszsl.choose(*drawn(range(4), 2), SIGNATURES, LEARNED, grid=[(0.0, 0.0)], folds=2, seed=0)
