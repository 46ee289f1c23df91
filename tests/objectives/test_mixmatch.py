"""What MixMatch computes, beyond the laws that all objectives keep."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgcls_jax.config.settings import OptimizerSettings
from imgcls_jax.contracts.objective import Task
from imgcls_jax.layers.features import Features
from imgcls_jax.objectives import mixmatch
from imgcls_jax.train.optimizer import make_optimizer
from imgcls_jax.train.schedule import make_schedule
from imgcls_jax.train.step import make_init, make_train_step

TASK = Task(num_classes=4, num_examples=32, steps_per_epoch=4, total_steps=10, image_shape=(4, 4, 1))
AFTER_RAMP = jnp.int32(100)


class Small(nn.Module):
    """One layer with batch norm: what these tests need of a backbone, quickly compiled."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(7, name="fc1")(images.reshape(len(images), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn1")(x))
        return Features(images, x)


def batch(labeled=6, unlabeled=6, views=2):
    rng = np.random.default_rng(0)
    draw = lambda rows: rng.normal(size=(rows, *TASK.image_shape)).astype(np.float32)  # noqa: E731
    known = {"image": draw(labeled), "label": np.arange(labeled, dtype=np.int32) % 4}
    return {"labeled": known, "views": tuple(draw(unlabeled) for _ in range(views))}


def make(**options):
    return mixmatch.make(Small(), TASK, **{"alpha": 0.75, "lambda_u": 75.0, "ramp_fraction": 1.0} | options)


def drawn(objective, values, seed=0):
    return objective.init(jax.random.key(seed), values)


def forward(params, objective_state, images):
    """Logits by batch statistics, and the moved running ones, written out."""
    features, moved = Small().apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        images,
        train=True,
        mutable=["batch_stats"],
    )
    layer = params["head"]["classifier"]
    return features.embedding @ layer["kernel"] + layer["bias"], moved["batch_stats"]


def guesses_of(params, objective_state, views):
    mean = sum(jax.nn.softmax(forward(params, objective_state, view)[0]) for view in views) / len(views)
    return mean**2 / jnp.sum(mean**2, axis=1, keepdims=True)


def passes_of(values):
    """The three passes of batches of 6 rows with nothing mixed: groups of 2 change places."""
    x, (u, v) = values["labeled"]["image"], values["views"]
    join = np.concatenate
    return join([x[:2], u[2:4], v[4:]]), join([u[:2], x[2:4], u[4:]]), join([v[:4], x[4:]])


def reference(params, objective_state, values, guesses):
    """L_X and L_U with nothing mixed."""
    one, two, three = (forward(params, objective_state, rows)[0] for rows in passes_of(values))
    labeled = jnp.concatenate([one[:2], two[2:4], three[4:]])
    unlabeled = jnp.concatenate([two[:2], one[2:4], two[4:], three[:4], one[4:]])
    log_p = jax.nn.log_softmax(labeled)
    loss_x = -jnp.mean(log_p[jnp.arange(6), values["labeled"]["label"]])
    loss_u = jnp.mean((jax.nn.softmax(unlabeled) - jnp.concatenate([guesses, guesses])) ** 2)
    return loss_x, loss_u


def test_the_loss_is_that_of_the_paper():
    values, objective = batch(), make(alpha=0.0)
    params, objective_state = drawn(objective, values)
    value, (_, metrics) = objective.loss(params, objective_state, values, jax.random.key(1), AFTER_RAMP)
    loss_x, loss_u = reference(
        params, objective_state, values, guesses_of(params, objective_state, values["views"])
    )
    np.testing.assert_allclose(metrics["loss_labeled"], loss_x, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_unlabeled"], loss_u, rtol=1e-4)
    np.testing.assert_allclose(value, loss_x + 75 * loss_u, rtol=1e-5)
    assert metrics["loss"] == value


def test_no_gradient_passes_through_the_guesses():
    values, objective = batch(), make(alpha=0.0)
    params, objective_state = drawn(objective, values)
    fixed = guesses_of(params, objective_state, values["views"])

    def with_fixed_guesses(params):
        loss_x, loss_u = reference(params, objective_state, values, fixed)
        return loss_x + 75 * loss_u

    own, _ = jax.grad(objective.loss, has_aux=True)(
        params, objective_state, values, jax.random.key(1), AFTER_RAMP
    )
    expected = jax.grad(with_fixed_guesses)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), own, expected)


def test_the_running_statistics_follow_the_first_pass_alone():
    values, objective = batch(), make(alpha=0.0)
    params, objective_state = drawn(objective, values)
    _, (moved, _) = objective.loss(params, objective_state, values, jax.random.key(1), AFTER_RAMP)
    expected = forward(params, objective_state, passes_of(values)[0])[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), moved["batch_stats"], expected
    )


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (8192, 0.5), (16384, 1.0), (20000, 1.0)])
def test_the_weight_rises_over_the_first_64th_of_the_run(step, share):
    task = dataclasses.replace(TASK, total_steps=2**20)
    values, objective = batch(), mixmatch.make(Small(), task, alpha=0.0, lambda_u=75.0)
    params, objective_state = drawn(objective, values)
    value, (_, metrics) = objective.loss(params, objective_state, values, jax.random.key(1), jnp.int32(step))
    np.testing.assert_allclose(metrics["lambda_u"], 75 * share, rtol=1e-6)
    np.testing.assert_allclose(
        value, metrics["loss_labeled"] + 75 * share * metrics["loss_unlabeled"], rtol=1e-6
    )


