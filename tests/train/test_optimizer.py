"""Schedules at their corners, the optimizer against hand-computed trajectories, groups and decay by
pattern."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgcls_jax.config.settings import OptimizerSettings
from imgcls_jax.train.optimizer import make_optimizer, make_schedule, param_paths, reset_optimizer

PARAMS = {
    "backbone": {"conv1": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "bn1": {"scale": jnp.ones(2)}},
    "head": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)


def constant(step):
    return 0.1


def steps(tx, count=3, grads=GRADS, params=PARAMS):
    state = tx.init(params)
    for _ in range(count):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def settings(name="sgd", learning_rate=0.1, fields=None, **options):
    return OptimizerSettings(name, learning_rate, fields=fields or {}, **options)


def optimizer(params=PARAMS, **options):
    return make_optimizer(settings(**options), constant, params)


def rates(at, **options):
    schedule = make_schedule(settings(**options), 100)
    return [float(schedule(step)) for step in at]


def test_step_schedule_is_the_books_step_lr():
    found = rates([0, 29, 30, 59, 60, 99], schedule="step", decay_every_steps=30)
    np.testing.assert_allclose(found, [0.1, 0.1, 0.01, 0.01, 0.001, 1e-4], rtol=1e-5)
    found = rates([0, 2, 5, 29, 30], schedule="step", decay_at_steps=[30], warmup_steps=5)
    np.testing.assert_allclose(found, [0, 0.04, 0.1, 0.1, 0.01], rtol=1e-5)


def test_cosine_schedule():
    np.testing.assert_allclose(rates([0, 50, 100], schedule="cosine"), [0.1, 0.05, 0], atol=1e-7)
    found = rates([0, 10, 55, 100], schedule="cosine", warmup_steps=10, final_learning_rate=0.02)
    np.testing.assert_allclose(found, [0, 0.1, 0.06, 0.02], rtol=1e-5)


def test_fixmatch_schedule():
    found = rates([0, 25, 50, 75, 100], schedule="cosine_7_16")
    np.testing.assert_allclose(
        0.3 * np.array(found), [0.03, 0.028246, 0.02319, 0.015423, 0.005853], atol=1e-6
    )


def test_constant_schedule():
    np.testing.assert_allclose(rates([0, 99]), [0.1, 0.1])
    np.testing.assert_allclose(rates([0, 5, 10, 99], warmup_steps=10), [0, 0.05, 0.1, 0.1], rtol=1e-6)


def test_schedule_mistakes():
    with pytest.raises(ValueError, match="'constant', 'step', 'cosine', 'cosine_7_16'"):
        rates([0], schedule="poly")
    with pytest.raises(ValueError, match="needs one of"):
        rates([0], schedule="step")
    with pytest.raises(ValueError, match="needs one of"):
        rates([0], schedule="step", decay_every_steps=3, decay_at_steps=[4])


def test_sgd_with_nesterov_and_decay_is_pytorchs():
    """Loss 1.5 w^2 from w = 1, lr 0.1, momentum 0.9, decay 0.01."""
    params = {"a": {"kernel": jnp.ones(1)}}
    tx = optimizer(params, fields={"momentum": 0.9, "nesterov": True}, weight_decay=0.01)
    state, trajectory = tx.init(params), []
    for _ in range(3):
        grads = jax.tree.map(lambda w: 3 * w, params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(float(params["a"]["kernel"][0]))
    np.testing.assert_allclose(trajectory, [0.42810, -0.06054, -0.34972], atol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion", "lamb", "rmsprop"])
def test_decay_leaves_biases_and_norms_alone(name):
    plain, _ = steps(optimizer(name=name), 1)
    decayed, _ = steps(optimizer(name=name, weight_decay=0.5), 1)
    changed = jax.tree.map(lambda a, b: not np.allclose(a, b, rtol=1e-5), plain, decayed)
    expected = jax.tree.map(lambda path: path.endswith("kernel"), param_paths(PARAMS))
    if name in (
        "lamb",
        "rmsprop",
    ):  # both rescale the step: equal gradients in equal proportion hide the decay
        assert not any(jax.tree.leaves(jax.tree.map(lambda c, e: c and not e, changed, expected)))
    else:
        assert changed == expected


def test_adamw_does_not_decay_where_none_is_asked_for():
    still, _ = steps(optimizer(name="adamw"), 1, jax.tree.map(jnp.zeros_like, PARAMS))
    jax.tree.map(np.testing.assert_array_equal, still, PARAMS)


def test_groups_scale_and_freeze():
    groups = ((r"backbone/bn1/.*", 0.5), (r"backbone/.*", None))
    tx = optimizer(fields={"momentum": 0.9}, groups=groups)
    params, state = steps(tx, 1)
    np.testing.assert_allclose(params["backbone"]["bn1"]["scale"], 0.95)
    np.testing.assert_array_equal(params["backbone"]["conv1"]["kernel"], 1.0)
    np.testing.assert_allclose(params["head"]["kernel"], 0.9)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert sizes == 2 + 6 + 3  # the momentum of bn1 and of the head, none of conv1


def test_clipping_takes_the_norm_of_what_is_trained():
    params, _ = steps(optimizer(clip_norm=1.0), 1)
    count = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    np.testing.assert_allclose(params["head"]["bias"], 1 - 0.1 / count**0.5, rtol=1e-6)
    tx = optimizer(clip_norm=1.0, groups=((r"backbone/.*", None),))
    params, _ = steps(tx, 1)
    np.testing.assert_allclose(params["head"]["bias"], 1 - 0.1 / 9**0.5, rtol=1e-6)
    np.testing.assert_array_equal(params["backbone"]["conv1"]["kernel"], 1.0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_reset_restarts_one_part(name):
    options = {"momentum": 0.9} if name == "sgd" else {}
    tx = optimizer(name=name, fields=options, groups=((r"head/.*", 2.0),))
    params, state = steps(tx)
    fresh = reset_optimizer(tx, state, params, ("head",))
    assert jax.tree.structure(fresh) == jax.tree.structure(state)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    heads = 0
    for path, old, new in zip(paths, jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True):
        if "'head'" in path:
            heads += 1
            assert np.all(new == 0) and np.any(old != 0), path
        else:
            np.testing.assert_array_equal(old, new)
    assert heads == (2 if name == "sgd" else 4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "no_such"}, "name of an optimizer"),
        ({"name": "chain"}, "name of an optimizer"),
        ({"groups": (("(", None),)}, "not a regular expression"),
        ({"groups": (("trunk/.*", None),)}, "matches no parameter"),
        ({"groups": ((".*", None),)}, "freezes every parameter"),
        ({"weight_decay": 0.1, "decay_params": "weights"}, "decay_params = 'weights' matches no parameter"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        optimizer(**options)


def test_lars_leaves_biases_and_norms_out_of_the_trust_ratio():
    """By hand: a scale that begins at 0 moves by the rate a step; a kernel by its norm's thousandth."""
    params = {"conv": {"kernel": jnp.full((2, 2), 3.0)}, "bn": {"scale": jnp.zeros(2), "bias": jnp.zeros(2)}}
    grads = jax.tree.map(jnp.ones_like, params)
    tx = optimizer(params, name="lars", fields={"trust_params": ".*/kernel", "momentum": 0.0})
    moved, _ = steps(tx, 1, grads, params)
    np.testing.assert_allclose(moved["bn"]["scale"], -0.1, rtol=1e-6)
    # norm of params 6, of gradients 2: the ratio is 0.001 * 6 / 2
    np.testing.assert_allclose(moved["conv"]["kernel"], 3 - 0.1 * 0.003, rtol=1e-6)
    everything = optimizer(params, name="lars", fields={"trust_params": ".*", "momentum": 0.0})
    later, _ = steps(everything, 2, grads, params)
    assert jnp.all(later["bn"]["scale"] > -0.11)  # the second step is a thousandth of the first
    with pytest.raises(ValueError, match="optimizer.trust_params = 'nothing' matches no parameter"):
        optimizer(params, name="lars", fields={"trust_params": "nothing"})
