"""What FixMatch computes, beyond the laws that all objectives keep."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.layers.features import Features
from imgcls_jax.objectives import fixmatch

TASK = Task(num_classes=3, num_examples=32, steps_per_epoch=4, total_steps=8, image_shape=(1, 1, 3))
WEAK, STRONG = [[5.0, 0, 0], [1, 0, 0]], [[1.0, 0, 0], [0, 1, 0]]


class Pixels(nn.Module):
    """A backbone whose embedding is the image, so that images of one pixel are logits."""

    @nn.compact
    def __call__(self, images, *, train):
        gain = self.param("gain", nn.initializers.ones, ())
        return Features(images, gain * images.reshape(len(images), -1))


class Normed(nn.Module):
    """A backbone of batch norm alone."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(images.reshape(len(images), -1))
        return Features(images, x)


def images_of(rows):
    return jnp.asarray(rows, jnp.float32)[:, None, None, :]


def batch(weak=WEAK, strong=STRONG):
    known = {"image": images_of([[0, 0, 0], [2, 1, 0]]), "label": jnp.array([2, 0])}
    return {"labeled": known, "views": (images_of(weak), images_of(strong))}


def loss_of(values, objective=None, **options):
    objective = objective or fixmatch.make(Pixels(), TASK, **options)
    params, objective_state = objective.init(jax.random.key(0), values)
    params["head"]["classifier"] = {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}
    value, (_, metrics) = objective.loss(params, objective_state, values, jax.random.key(0), jnp.int32(0))
    return value, metrics


def test_golden_loss():
    value, metrics = loss_of(batch())
    np.testing.assert_allclose(metrics["loss_labeled"], (1.098612 + 0.407606) / 2, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_unlabeled"], 0.2757, atol=1e-4)  # 0.5514 over both rows
    np.testing.assert_allclose(value, metrics["loss_labeled"] + metrics["loss_unlabeled"], rtol=1e-6)
    assert metrics["confident"] == 0.5 and metrics["accuracy"] == 0.5
    value, doubled = loss_of(batch(), lambda_u=2.0)
    np.testing.assert_allclose(value, doubled["loss_labeled"] + 2 * 0.2757, atol=1e-4)


def test_rows_that_are_not_sure_are_still_counted():
    half = loss_of(batch(WEAK + WEAK[1:] * 2, STRONG + STRONG[1:] * 2))[1]  # three unsure rows for one
    np.testing.assert_allclose(half["loss_unlabeled"], 0.2757 / 2, atol=1e-4)
    none = loss_of(batch(), threshold=1.01)[1]
    assert none["loss_unlabeled"] == 0 and none["confident"] == 0
    every = loss_of(batch(), threshold=0.0)[1]
    np.testing.assert_allclose(every["loss_unlabeled"], (0.5514 + 1.5514) / 2, atol=1e-4)


def test_no_gradient_reaches_the_weak_view():
    objective = fixmatch.make(Pixels(), TASK, threshold=0.0)

    def unlabeled(weak, strong):
        return loss_of(batch(weak, strong), objective)[1]["loss_unlabeled"]

    to_weak, to_strong = jax.grad(unlabeled, argnums=(0, 1))(jnp.array(WEAK), jnp.array(STRONG))
    assert np.all(to_weak == 0) and np.all(np.any(to_strong != 0, axis=1))


def test_one_pass_sees_all_rows_and_moves_the_statistics_once():
    backbone = Normed()
    rng = np.random.default_rng(0)
    draw = lambda rows: rng.normal(size=(rows, 2, 2, 1)).astype(np.float32)  # noqa: E731
    values = {
        "labeled": {"image": draw(2), "label": np.array([0, 1], np.int32)},
        "views": (draw(6), draw(6)),
    }
    objective = fixmatch.make(backbone, TASK)
    params, objective_state = objective.init(jax.random.key(0), values)
    _, (moved, _) = objective.loss(params, objective_state, values, jax.random.key(0), jnp.int32(0))
    _, expected = backbone.apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        np.concatenate([values["labeled"]["image"], *values["views"]]),
        train=True,
        mutable=["batch_stats"],
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        moved["batch_stats"],
        expected["batch_stats"],
    )


@pytest.mark.parametrize("sizes", [(64, 448, 448), (4, 8, 8), (3, 7, 7), (6, 4, 4)])
def test_interleave_is_undone_and_every_stretch_has_its_share(sizes):
    parts = [1000 * i + jnp.arange(size) for i, size in enumerate(sizes)]
    rows = fixmatch.interleave(parts)
    for one, other in zip(fixmatch.deal_back(rows, sizes), parts, strict=True):
        np.testing.assert_array_equal(one, other)
    for stretch in np.split(np.asarray(rows), np.gcd.reduce(sizes)):
        shares = np.bincount(stretch // 1000) * np.gcd.reduce(sizes)
        np.testing.assert_array_equal(shares, sizes)


def test_prediction_is_by_averaged_weights():
    objective = fixmatch.make(Pixels(), TASK, ema_decay=0.9, ema_warmup=False)
    params, objective_state = objective.init(jax.random.key(0), batch())
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    objective_state = objective.after_update(doubled, objective_state, jnp.int32(0))
    np.testing.assert_allclose(objective_state["ema"]["backbone"]["gain"], 1.1, rtol=1e-6)
    seen = {"image": images_of(STRONG)}
    by_average = fixmatch.make(Pixels(), TASK, ema_decay=None).predict(
        objective_state["ema"], {**objective_state}, seen
    )
    np.testing.assert_allclose(
        objective.predict(doubled, objective_state, seen)["logits"], by_average["logits"], rtol=1e-6
    )


@pytest.mark.parametrize("options", [{"threshold": -0.1}, {"lambda_u": -1.0}])
def test_bad_hyper_parameters(options):
    with pytest.raises(ValueError, match=f"objective.{next(iter(options))} is at least 0"):
        fixmatch.make(Pixels(), TASK, **options)


def test_it_needs_two_views():
    values = batch()
    values["views"] *= 2
    with pytest.raises(ValueError, match="data.view_transforms needs two lines .* got 4"):
        fixmatch.make(Pixels(), TASK).init(jax.random.key(0), values)
