"""Schedules at their corners, the optimizer against hand-computed trajectories, groups and decay by
pattern."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from imgcls_jax.config.resolve import NOT_OFFERED
from imgcls_jax.config.settings import OptimizerSettings
from imgcls_jax.contracts.objective import Objective
from imgcls_jax.train.optimizer import make_optimizer, param_paths, plateau_scale, reset_optimizer
from imgcls_jax.train.schedule import make_schedule
from imgcls_jax.train.step import make_init, make_train_step

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
        updates, state = tx.update(grads, state, params, value=1.0)
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


def test_exponential_schedule():
    found = rates([0, 50, 100], schedule="exponential", final_learning_rate=1e-5)
    np.testing.assert_allclose(found, [0.1, 1e-3, 1e-5], rtol=1e-5)
    with pytest.raises(ValueError, match="both above 0; got 0.1 and 0.0"):
        rates([0], schedule="exponential")


def test_constant_schedule():
    np.testing.assert_allclose(rates([0, 99]), [0.1, 0.1])
    np.testing.assert_allclose(rates([0, 5, 10, 99], warmup_steps=10), [0, 0.05, 0.1, 0.1], rtol=1e-6)


def test_schedule_mistakes():
    with pytest.raises(
        ValueError,
        match="constant, step, cosine, cosine_7_16, exponential, polynomial, plateau, reciprocal_sqrt",
    ):
        rates([0], schedule="poly")
    with pytest.raises(ValueError, match="needs one of"):
        rates([0], schedule="step")
    with pytest.raises(ValueError, match="needs one of"):
        rates([0], schedule="step", decay_every_steps=3, decay_at_steps=[4])
    with pytest.raises(ValueError, match="needs optimizer.timescale_steps"):
        rates([0], schedule="reciprocal_sqrt")
    with pytest.raises(ValueError, match="at most the run together; got 60 and 50 of 100 steps"):
        rates([0], warmup_steps=60, cooldown_steps=50)


def test_a_run_of_no_steps_has_no_cooldown():
    assert float(make_schedule(settings(cooldown_steps=20), 0)(0)) == pytest.approx(0.1)


def test_polynomial_schedule():
    np.testing.assert_allclose(rates([0, 50, 100], schedule="polynomial"), [0.1, 0.05, 0], atol=1e-8)
    options = {"schedule": "polynomial", "decay_power": 2.0, "final_learning_rate": 0.02, "warmup_steps": 20}
    np.testing.assert_allclose(rates([10, 20, 60, 100], **options), [0.05, 0.1, 0.04, 0.02], rtol=1e-5)


def test_warmup_stable_decay():
    found = rates([5, 10, 79, 80, 90, 100], warmup_steps=10, cooldown_steps=20, final_learning_rate=0.01)
    np.testing.assert_allclose(found, [0.05, 0.1, 0.1, 0.1, 0.055, 0.01], rtol=1e-5)


def test_reciprocal_sqrt_schedule():
    """By hand: sqrt(4 / 16) at step 16, sqrt(4 / 64) where the cooldown begins, half in its middle."""
    found = rates([2, 4, 16, 64, 82, 100], schedule="reciprocal_sqrt", warmup_steps=4, cooldown_steps=36)
    np.testing.assert_allclose(found, [0.05, 0.1, 0.05, 0.025, 0.0125, 0], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(
        rates([0, 9, 36], schedule="reciprocal_sqrt", timescale_steps=9), [0.1, 0.1, 0.05], rtol=1e-5
    )


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


def test_l1_shrinks_after_the_step_and_stops_at_zero():
    """Rate 0.1 times 1: (.5, -.2, .05) become (.4, -.1, 0); with a gradient of 1 before it (.3, -.2, 0)."""
    params = {"a": {"kernel": jnp.array([0.5, -0.2, 0.05]), "bias": jnp.array([0.5])}}
    tx = optimizer(params, l1=1.0)
    still, _ = steps(tx, 1, jax.tree.map(jnp.zeros_like, params), params)
    np.testing.assert_allclose(still["a"]["kernel"], [0.4, -0.1, 0.0], atol=1e-7)
    assert still["a"]["kernel"][2] == 0 and still["a"]["bias"] == 0.5
    moved, _ = steps(tx, 1, jax.tree.map(jnp.ones_like, params), params)
    np.testing.assert_allclose(moved["a"]["kernel"], [0.3, -0.2, 0.0], atol=1e-7)


def test_l1_follows_the_schedule_and_the_groups():
    """The rate is 0.1 and then 0.3, for the head half of it, and the backbone is frozen."""
    params = {**PARAMS, "other": {"kernel": jnp.ones(1)}}
    groups = ((r"backbone/.*", None), (r"head/.*", 0.5))
    tx = make_optimizer(settings(l1=0.5, groups=groups), lambda step: 0.1 + 0.2 * step, params)
    moved, _ = steps(tx, 2, jax.tree.map(jnp.zeros_like, params), params)
    np.testing.assert_allclose(moved["other"]["kernel"], 1 - 0.5 * (0.1 + 0.3), rtol=1e-6)
    np.testing.assert_allclose(moved["head"]["kernel"], 1 - 0.5 * 0.5 * (0.1 + 0.3), rtol=1e-6)
    np.testing.assert_array_equal(moved["head"]["bias"], 1.0)
    np.testing.assert_array_equal(moved["backbone"]["conv1"]["kernel"], 1.0)


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
        ({"name": "prodigy", "weight_decay": 0.1}, "decays all params or none"),
        ({"name": "sm3", "warmup_steps": 3}, "takes one learning rate for the whole run"),
        ({"name": "lbfgs"}, "searches along a line"),
        ({"name": "schedule_free_sgd"}, "trains at other params than those to evaluate"),
        ({"name": "scale_by_rprop"}, "name of an optimizer"),
        ({"name": "lion", "fields": {"b3": 1.0}}, "does not work with this train step.*b3"),
        ({"layer_decay": 0.5}, "one row of blocks.*none"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        optimizer(**options)


def test_an_optimizer_that_does_not_take_a_scalar_is_told_which():
    """sm3 covers a parameter's axes, and a scale such as CLIP's has none."""
    params = PARAMS | {"log_scale": jnp.zeros(())}
    says = r"'sm3' does not work with the parameter log_scale, of shape \(\) .*\(\('log_scale', None\),\)"
    with pytest.raises(ValueError, match=says):
        optimizer(params, name="sm3")
    grads = jax.tree.map(jnp.ones_like, params)
    moved, _ = steps(optimizer(params, name="sm3", groups=(("log_scale", None),)), 1, grads, params)
    assert moved["log_scale"] == 0 and (moved["head"]["bias"] != 1).all()


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


def test_muon_moves_a_kernel_by_an_orthogonal_matrix_and_the_rest_by_adam():
    """A convolution's kernel is a matrix of inputs by outputs; Adam's first step is the rate."""
    kernel = jax.random.normal(jax.random.key(0), (2, 2, 3, 4))
    params = {"backbone": {"kernel": kernel, "bias": jnp.ones(4)}, "head": {"kernel": jnp.ones((4, 2))}}
    grads = jax.tree.map(lambda param: param * 100, params)
    fields = {"muon_params": "backbone/.*kernel", "nesterov": False}
    for groups, factor in (((), 1), ((("head/.*", 0.5),), 0.5)):
        moved, _ = steps(optimizer(params, name="muon", groups=groups, fields=fields), 1, grads, params)
        change = jax.tree.map(jnp.subtract, params, moved)
        values = jnp.linalg.svd(change["backbone"]["kernel"].reshape(12, 4), compute_uv=False)
        assert 0.06 < values.min() and values.max() < 0.13  # five iterations leave 0.7 to 1.2 times the rate
        np.testing.assert_allclose(change["backbone"]["bias"], 0.1, rtol=1e-4)
        np.testing.assert_allclose(change["head"]["kernel"], 0.1 * factor, rtol=1e-4)
    with pytest.raises(ValueError, match="optimizer.muon_params = 'nothing' matches no parameter"):
        optimizer(params, name="muon", fields={"muon_params": "nothing"})


def optimizers_of_optax():
    return sorted(
        name
        for module in (optax, optax.contrib)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and "learning_rate" in inspect.signature(value).parameters
        if not name.startswith(("_", "scale_by_"))
    )


@pytest.mark.parametrize("name", optimizers_of_optax())
def test_every_optimizer_of_optax_trains_or_is_refused_in_a_line(name):
    """The loss is a quadratic of two kernels; each optimizer gets a few rates, as none suits all."""

    def loss(params):
        return sum(jnp.sum((leaf - 2) ** 2) for leaf in jax.tree.leaves(params))

    def after(rate):
        tx = make_optimizer(settings(name=name, learning_rate=rate), lambda step: rate, params)

        def step(_, carry):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params, value=value)
            return optax.apply_updates(params, updates), state

        return float(loss(jax.lax.fori_loop(0, 100, step, (params, tx.init(params)))[0]))

    params = {"a": {"kernel": jnp.eye(3)}, "b": {"kernel": jnp.full((3, 2), 3.0)}}
    if name in NOT_OFFERED:
        with pytest.raises(ValueError, match=f"config.optimizer.name = '{name}': it .*[^.]$"):
            after(0.1)
    else:
        assert any(after(rate) < 0.99 * float(loss(params)) for rate in (0.1, 1.0))


def test_layer_decay_is_beits():
    """Two blocks: the embedding at 0.5^3 of the rate, the blocks at 0.5^2 and 0.5, norm and head whole."""
    names = {
        "conv_proj": 0.125,
        "encoder.layers.encoder_layer_0": 0.25,
        "encoder.layers.encoder_layer_1": 0.5,
    }
    backbone = {name: {"kernel": jnp.ones(2)} for name in names} | {"encoder.ln": {"scale": jnp.ones(2)}}
    params = {"backbone": backbone, "head": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    grads = jax.tree.map(jnp.ones_like, params)
    moved, _ = steps(optimizer(params, layer_decay=0.5), 1, grads, params)
    for name, factor in names.items():
        np.testing.assert_allclose(moved["backbone"][name]["kernel"], 1 - 0.1 * factor, rtol=1e-6)
    np.testing.assert_allclose(moved["backbone"]["encoder.ln"]["scale"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(moved["head"]["bias"], 0.9, rtol=1e-6)
    groups = (("head/.*", 2.0), ("backbone/conv_proj/.*", None))
    moved, _ = steps(optimizer(params, layer_decay=0.5, groups=groups), 1, grads, params)
    np.testing.assert_array_equal(moved["backbone"]["conv_proj"]["kernel"], 1)
    np.testing.assert_allclose(moved["head"]["kernel"], 0.8, rtol=1e-6)


def test_sam_takes_the_gradient_from_the_top_of_its_ball():
    """Loss w^2 + 4 v^2 at (3, 1): g = (6, 8) of norm 10; at (3.6, 1.8) the gradient is (7.2, 14.4)."""

    def loss(params, objective_state, batch, rng, step):
        value = params["w"] ** 2 + 4 * params["v"] ** 2
        return value, (objective_state, {})

    objective = Objective((), lambda rng, batch: (params, {}), loss, lambda params, state, batch: {})
    params = {"w": jnp.float32(3), "v": jnp.float32(1)}
    tx = optax.sgd(1.0)
    state = make_init(objective, tx, {})(jax.random.key(0))
    step = make_train_step(objective, tx, lambda rng, batch: batch, sam_radius=1.0)
    moved, metrics = step(state, {})
    assert metrics["loss"] == 13
    np.testing.assert_allclose([moved.params["w"], moved.params["v"]], [3 - 7.2, 1 - 14.4], rtol=1e-6)


# ---- the plateau


def scales_of(losses, **options):
    """Returns how far a step went for each loss, over the first step's length."""
    tx = optimizer(schedule="plateau", **options)
    state, lengths = tx.init(PARAMS), []
    for loss in losses:
        updates, state = tx.update(GRADS, state, PARAMS, value=jnp.float32(loss))
        lengths.append(float(-updates["head"]["bias"][0] / 0.1))
    assert plateau_scale(state) == pytest.approx(lengths[-1])
    return lengths


