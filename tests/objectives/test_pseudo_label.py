"""What the pseudo-label and entropy baselines compute, beyond the laws that all objectives keep."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.layers.features import Features
from imgcls_jax.objectives import pseudo_label

TASK = Task(num_classes=4, num_examples=32, steps_per_epoch=4, total_steps=100, image_shape=(4, 4, 1))
AFTER_RAMP = jnp.int32(90)


class Small(nn.Module):
    """One layer with batch norm: what these tests need of a backbone, quickly compiled."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(7, name="fc1")(images.reshape(len(images), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn1")(x))
        return Features(images, x)


def batch():
    rng = np.random.default_rng(0)
    draw = lambda rows: rng.normal(size=(rows, *TASK.image_shape)).astype(np.float32)  # noqa: E731
    return {"labeled": {"image": draw(6), "label": np.arange(6, dtype=np.int32) % 4}, "image": draw(5)}


def make(**options):
    return pseudo_label.make(Small(), TASK, **options)


@pytest.fixture(scope="module")
def start():
    """Params that are sure of some rows, and objective_state."""
    params, objective_state = make().init(jax.random.key(0), batch())
    params["head"] = jax.tree.map(lambda leaf: 4 * leaf, params["head"])
    return params, objective_state


def forward(params, objective_state, images):
    features, moved = Small().apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        images,
        train=True,
        mutable=["batch_stats"],
    )
    layer = params["head"]["classifier"]
    return features.embedding @ layer["kernel"] + layer["bias"], moved["batch_stats"]


def loss_of(objective, start, step=AFTER_RAMP):
    return objective.loss(*start, batch(), jax.random.key(1), step)


def supervised_part(params, objective_state):
    values = batch()["labeled"]
    return -jnp.mean(
        jax.nn.log_softmax(forward(params, objective_state, values["image"])[0])[
            np.arange(6), values["label"]
        ]
    )


def test_the_term_is_cross_entropy_with_the_own_prediction_where_sure(start):
    log_p = np.asarray(jax.nn.log_softmax(forward(*start, batch()["image"])[0]))
    confidences = np.exp(log_p.max(axis=1))
    threshold = float(np.sort(confidences)[2:4].mean())  # two rows are above it
    value, (_, metrics) = loss_of(make(threshold=threshold, lambda_u=3.0), start)
    expected = -log_p.max(axis=1)[confidences > threshold].sum() / 5
    np.testing.assert_allclose(metrics["loss_labeled"], supervised_part(*start), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_unlabeled"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["confident"], 2 / 5, rtol=1e-6)
    np.testing.assert_allclose(value, metrics["loss_labeled"] + 3 * metrics["loss_unlabeled"], rtol=1e-6)


def test_the_entropy_is_that_of_the_prediction(start):
    value, (_, metrics) = loss_of(make(term="entropy", lambda_u=0.06, ramp_fraction=0.0), start, jnp.int32(0))
    log_p = np.asarray(jax.nn.log_softmax(forward(*start, batch()["image"])[0]))
    np.testing.assert_allclose(
        metrics["loss_unlabeled"], -(np.exp(log_p) * log_p).sum(axis=1).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(value, metrics["loss_labeled"] + 0.06 * metrics["loss_unlabeled"], rtol=1e-6)


def test_from_a_threshold_of_one_on_it_is_supervised(start):
    objective = make(threshold=1.0)
    sure = start[0] | {"head": jax.tree.map(lambda leaf: 1e4 * leaf, start[0]["head"])}  # probabilities of 1
    _, (_, metrics) = loss_of(objective, (sure, start[1]))
    assert metrics["loss_unlabeled"] == 0 and metrics["confident"] == 0
    own, _ = jax.grad(objective.loss, has_aux=True)(*start, batch(), jax.random.key(1), AFTER_RAMP)
    expected = jax.grad(supervised_part)(*start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), own, expected)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (20, 0.5), (40, 1.0), (99, 1.0)])
def test_the_weight_rises_over_40_percent_of_training(start, step, share):
    _, (_, metrics) = loss_of(make(lambda_u=2.0), start, jnp.int32(step))
    np.testing.assert_allclose(metrics["lambda_u"], 2 * share, rtol=1e-6)


def test_the_running_statistics_follow_the_labeled_pass(start):
    _, (moved, _) = loss_of(make(), start)
    expected = forward(*start, batch()["labeled"]["image"])[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), moved["batch_stats"], expected
    )


def test_prediction_is_by_averaged_weights(start):
    params, objective_state = start
    objective = make(ema_decay=0.9, ema_warmup=False)
    objective_state = objective.after_update(
        jax.tree.map(jnp.zeros_like, params), objective_state, jnp.int32(0)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 0.9 * b, rtol=1e-5),
        objective_state["ema"]["backbone"],
        params["backbone"],
    )
    by_average = make(ema_decay=0.0).predict(
        objective_state["ema"], objective_state | {"ema": objective_state["ema"]}, batch()
    )
    np.testing.assert_allclose(
        objective.predict(params, objective_state, batch())["logits"], by_average["logits"], rtol=1e-5
    )
    assert "ema" not in make(ema_decay=0.0).init(jax.random.key(0), batch())[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"term": "consistency"}, "objective.term is one of pseudo_label, entropy; got 'consistency'"),
        ({"threshold": -0.1}, "objective.threshold is at least 0; got -0.1"),
        ({"lambda_u": -1.0}, "objective.lambda_u is at least 0; got -1.0"),
        ({"ramp_fraction": 1.5}, r"objective.ramp_fraction lies in \[0, 1\]; got 1.5"),
    ],
)
def test_bad_hyper_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
