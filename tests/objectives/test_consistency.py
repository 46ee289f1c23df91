"""Mean Teacher, the Pi-model and VAT, beyond the laws that all objectives keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.losses import kl_divergence
from imgcls_jax.models import cifar_resnet
from imgcls_jax.objectives import mean_teacher, vat

TASK = Task(num_classes=3, num_examples=32, steps_per_epoch=4, total_steps=10, image_shape=(8, 8, 1))
BACKBONE = cifar_resnet.build("resnet20", blocks=1, channels=(4, 4, 8))
IMAGES = [jax.random.normal(jax.random.key(seed), (4, 8, 8, 1)) for seed in range(3)]
BATCH = {
    "labeled": {"image": IMAGES[0], "label": jnp.array([0, 1, 2, 0])},
    "views": (IMAGES[1], IMAGES[2]),
    "image": IMAGES[1],
}


def logits_of(params, state, images):
    """The network in training mode, without the objective's code."""
    variables = {"params": params["backbone"], "batch_stats": state["batch_stats"]}
    features, _ = BACKBONE.apply(variables, images, train=True, mutable=["batch_stats"])
    head = params["head"]["classifier"]
    return features.embedding @ head["kernel"] + head["bias"]


@pytest.mark.parametrize("teacher", mean_teacher.TEACHERS)
def test_the_distance_is_to_the_teachers_probabilities(teacher):
    objective = mean_teacher.make(BACKBONE, TASK, teacher=teacher, lambda_u=2.0, ramp_fraction=0.4)
    params, state = objective.init(jax.random.key(0), BATCH)
    state = state | {"ema": jax.tree.map(lambda leaf: 0.5 * leaf, state["ema"])}
    value, (_, metrics) = objective.loss(params, state, BATCH, jax.random.key(1), jnp.int32(2))
    teaching = state["ema"] if teacher == "average" else params
    own = jax.nn.softmax(logits_of(params, state, IMAGES[1]))
    taught = jax.nn.softmax(logits_of(teaching, state, IMAGES[2]))
    np.testing.assert_allclose(metrics["loss_unlabeled"], jnp.mean((own - taught) ** 2), rtol=1e-4)
    np.testing.assert_allclose(metrics["lambda_u"], 2.0 * 2 / 4)  # step 2 of a rise of 4
    np.testing.assert_allclose(value, metrics["loss_labeled"] + metrics["loss_unlabeled"], rtol=1e-6)


def test_vats_change_is_the_direction_of_the_hessian():
    """Linear logits x A: the Hessian is A (diag p - p p^T) A^T, and a step of the power method is known."""
    matrix = jax.random.normal(jax.random.key(5), (4, 3))
    images = jax.random.normal(jax.random.key(6), (2, 2, 2, 1))

    def classified(x):
        return x.reshape(2, 4) @ matrix

    logits = classified(images)
    key = jax.random.key(7)
    change = vat.adversarial_change(key, classified, images, logits, 0.5).reshape(2, 4)
    start = jax.random.normal(key, images.shape).reshape(2, 4)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    for row in range(2):
        fisher = np.diag(p[row]) - np.outer(p[row], p[row])
        expected = np.asarray(matrix) @ fisher @ np.asarray(matrix).T @ np.asarray(start[row])
        expected *= 0.5 / np.linalg.norm(expected)
        np.testing.assert_allclose(change[row], expected, rtol=1e-4, atol=1e-6)


def test_vats_change_alters_the_prediction_more_than_chance():
    objective = vat.make(BACKBONE, TASK, epsilon=0.5)
    params, state = objective.init(jax.random.key(0), BATCH)
    clean = logits_of(params, state, IMAGES[1])

    def divergence(change):
        return float(jnp.mean(kl_divergence(clean, logits_of(params, state, IMAGES[1] + change))))

    found = vat.adversarial_change(
        jax.random.key(3), lambda x: logits_of(params, state, x), IMAGES[1], clean, 0.5
    )
    np.testing.assert_allclose(jnp.sqrt(jnp.sum(found**2, axis=(1, 2, 3))), 0.5, rtol=1e-5)
    drawn = [jax.random.normal(jax.random.key(seed), found.shape) for seed in range(5)]
    drawn = [0.5 * d / jnp.sqrt(jnp.sum(d**2, axis=(1, 2, 3), keepdims=True)) for d in drawn]
    assert divergence(found) > 2 * max(map(divergence, drawn))
