"""What the supervised objective computes, beyond the laws that all objectives keep."""

import dataclasses
import functools
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
    effective_number_weights,
    inverse_frequency_weights,
    mean_over,
    softmax_cross_entropy,
    softmax_focal,
)
from imgcls_jax.models import lenet, simpleconv3
from imgcls_jax.objectives import supervised
from imgcls_jax.train.step import differences_in_parts, make_init, make_train_step

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


def test_the_average_has_statistics_of_its_own_activations():
    plain, own = make(ema_decay=0.5), make(ema_decay=0.5, ema_statistics=2)
    params, objective_state = own.init(jax.random.key(0), batch())
    average = jax.tree.map(lambda leaf: 2 * leaf, params)
    objective_state |= {"ema": average}
    gradients = []
    for objective in (plain, own):
        loss = functools.partial(loss_of, objective, objective_state=objective_state)
        grads, (moved, _) = jax.grad(loss, has_aux=True)(params)
        gradients.append(grads)
    jax.tree.map(np.testing.assert_array_equal, *gradients)
    _, expected = simpleconv3.build().apply(
        {"params": average["backbone"], "batch_stats": objective_state["batch_stats"]},
        batch()["image"][::2],
        train=True,
        mutable=["batch_stats"],
    )
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], expected["batch_stats"])
    for options in (dict(ema_statistics=2), dict(ema_decay=0.5, ema_statistics=-1)):
        with pytest.raises(ValueError, match="ema_statistics"):
            make(**options)


def test_ema_follows_its_formula_and_serves_prediction():
    objective, tx = make(ema_decay=0.75, ema_warmup=False), optax.sgd(0.1)
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


def test_the_average_warms_up():
    """min(0.999, (1 + t) / (10 + t)): 1/10, 2/11, 3/12 of the average stay, and from step 8990 on 0.999."""
    objective = make(ema_decay=0.999)
    params, objective_state = objective.init(jax.random.key(0), batch())
    zeros, ones = (jax.tree.map(lambda leaf, n=n: jnp.full_like(leaf, n), params) for n in (0, 1))
    objective_state |= {"ema": ones}
    for step, expected in ((0, 0.1), (1, 0.1 * 2 / 11), (2, 0.1 * 2 / 11 * 3 / 12)):
        objective_state = objective.after_update(zeros, objective_state, jnp.int32(step))
        np.testing.assert_allclose(jax.tree.leaves(objective_state["ema"])[0], expected, rtol=1e-5)
    for step, expected in ((980, 981 / 990), (8989, 8990 / 8999), (8990, 0.999), (10**6, 0.999)):
        moved = objective.after_update(zeros, objective_state | {"ema": ones}, jnp.int32(step))
        np.testing.assert_allclose(jax.tree.leaves(moved["ema"])[0], expected, rtol=1e-6)


def test_weights_with_label_smoothing_divide_as_pytorch_does():
    """By hand: rows [2, 1, 0] of class 0 and [0, 0, 0] of class 2, weights (1, 2, 3), epsilon 0.1.

    nll: 0.9 (1 * 0.407606 + 3 * 1.098612); uniform part: 0.1 / 3 (1 * 0.407606 + 2 * 1.407606 + 3 * 2.407606
    + 6 * 1.098612); both over the labels' weights, 1 + 3.
    """
    task = dataclasses.replace(TASK, num_classes=3)
    objective = supervised.make(simpleconv3.build(), task, class_weights=(1, 2, 3), label_smoothing=0.1)
    learner = objective.loss.__self__
    values = {"image": jnp.zeros((2, 1, 1, 1)), "label": jnp.array([0, 2])}
    _, targets = learner.targets(values, jax.random.key(0))
    logits = jnp.array([[2.0, 1, 0], [0, 0, 0]])
    divisor = objective.divisors({}, values)
    assert divisor == 4
    np.testing.assert_allclose(learner.criterion(logits, targets, divisor), 0.975252, atol=1e-5)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("options", [{"class_weights": (0.1, 10.0, 1.0, 0.0)}, {"label_smoothing": 0.1}])
def test_a_step_in_parts_is_the_step_of_the_whole(parts, options):
    objective, tx = supervised.make(lenet.build("lenet5_cifar"), TASK, **options), optax.sgd(0.1)
    values = {
        "image": jax.random.normal(jax.random.key(0), (16, 32, 32, 3)),
        "label": jnp.array([0] * 9 + [1] * 4 + [2] * 2 + [3]),
    }
    state = jax.jit(make_init(objective, tx, values))(jax.random.key(0))
    same = lambda rng, values: values  # noqa: E731
    (whole, metrics), (in_parts, theirs) = (
        jax.jit(make_train_step(objective, tx, same, num_microbatches=number))(state, values)
        for number in (1, parts)
    )
    for one, other in ((whole.params, in_parts.params), (metrics, theirs)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)
    assert differences_in_parts(objective, state.objective_state, parts) == []


