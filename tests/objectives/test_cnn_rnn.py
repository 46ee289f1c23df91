"""The label sequences of CNN-RNN: their order, their probabilities, and the search for the best."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.models import simpleconv3
from imgcls_jax.objectives import cnn_rnn

TASK = Task(3, 40, 5, 10, (16, 16, 1), class_counts=(5, 20, 10))
IMAGES = np.random.default_rng(0).normal(size=(4, 16, 16, 1)).astype(np.float32)
LABELS = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1]], np.int32)
BATCH = {"image": IMAGES, "label": LABELS}


def make(**fields):
    objective = cnn_rnn.make(
        simpleconv3.build(), TASK, **({"hidden": 12, "embedding_dim": 6, "dropout": 0.0} | fields)
    )
    params, objective_state = objective.init(jax.random.key(0), BATCH)
    params["decoder"] = jax.tree.map(lambda leaf: 3 * leaf, params["decoder"])  # some spread of the scores
    return objective, params, objective_state


def test_labels_come_in_the_order_of_their_frequency():
    tokens, used = cnn_rnn.label_sequences(LABELS, np.array([1, 2, 0]), 4)
    assert tokens.tolist() == [[1, 0, 3, 3], [3, 3, 3, 3], [1, 2, 3, 3], [1, 2, 0, 3]]
    assert used.sum(axis=1).tolist() == [3, 1, 3, 4]
    tokens, used = cnn_rnn.label_sequences(LABELS, np.array([1, 2, 0]), 3)
    assert tokens.tolist() == [[1, 0, 3], [3, 3, 3], [1, 2, 3], [1, 2, 3]]


def sequence_probabilities(params, embedding):
    """log p of every sequence without repeats, one image, by the decoder itself."""
    decoder = cnn_rnn.Decoder(3, 6, 12, 0.0)
    found = {}
    for length in range(4):
        for labels in itertools.permutations(range(3), length):
            state, before, emitted, total = decoder.first_state(1), 3, np.zeros((1, 3), bool), 0.0
            for token in (*labels, 3):
                state, scores = decoder.apply(
                    {"params": params["decoder"]}, state, jnp.array([before]), emitted, embedding, train=False
                )
                total += float(jax.nn.log_softmax(scores)[0, token])
                before = token
                if token < 3:
                    emitted = emitted | np.eye(3, dtype=bool)[[token]]
            found[labels] = total
    return found


def test_the_search_with_many_beams_is_exact():
    objective, params, objective_state = make(beams=16)
    outputs = objective.predict(params, objective_state, BATCH)
    for row in range(len(IMAGES)):
        every = sequence_probabilities(params, outputs["embedding"][row : row + 1])
        total = np.exp(list(every.values()))
        np.testing.assert_allclose(total.sum(), 1, rtol=1e-4)
        best = max(every, key=every.get)
        assert np.flatnonzero(outputs["chosen"][row]).tolist() == sorted(best)
        marginals = [sum(np.exp(p) for labels, p in every.items() if k in labels) for k in range(3)]
        np.testing.assert_allclose(outputs["probabilities"][row], marginals, rtol=1e-3)


def test_one_beam_is_greedy():
    objective, params, objective_state = make(beams=1)
    outputs = objective.predict(params, objective_state, BATCH)
    decoder = cnn_rnn.Decoder(3, 6, 12, 0.0)
    for row in range(len(IMAGES)):
        embedding = outputs["embedding"][row : row + 1]
        state, token, emitted = decoder.first_state(1), jnp.array([3]), np.zeros((1, 3), bool)
        while True:
            state, scores = decoder.apply(
                {"params": params["decoder"]}, state, token, emitted, embedding, train=False
            )
            token = jnp.argmax(scores, axis=1)
            if int(token[0]) == 3:
                break
            emitted = emitted | np.eye(3, dtype=bool)[token]
        assert outputs["chosen"][row].tolist() == emitted[0].tolist()


def test_the_loss_is_minus_the_log_probability_of_the_sequence():
    objective, params, objective_state = make()
    value, _ = objective.loss(params, objective_state, BATCH, jax.random.key(1), 0)
    features, _ = simpleconv3.build().apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        IMAGES,
        train=True,
        mutable=["batch_stats"],
    )
    sequences = [(1, 0), (), (1, 2), (1, 2, 0)]
    expected = [
        -sequence_probabilities(params, features.embedding[row : row + 1])[labels]
        for row, labels in enumerate(sequences)
    ]
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-4)


def test_it_learns_that_one_label_brings_another():
    """Labels 0 and 1 come together or not at all, which the image does not show: to independent labels that
    is two bits, to a sequence one."""
    labels = np.array([[1, 1, 0], [0, 0, 0]] * 8, np.int32)
    batch = {"image": np.zeros((16, 16, 16, 1), np.float32), "label": labels}
    objective = cnn_rnn.make(simpleconv3.build(), TASK, hidden=16, embedding_dim=16, dropout=0.0, beams=4)
    params, objective_state = objective.init(jax.random.key(0), batch)
    tx = optax.adam(0.01)
    memory = tx.init(params)

    @jax.jit
    def step(params, objective_state, memory):
        grads, (objective_state, _) = jax.grad(objective.loss, has_aux=True)(
            params, objective_state, batch, jax.random.key(0), 0
        )
        updates, memory = tx.update(grads, memory, params)
        return optax.apply_updates(params, updates), objective_state, memory

    for _ in range(300):
        params, objective_state, memory = step(params, objective_state, memory)
    # Batch norm's running statistics of images without content are its own affair: the trained step is asked.
    value, _ = objective.loss(params, objective_state, batch, jax.random.key(0), 0)
    np.testing.assert_allclose(value, np.log(2), atol=0.02)  # one bit: both labels, or none


def test_mistakes():
    with pytest.raises(ValueError, match="max_labels at most the 3"):
        cnn_rnn.make(simpleconv3.build(), TASK, max_labels=4)
    with pytest.raises(ValueError, match="orders labels by their frequency"):
        cnn_rnn.make(simpleconv3.build(), Task(3, 40, 5, 10, (16, 16, 1)))
