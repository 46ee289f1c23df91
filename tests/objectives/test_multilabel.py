"""What the sigmoid objective computes, beyond the laws that all objectives keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.losses import sigmoid_asymmetric, sigmoid_cross_entropy, sigmoid_focal
from imgcls_jax.models import simpleconv3
from imgcls_jax.objectives import multilabel

TASK = Task(4, 40, 5, 10, (16, 16, 1), class_counts=(10, 20, 5, 1))
BATCH = {
    "image": np.random.default_rng(0).normal(size=(6, 16, 16, 1)).astype(np.float32),
    "label": np.random.default_rng(1).integers(0, 2, (6, 4)).astype(np.int32),
}


def loss_and_logits(**fields):
    objective = multilabel.make(simpleconv3.build(), TASK, **fields)
    params, objective_state = objective.init(jax.random.key(0), BATCH)
    value, _ = objective.loss(params, objective_state, BATCH, jax.random.key(1), 0)
    features, _ = simpleconv3.build().apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        BATCH["image"],
        train=True,
        mutable=["batch_stats"],
    )
    layer = params["head"]["classifier"]
    return (
        float(value),
        features.embedding @ layer["kernel"] + layer["bias"],
        objective,
        params,
        objective_state,
    )


def test_the_losses():
    value, logits, *_ = loss_and_logits()
    np.testing.assert_allclose(value, jnp.mean(sigmoid_cross_entropy(logits, BATCH["label"])), rtol=1e-5)
    value, logits, *_ = loss_and_logits(loss="focal", alpha=0.5, gamma=1.0)
    expected = jnp.mean(sigmoid_focal(logits, BATCH["label"], alpha=0.5, gamma=1.0))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    value, logits, *_ = loss_and_logits(loss="asymmetric", negative_gamma=2.0, shift=0.1)
    expected = jnp.mean(sigmoid_asymmetric(logits, BATCH["label"], negative_gamma=2.0, shift=0.1))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    value, logits, *_ = loss_and_logits(positive_weights="balanced")
    weights = np.array([3.0, 1.0, 7.0, 39.0])
    expected = jnp.mean(sigmoid_cross_entropy(logits, BATCH["label"], positive_weight=weights))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_probabilities_are_sigmoids():
    *_, objective, params, objective_state = loss_and_logits()
    outputs = objective.predict(params, objective_state, BATCH)
    np.testing.assert_allclose(outputs["probabilities"], jax.nn.sigmoid(outputs["logits"]))


@pytest.mark.parametrize("weights", ["even", (1.0, 2.0), (1.0, 1.0, 1.0, 0.0)])
def test_mistakes(weights):
    with pytest.raises(ValueError, match="positive_weights"):
        multilabel.make(simpleconv3.build(), TASK, positive_weights=weights)
    with pytest.raises(ValueError, match="objective.loss is one of"):
        multilabel.make(simpleconv3.build(), TASK, loss="hinge")
    with pytest.raises(ValueError, match="objective.shift lies in"):
        multilabel.make(simpleconv3.build(), TASK, loss="asymmetric", shift=1.0)
