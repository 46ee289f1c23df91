"""Metric learning: the loss of a step against its terms, and what the centers do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.losses import arcface, center_loss, l2_normalize, softmax_cross_entropy, triplet
from imgcls_jax.models import simpleconv3
from imgcls_jax.objectives import metric_learning

TASK = Task(3, 24, steps_per_epoch=3, total_steps=6, image_shape=(16, 16, 3))
BACKBONE = simpleconv3.build(channels=(4, 4, 8), hidden=(16, 8))


def batch():
    image = np.random.default_rng(0).normal(size=(6, 16, 16, 3)).astype(np.float32)
    return {"image": image, "label": np.int32([0, 0, 1, 1, 2, 2])}


def step(**options):
    objective = metric_learning.make(BACKBONE, TASK, **options)
    params, objective_state = objective.init(jax.random.key(0), batch())
    value, (moved, metrics) = jax.jit(objective.loss)(
        params, objective_state, batch(), jax.random.key(1), jnp.int32(0)
    )
    embedding = BACKBONE.apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        batch()["image"],
        train=True,
        mutable=["batch_stats"],
    )[0].embedding
    return value, moved, metrics, params, embedding, objective


def test_the_terms_add_up():
    value, moved, metrics, params, embedding, _ = step(
        loss="arcface", margin=0.3, scale=8.0, class_weight=0.5, center_weight=0.1, triplet_weight=2.0
    )
    labels = batch()["label"]
    cosines = l2_normalize(embedding) @ l2_normalize(params["head"]["prototypes"]).T
    terms = {
        "class_loss": arcface(cosines, labels, margin=0.3, scale=8.0),
        "center_loss": center_loss(embedding, labels, jnp.zeros((3, 8))),
        "triplet_loss": triplet(l2_normalize(embedding), labels),
    }
    for name, losses in terms.items():
        np.testing.assert_allclose(metrics[name], jnp.mean(losses), rtol=2e-4)
    weights = np.array([0.5, 0.1, 2.0])
    np.testing.assert_allclose(value, weights @ [metrics[name] for name in terms], rtol=1e-5)
    # Two examples a class, and centers at 0: half of their sum over three.
    sums = np.asarray(embedding).reshape(3, 2, 8).sum(axis=1)
    np.testing.assert_allclose(moved["centers"], 0.5 * sums / 3, rtol=1e-3, atol=1e-5)


def test_softmax_alone_is_the_plain_classifier_and_predict_gives_the_embedding():
    value, moved, metrics, params, embedding, objective = step(loss="softmax")
    layer = params["head"]["classifier"]
    losses = softmax_cross_entropy(embedding @ layer["kernel"] + layer["bias"], batch()["label"])
    np.testing.assert_allclose(value, jnp.mean(losses), rtol=1e-4)
    assert "centers" not in moved and "triplet_loss" not in metrics and not objective.in_parts
    predicted = objective.predict(params, moved, batch())
    assert predicted["embedding"].shape == (6, 8) and predicted["logits"].shape == (6, 3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss": "sphereface"}, "cosface, arcface, softmax"),
        ({"class_weight": 0.0}, "all 0"),
        ({"loss": "arcface", "margin": 1.6}, "below pi / 2"),
        ({"loss": "softmax", "margin": 0.1}, "none for softmax"),
        ({"scale": 0.0}, "scale is positive"),
        ({"triplet_mining": "soft"}, "hard, all"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        metric_learning.make(BACKBONE, TASK, **options)