def test_without_a_ramp_the_weight_is_whole_at_once():
    values, objective = batch(), make(ramp_fraction=0.0)
    _, (_, metrics) = objective.loss(*drawn(objective, values), values, jax.random.key(1), jnp.int32(0))
    assert metrics["lambda_u"] == 75


# ---- mixing


@pytest.mark.parametrize(("alpha", "mean"), [(0.75, 0.7784), (0.5, 0.8185)])
def test_each_row_has_its_own_coefficient_of_at_least_half(alpha, mean):
    rows = 20000
    images = jnp.arange(float(rows))[:, None, None, None]
    images, targets = mixmatch.mix_rows(
        jax.random.key(0), images, jnp.stack([jnp.arange(float(rows)), jnp.ones(rows)], axis=1), alpha=alpha
    )
    np.testing.assert_allclose(images[:, 0, 0, 0], targets[:, 0], rtol=1e-6)
    np.testing.assert_allclose(targets[:, 1], 1, rtol=1e-6)
    # With 1 at the row and 0 elsewhere the coefficient shows itself.
    marked = (jnp.arange(rows) % 2).astype(jnp.float32)[:, None]
    _, mixed = mixmatch.mix_rows(jax.random.key(0), images, marked, alpha=alpha)
    lam = np.where(marked[:, 0] == 1, mixed[:, 0], 1 - mixed[:, 0])
    lam = lam[(lam > 0) & (lam < 1)]  # partners of the same mark hide it
    assert len(lam) > 0.4 * rows and lam.min() >= 0.5 and len(np.unique(lam)) > 0.3 * rows
    np.testing.assert_allclose(lam.mean(), mean, atol=5e-3)


def test_alpha_of_zero_and_near_it_mixes_nothing():
    images, targets = jnp.ones((5, 2, 2, 1)) * jnp.arange(5.0)[:, None, None, None], jnp.eye(5)
    for alpha, atol in ((0.0, 0), (1e-5, 1e-6)):
        mixed = mixmatch.mix_rows(jax.random.key(0), images, targets, alpha=alpha)
        np.testing.assert_allclose(mixed[0], images, atol=atol)
        np.testing.assert_allclose(mixed[1], targets, atol=atol)


def test_interleave_shares_out_and_undoes_itself():
    lists = [100 * i + jnp.arange(64) for i in range(3)]
    mixed = mixmatch.interleave(lists)
    for one, other in zip(mixmatch.interleave(mixed), lists, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(np.bincount(np.asarray(mixed[0]) // 100), [21, 21, 22])
    np.testing.assert_array_equal(mixed[0], [*range(21), *range(121, 142), *range(242, 264)])
    np.testing.assert_array_equal(mixed[1], [*range(100, 121), *range(21, 42), *range(142, 164)])
    assert sorted(np.concatenate(mixed)) == sorted(np.concatenate(lists))


@pytest.mark.parametrize("sizes", [(4, 8, 8), (8, 4, 4), (5, 5), (2, 7, 7, 7), (1, 3, 3)])
def test_interleave_of_unequal_batches(sizes):
    lists = [100 * i + jnp.arange(size) for i, size in enumerate(sizes)]
    mixed = mixmatch.interleave(lists)
    assert [len(rows) for rows in mixed] == list(sizes)
    for one, other in zip(mixmatch.interleave(mixed), lists, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("labeled", "unlabeled", "views"), [(6, 6, 1), (3, 7, 2), (8, 4, 3)])
def test_any_number_of_views_and_rows(labeled, unlabeled, views):
    values, objective = batch(labeled, unlabeled, views), make()
    params, objective_state = drawn(objective, values)
    value, (_, metrics) = objective.loss(params, objective_state, values, jax.random.key(1), AFTER_RAMP)
    assert np.isfinite(value) and 0.25 < metrics["confidence"] <= 1


# ---- prediction and training


def test_prediction_is_by_averaged_weights_and_live_statistics():
    values, objective = batch(), make(ema_decay=0.9, ema_warmup=False)
    step = jax.jit(make_train_step(objective, optax.sgd(0.1), lambda rng, values: values))
    state = make_init(objective, optax.sgd(0.1), values)(jax.random.key(0))
    start = state.params
    state, _ = step(state, values)
    average = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, start, state.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.objective_state["ema"], average
    )
    plain = make(ema_decay=None)
    seen = {"image": values["views"][0]}
    live = {"batch_stats": state.objective_state["batch_stats"], "head_state": {}}
    np.testing.assert_allclose(
        objective.predict(state.params, state.objective_state, seen)["logits"],
        plain.predict(average, live, seen)["logits"],
        atol=1e-5,
    )


def test_the_weight_decay_of_the_authors_is_that_of_adamw():
    params = {"head": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.ones(2)}}
    settings = OptimizerSettings("adamw", 0.002, weight_decay=0.02)
    tx = make_optimizer(settings, make_schedule(settings, 10), params)
    state, zeros = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    for _ in range(5):
        updates, state = tx.update(zeros, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["head"]["kernel"], 3 * (1 - 4e-5) ** 5, rtol=1e-6)
    np.testing.assert_array_equal(params["head"]["bias"], 1)


@pytest.mark.parametrize(
    "options", [{"alpha": -1.0}, {"lambda_u": -1.0}, {"ramp_fraction": 1.5}, {"temperature": 0.0}]
)
def test_bad_hyper_parameters(options):
    with pytest.raises(ValueError, match=f"objective.{next(iter(options))} "):
        make(**options)
