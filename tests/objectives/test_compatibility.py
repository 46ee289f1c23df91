"""What the bilinear compatibility computes, beyond the laws that all objectives keep."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.losses import ale_loss, devise_loss, sje_loss
from imgcls_jax.models import simpleconv3
from imgcls_jax.objectives import compatibility

# Of three classes the last has no image.
TASK = Task(3, 8, 1, 1, (8, 8, 1), class_counts=(5, 3, 0), signatures=((3.0, 4.0), (0.0, 2.0), (1.0, 0.0)))
PSI = np.array([[0.6, 0.8], [0, 1], [1, 0]], np.float32)
BATCH = {
    "image": np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32),
    "label": np.array([0, 0, 0, 0, 0, 1, 1, 1], np.int32),
}
BACKBONE = simpleconv3.build(channels=(4, 4, 4), hidden=(8,))


@pytest.fixture(scope="module")
def started():
    objective = compatibility.make(BACKBONE, TASK, loss="ale")
    return objective.init(jax.random.key(0), BATCH)


def head_of(params, embedding):
    return embedding @ params["head"]["classifier"]["kernel"] + params["head"]["classifier"]["bias"]


@pytest.mark.parametrize(
    ("name", "expected", "margin"), [("devise", devise_loss, 0.1), ("sje", sje_loss, 1), ("ale", ale_loss, 1)]
)
def test_the_losses_compare_the_classes_with_images(started, name, expected, margin):
    params, objective_state = started
    objective = compatibility.make(BACKBONE, TASK, loss=name)
    (value, (_, metrics)), gradients = jax.value_and_grad(objective.loss, has_aux=True)(
        params, objective_state, BATCH, jax.random.key(1), 0
    )
    features, _ = BACKBONE.apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        BATCH["image"],
        train=True,
        mutable=["batch_stats"],
    )
    scores = head_of(params, features.embedding) @ PSI[:2].T
    losses = expected(scores, BATCH["label"], margin=margin)
    np.testing.assert_allclose(value, jnp.mean(losses), rtol=1e-5)
    assert metrics["accuracy"] == np.mean(np.argmax(scores, axis=1) == BATCH["label"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    wider = compatibility.make(BACKBONE, TASK, loss=name, margin=2.0 * margin)
    assert wider.loss(params, objective_state, BATCH, jax.random.key(1), 0)[0] > value


def test_every_class_with_a_signature_is_scored(started):
    params, objective_state = started
    outputs = compatibility.make(BACKBONE, TASK, loss="ale").predict(params, objective_state, BATCH)
    expected = head_of(params, outputs["embedding"]) @ PSI.T
    assert outputs["logits"].shape == (8, 3)
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-5, atol=1e-6)


def test_a_longer_signature_says_the_same(started):
    params, objective_state = started
    longer = tuple(tuple(7 * value for value in row) for row in TASK.signatures)
    found = [
        compatibility.make(BACKBONE, dataclasses.replace(TASK, signatures=rows), loss="sje").predict(
            params, objective_state, BATCH
        )["logits"]
        for rows in (TASK.signatures, longer)
    ]
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


def test_mistakes():
    with pytest.raises(ValueError, match="set config.data.signatures to a file"):
        compatibility.make(BACKBONE, dataclasses.replace(TASK, signatures=()), loss="ale")
    with pytest.raises(ValueError, match="objective.loss is one of devise, sje, ale; got 'hinge'"):
        compatibility.make(BACKBONE, TASK, loss="hinge")
    with pytest.raises(ValueError, match="objective.margin is at least 0; got -1"):
        compatibility.make(BACKBONE, TASK, loss="ale", margin=-1.0)