def test_the_plateau_lowers_the_rate_after_so_many_means_without_a_fall():
    losses = [2, 2, 1, 1, 1, 1, 3, 0, 1.5, 1.5, 1, 1]  # means 2, 1, 1, 1.5, 1.5, 1: the best stays 1
    found = scales_of(losses, plateau_steps=2, patience=2, decay_factor=0.5)
    np.testing.assert_allclose(found, [1] * 7 + [0.5] * 4 + [0.25], rtol=1e-6)
    found = scales_of([1] * 8, plateau_steps=1, patience=1, decay_factor=0.1, final_learning_rate=0.002)
    np.testing.assert_allclose(found, [1, 0.1] + [0.02] * 6, rtol=1e-6)
    np.testing.assert_allclose(
        rates([0, 2, 4, 99], schedule="plateau", plateau_steps=1, warmup_steps=4), [0, 0.05, 0.1, 0.1]
    )


def test_other_schedules_have_no_scale():
    assert plateau_scale(optimizer(name="adamw").init(PARAMS)) == 1.0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"schedule": "plateau"}, "needs optimizer.plateau_epochs"),
        ({"plateau_steps": 5}, "is of optimizer.schedule = 'plateau'; it is 'constant'"),
        ({"schedule": "plateau", "plateau_steps": 5, "decay_factor": 1.0}, r"decay_factor, in \(0, 1\)"),
        ({"schedule": "plateau", "plateau_steps": 5, "final_learning_rate": 1.0}, "down to"),
        ({"schedule": "plateau", "plateau_steps": 5, "learning_rate": 0.0}, "above 0"),
        ({"schedule": "plateau", "plateau_steps": 5, "cooldown_steps": 9}, "cooldown_steps needs a learning"),
        ({"schedule": "plateau", "plateau_steps": 5, "l1": 0.1}, "l1 needs a learning rate"),
        ({"schedule": "plateau", "plateau_steps": 5, "name": "prodigy"}, "finds its own step length"),
        ({"schedule": "plateau", "plateau_steps": 5, "patience": 0}, "patience is at least 1"),
    ],
)
def test_a_plateau_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rates([0], **options)
