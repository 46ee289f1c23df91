"""IIC: the loss over views and sub-heads, whose epoch it is, and which sub-head answers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import batch_norm
from imgcls_jax.losses import mutual_information_loss
from imgcls_jax.models import simpleconv3
from imgcls_jax.objectives import iic

TASK = Task(num_classes=3, num_examples=32, steps_per_epoch=4, total_steps=8, image_shape=(8, 8, 1))


class Small(nn.Module):
    """A linear layer and BatchNorm, which compile fast."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(20)(images.reshape(len(images), -1))
        x = nn.relu(batch_norm(use_running_average=not train)(x))
        return Features(x.reshape(-1, 2, 2, 5), x)


def batch(views=2, rows=8):
    rng = np.random.default_rng(0)
    return {
        "views": tuple(rng.normal(size=(rows, *TASK.image_shape)).astype(np.float32) for _ in range(views))
    }


def initial(objective, values):
    return jax.jit(objective.init)(jax.random.key(0), values)


def make(**options):
    return iic.make(Small(), TASK, **options)


def loss_of(objective, params, objective_state, values, step=0):
    return jax.jit(objective.loss)(params, objective_state, values, jax.random.key(0), jnp.int32(step))


def test_the_loss_is_the_mean_over_sub_heads_of_all_pairs():
    objective, values = make(marginal_weight=1.3, num_subheads=2), batch(views=3)
    params, objective_state = initial(objective, values)
    assert params["clusters"]["classifier"]["kernel"].shape == (2, 20, 3)
    assert params["overclusters"]["classifier"]["kernel"].shape == (2, 20, 15)

    def outputs(images, head, params):
        variables = {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]}
        features, _ = Small().apply(variables, images, train=True, mutable=["batch_stats"])
        layer = params["clusters"]["classifier"]
        return jax.nn.softmax(features.embedding @ layer["kernel"][head] + layer["bias"][head])

    first, others = values["views"][0], np.concatenate(values["views"][1:])

    @jax.jit
    def loss_of_head(head, params):
        one, other = jnp.tile(outputs(first, head, params), (2, 1)), outputs(others, head, params)
        return mutual_information_loss(one, other, marginal_weight=1.3)

    expected = [loss_of_head(head, params) for head in range(2)]
    value, (after, metrics) = loss_of(objective, params, objective_state, values)
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-4)
    assert metrics["loss"] == value == metrics["clusters_loss"]
    np.testing.assert_allclose(after["subhead_loss"]["clusters"], np.array(expected) / 4, rtol=1e-4)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, "CO"),
        ({"overclusters_first": True}, "OC"),
        ({"head_epochs": (2, 1)}, "CCO"),
        ({"head_epochs": (2, 1), "overclusters_first": True}, "OCC"),
        ({"head_epochs": (1, 0)}, "CC"),
    ],
)
def test_whole_epochs_train_one_head(options, expected):
    objective, values = make(**options), batch()
    params, objective_state = initial(objective, values)
    grad = jax.jit(jax.grad(objective.loss, has_aux=True))
    trained = ""
    for step in range(2 * TASK.steps_per_epoch * len(expected)):
        grads, _ = grad(params, objective_state, values, jax.random.key(0), jnp.int32(step))
        moved = [any(np.any(g != 0) for g in jax.tree.leaves(grads[h])) for h in ("clusters", "overclusters")]
        assert sum(moved) == 1
        trained += "CO"[moved.index(True)]
    assert trained == "".join(epoch * TASK.steps_per_epoch for epoch in 2 * expected)


def test_the_sub_head_of_lowest_loss_answers():
    objective, values = make(num_subheads=3), batch()
    params, objective_state = initial(objective, values)
    objective_state["subhead_loss"] = {"clusters": jnp.array([0.0, -1.0, -0.5]), "overclusters": jnp.zeros(3)}
    outputs = jax.jit(objective.predict)(params, objective_state, {"image": values["views"][0]})
    assert outputs["subhead_logits"].shape == (8, 3, 3) and outputs["overcluster_logits"].shape == (8, 15)
    np.testing.assert_array_equal(outputs["logits"], outputs["subhead_logits"][:, 1])
    assert not np.allclose(outputs["subhead_logits"][:, 0], outputs["subhead_logits"][:, 1])


def test_running_losses_approach_the_loss_and_ignore_the_epoch():
    objective, values = make(num_subheads=2), batch()
    params, objective_state = initial(objective, values)
    _, (first, metrics) = loss_of(objective, params, objective_state, values, step=0)
    for step in range(40):
        _, (objective_state, _) = loss_of(
            objective, params, objective_state | {"batch_stats": first["batch_stats"]}, values, step
        )
    for name in ("clusters", "overclusters"):
        np.testing.assert_allclose(
            objective_state["subhead_loss"][name].mean(), metrics[f"{name}_loss"], rtol=1e-3
        )


def test_epochs_in_the_order_of_the_examples():
    assert make().plan_epoch is None
    objective = make(shuffled=False)
    params, objective_state = initial(objective, batch())
    for epoch in (0, 1):
        plan = objective.plan_epoch(params, objective_state, epoch, None, jax.random.key(0))
        np.testing.assert_array_equal(plan.order, np.arange(32))
        assert plan.params is params and plan.objective_state is objective_state and plan.reset == ()


def test_what_cannot_be_trained_is_refused():
    objective = make()
    params, objective_state = initial(objective, batch())
    with pytest.raises(ValueError, match="data.view_transforms needs two lines or more"):
        loss_of(objective, params, objective_state, batch(views=1))
    for options in ({"num_clusters": 1}, {"num_overclusters": 1}, {"num_subheads": 0}):
        with pytest.raises(ValueError, match="at least 2 and num_subheads at least 1"):
            make(**options)
    for head_epochs in ((0, 1), (1, -1), (1,)):
        with pytest.raises(ValueError, match="objective.head_epochs"):
            make(head_epochs=head_epochs)


def test_heads_may_start_from_the_authors_distribution():
    usual, theirs = (
        iic.make(simpleconv3.build(), Task(10, 64, 4, 8, (32, 32, 3)), head_std=std) for std in (0.0, 0.01)
    )
    views = (jnp.zeros((2, 32, 32, 3)),) * 2
    params, _ = theirs.init(jax.random.key(0), {"views": views})
    layer = params["overclusters"]["classifier"]
    assert np.std(layer["kernel"]) == pytest.approx(0.01, rel=0.05) and np.all(layer["bias"] == 0)
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == jax.tree.map(jnp.shape, usual.init(jax.random.key(0), {"views": views})[0])