def test_what_differs_in_parts_is_said():
    plain, mixed = make(), make(mixup_alpha=1.0)
    _, objective_state = plain.init(jax.random.key(0), batch())
    (line,) = differences_in_parts(plain, objective_state, 4)
    assert "BatchNorm takes its statistics from each part alone" in line and "4 times a step" in line
    assert len(differences_in_parts(mixed, objective_state, 4)) == 2
    assert differences_in_parts(mixed, objective_state, 1) == []


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
    with pytest.raises(ValueError, match="has no head 'liner'; it has bilinear, conv_pool, cosine, linear"):
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


def test_the_other_losses():
    """By their definitions, of the training logits; smoothing by 0.2 makes targets of 0.85 and 0.05."""
    labels = batch()["label"]
    own = np.eye(4)[labels]
    targets = 0.8 * own + 0.05
    for loss, options, expected in [
        ("hinge", {}, lambda z: np.maximum(0, 1 + np.where(own, -np.inf, z).max(1) - z[own > 0])),
        ("squared_hinge", {}, lambda z: (np.maximum(0, 1 + (1 - 2 * own) * z) ** 2).sum(1)),
        (
            "binary_cross_entropy",
            {"label_smoothing": 0.2},
            lambda z: (targets * np.logaddexp(0, -z) + (1 - targets) * np.logaddexp(0, z)).sum(1),
        ),
    ]:
        value, logits = training_logits(make(loss=loss, **options))
        np.testing.assert_allclose(value, expected(np.asarray(logits, np.float64)).mean(), rtol=1e-5)


def test_a_threshold_makes_both_classes_of_a_mixed_image_apply():
    learner = supervised._Criterion("binary_cross_entropy", None, 0.0, 0.0, 0.2)
    mixed = jnp.array([[0.7, 0.3, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0]])
    np.testing.assert_allclose(learner.losses(jnp.full((2, 4), 1.0), mixed), [3.253, 4.253], atol=1e-3)


def test_options_of_another_loss_are_refused():
    for loss, options in [
        ("hinge", {"mixup_alpha": 0.2}),
        ("squared_hinge", {"label_smoothing": 0.1}),
        ("binary_cross_entropy", {"class_weights": np.ones(4)}),
        ("binary_cross_entropy", {"focal_gamma": 2.0}),
        ("cross_entropy", {"target_threshold": 0.0}),
    ]:
        with pytest.raises(ValueError, match=f"objective.{next(iter(options))} is for the loss"):
            make(loss=loss, **options)
    with pytest.raises(ValueError, match="objective.loss is one of cross_entropy, binary"):
        make(loss="softmax")
    with pytest.raises(ValueError, match="target_threshold lies in"):
        make(loss="binary_cross_entropy", target_threshold=1.0)


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
        expected = mean_over(losses, jnp.sum(weights[labels]))
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


# ---- AugMix's consistency


def viewed(rows=8):
    rng = np.random.default_rng(1)
    views = tuple(rng.normal(size=(rows, *TASK.image_shape)).astype(np.float32) for _ in range(2))
    return batch(rows) | {"views": views}


def test_the_consistency_is_that_of_the_image_and_its_two_views():
    objective, values = make(js_weight=12.0), viewed()
    assert objective.batch_keys == ("image", "label", "views")
    params, objective_state = objective.init(jax.random.key(0), values)
    value, (_, metrics) = loss_of(objective, params, objective_state, values)
    features, _ = simpleconv3.build().apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        np.concatenate([values["image"], *values["views"]]),  # BatchNorm sees the three together
        train=True,
        mutable=["batch_stats"],
    )
    layer = params["head"]["classifier"]
    logits = np.asarray(features.embedding @ layer["kernel"] + layer["bias"], np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p = p.reshape(3, 8, 4)
    mean = p.mean(axis=0)
    divergence = (p * np.log(p / mean)).sum(axis=2).mean(axis=0).mean()
    entropy = -np.log(p[0][np.arange(8), values["label"]]).mean()
    np.testing.assert_allclose(metrics["jensen_shannon"], divergence, rtol=1e-3)
    np.testing.assert_allclose(value, entropy + 12 * divergence, rtol=1e-4)


@pytest.mark.parametrize("options", [{"mixup_alpha": 0.2}, {"cutmix_alpha": 1.0}, {"loss": "hinge"}])
def test_the_consistency_goes_with_cross_entropy_of_whole_images(options):
    with pytest.raises(ValueError, match=r"js_weight (compares views of one image|is for the loss cross)"):
        make(js_weight=12.0, **options)


def test_the_consistency_needs_two_views():
    objective = make(js_weight=12.0)
    with pytest.raises(ValueError, match="js_weight compares two views of one size"):
        loss_of(
            objective, *objective.init(jax.random.key(0), batch()), batch() | {"views": (batch()["image"],)}
        )
