"""What the supervised objective computes, beyond the laws that all objectives keep."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.layers.features import Features
from imgcls_jax.losses import (
    class_weighted_mean,
    effective_number_weights,
    inverse_frequency_weights,
    softmax_cross_entropy,
    softmax_focal,
)
from imgcls_jax.models import simpleconv3
from imgcls_jax.objectives import supervised
from imgcls_jax.train.step import make_init, make_train_step

TASK = Task(num_classes=4, num_examples=32, steps_per_epoch=4, total_steps=8, image_shape=(8, 8, 1))


def batch(rows=8):
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(rows, *TASK.image_shape)).astype(np.float32),
        "label": np.arange(rows, dtype=np.int32) % 4,
    }


def make(**options):
    return supervised.make(simpleconv3.build(), TASK, **options)


def loss_of(objective, params, objective_state, values=None, seed=0):
    return objective.loss(params, objective_state, values or batch(), jax.random.key(seed), jnp.int32(0))


def test_the_loss_is_cross_entropy_of_its_own_training_logits():
    objective = make()
    params, objective_state = objective.init(jax.random.key(0), batch())
    value, (new_carry, metrics) = loss_of(objective, params, objective_state)
    features, moved = simpleconv3.build().apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        batch()["image"],
        train=True,
        mutable=["batch_stats"],
    )
    layer = params["head"]["classifier"]
    logits = np.asarray(features.embedding @ layer["kernel"] + layer["bias"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(value, -log_p[np.arange(8), batch()["label"]].mean(), rtol=1e-5)
    assert metrics["loss"] == value
    jax.tree.map(np.testing.assert_array_equal, new_carry["batch_stats"], moved["batch_stats"])


def test_class_weights_weigh_and_label_smoothing_changes_the_loss():
    params, objective_state = make().init(jax.random.key(0), batch())
    plain = loss_of(make(), params, objective_state)[0]
    np.testing.assert_allclose(
        loss_of(make(class_weights=[2.0] * 4), params, objective_state)[0], plain, rtol=1e-6
    )
    only_first = loss_of(make(class_weights=[1.0, 0, 0, 0]), params, objective_state)[0]
    per_class = [loss_of(make(class_weights=np.eye(4)[k]), params, objective_state)[0] for k in range(4)]
    np.testing.assert_allclose(np.mean(per_class), plain, rtol=1e-5)
    assert not np.isclose(only_first, plain, rtol=1e-3)
    assert not np.isclose(loss_of(make(label_smoothing=0.2), params, objective_state)[0], plain, rtol=1e-4)
    with pytest.raises(ValueError, match="class_weights needs 4 numbers"):
        make(class_weights=[1.0, 2.0])


def test_mixup_and_cutmix_are_drawn_from_the_key():
    objective = make(mixup_alpha=1.0, cutmix_alpha=1.0)
    params, objective_state = objective.init(jax.random.key(0), batch())
    values = {float(loss_of(objective, params, objective_state, seed=seed)[0]) for seed in range(4)}
    assert len(values) == 4
    assert (
        loss_of(objective, params, objective_state, seed=1)[0]
        == loss_of(objective, params, objective_state, seed=1)[0]
    )


def test_ema_follows_its_formula_and_serves_prediction():
    objective, tx = make(ema_decay=0.75), optax.sgd(0.1)
    state = make_init(objective, tx, batch())(jax.random.key(0))
    start = state.params
    state, _ = jax.jit(make_train_step(objective, tx, lambda rng, values: values))(state, batch())
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, start, state.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.objective_state["ema"], expected
    )
    by_ema = objective.predict(state.params, state.objective_state, batch())["logits"]
    as_params = make().predict(
        expected, {key: state.objective_state[key] for key in ("batch_stats", "head_state")}, batch()
    )["logits"]
    np.testing.assert_allclose(by_ema, as_params, atol=1e-5)
    with pytest.raises(ValueError, match="ema_decay"):
        make(ema_decay=1.5)


def test_prediction_ignores_the_rest_of_the_batch():
    objective = make(dropout=0.5)
    params, objective_state = objective.init(jax.random.key(0), batch())
    whole = objective.predict(params, objective_state, batch())["logits"]
    one = objective.predict(params, objective_state, {"image": batch()["image"][:1]})["logits"]
    np.testing.assert_allclose(whole[:1], one, atol=1e-5)


class TwoOutlets(nn.Module):
    """A backbone with two side outputs and another head than the usual."""

    head: ClassVar[str] = "conv_pool"
    aux_weight: ClassVar[float] = 0.3

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(5, (3, 3), name="conv")(images)
        side = nn.Dense(6, name="side")(jnp.mean(x, axis=(1, 2))) if train or self.is_initializing() else None
        return Features(x, jnp.mean(x, axis=(1, 2)), (side, 0 * side) if side is not None else ())


def test_auxiliary_heads_add_their_weighted_losses_while_training():
    objective = supervised.make(TwoOutlets(), TASK)
    params, objective_state = objective.init(jax.random.key(0), batch())
    assert set(params) == {"backbone", "head", "aux_head_0", "aux_head_1"}
    params = jax.tree.map(jnp.zeros_like, params)  # every logit 0: every loss log 4
    value, _ = loss_of(objective, params, objective_state)
    np.testing.assert_allclose(value, 1.6 * np.log(4), rtol=1e-6)
    assert objective.predict(params, objective_state, batch())["logits"].shape == (8, 4)


def test_the_head_is_the_backbones_own_or_the_one_asked_for():
    own = supervised.make(TwoOutlets(), TASK)
    asked = supervised.make(TwoOutlets(), TASK, head="linear")
    params, objective_state = own.init(jax.random.key(0), batch())
    assert np.all(own.predict(params, objective_state, batch())["logits"] >= 0)
    assert np.any(asked.predict(params, objective_state, batch())["logits"] < 0)
    with pytest.raises(ValueError, match="has no head 'liner'; it has bilinear, conv_pool, linear"):
        supervised.make(TwoOutlets(), TASK, head="liner")


def test_projections_stay_where_they_were_drawn():
    fields = {"projection": "tensor_sketch", "dim": 16}
    objective, tx = make(head="bilinear", head_fields=fields), optax.sgd(0.1)
    state = make_init(objective, tx, batch())(jax.random.key(0))
    before = state.objective_state["head_state"]
    assert before["projections"]["first"]["hash"].shape == (48,)
    state, _ = jax.jit(make_train_step(objective, tx, lambda rng, values: values))(state, batch())
    jax.tree.map(np.testing.assert_array_equal, state.objective_state["head_state"], before)


def training_logits(objective):
    params, objective_state = objective.init(jax.random.key(0), batch())
    value, _ = loss_of(objective, params, objective_state)
    features, _ = simpleconv3.build().apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        batch()["image"],
        train=True,
        mutable=["batch_stats"],
    )
    layer = params["head"]["classifier"]
    return float(value), features.embedding @ layer["kernel"] + layer["bias"]


def test_losses_for_classes_of_unequal_size():
    counts = (100, 10, 10, 1)
    task = dataclasses.replace(TASK, class_counts=counts)
    make = lambda **options: supervised.make(simpleconv3.build(), task, **options)  # noqa: E731
    labels = batch()["label"]
    value, logits = training_logits(make(logit_adjustment=1.5))
    prior = np.log(np.array(counts) / sum(counts))
    np.testing.assert_allclose(
        value, jnp.mean(softmax_cross_entropy(logits + 1.5 * prior, labels)), rtol=1e-5
    )
    value, logits = training_logits(make(focal_gamma=2.0))
    np.testing.assert_allclose(value, jnp.mean(softmax_focal(logits, labels, gamma=2.0)), rtol=1e-5)
    for name, weights in (
        ("inverse_frequency", inverse_frequency_weights(jnp.array(counts))),
        ("effective_number", effective_number_weights(jnp.array(counts), beta=0.9)),
    ):
        value, logits = training_logits(make(class_weights=name, effective_beta=0.9))
        losses = softmax_cross_entropy(logits, labels, class_weights=weights)
        expected = class_weighted_mean(losses, labels, class_weights=weights)
        np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": "even"}, "inverse_frequency"),
        ({"class_weights": "effective_number"}, "class_weights needs the size of each class"),
        ({"logit_adjustment": 1.0}, "logit_adjustment needs the size of each class"),
        ({"focal_gamma": 2.0, "label_smoothing": 0.1}, "focal_gamma takes classes"),
    ],
)
def test_mistakes_with_classes_of_unequal_size(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
