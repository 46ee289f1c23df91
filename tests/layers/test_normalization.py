"""The batch normalization equals flax's, forward and backward, in training and with running statistics; group
and instance normalization follow their equations."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.normalization import BatchNorm, choose_norm


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("fields", [{}, dict(use_bias=False), dict(use_scale=False), dict(epsilon=0.1)])
def test_it_is_flax_s(fields, train):
    rng = np.random.default_rng(0)
    x = jnp.asarray(3 + 2 * rng.normal(size=(6, 5, 4, 3)), jnp.float32)
    cotangent = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    theirs, ours = [
        kind(use_running_average=not train, momentum=0.7, **fields) for kind in (nn.BatchNorm, BatchNorm)
    ]
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.5, 2, leaf.shape), leaf.dtype),
        theirs.init(jax.random.key(0), x),
    )
    assert jax.tree.structure(ours.init(jax.random.key(0), x)) == jax.tree.structure(variables)
    results = []
    for module in (theirs, ours):
        params = variables.get("params", {})

        def apply(params, x, module=module):
            return module.apply({**variables, "params": params}, x, mutable=["batch_stats"])

        y, pull, stats = jax.vjp(apply, params, x, has_aux=True)
        results.append((y, stats, pull(cotangent)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), *results)


def test_half_precision_keeps_float32_statistics():
    x = jnp.full((2**10, 1), 1000, jnp.bfloat16).at[::2].set(1008)
    module = BatchNorm(use_running_average=False, momentum=0.0, dtype=jnp.bfloat16)
    y, stats = module.init_with_output(jax.random.key(0), x)
    y, stats = module.apply(stats, x, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert stats["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(stats["batch_stats"]["mean"], 1004)
    np.testing.assert_allclose(stats["batch_stats"]["var"], 16, rtol=0.01)


@pytest.mark.parametrize("fields", [dict(axis_name="data"), dict(axis=1), dict(use_fast_variance=False)])
def test_what_it_would_not_read_is_refused(fields):
    module = BatchNorm(use_running_average=False, **fields)
    with pytest.raises(ValueError, match=next(iter(fields))):
        module.init(jax.random.key(0), jnp.ones((4, 3)))


@pytest.mark.parametrize(
    "name, channels, groups",
    [
        ("group", 128, 32),
        ("group", 64, 32),
        ("group", 32, 16),
        ("group", 12, 2),
        ("group", 3, 1),
        ("instance", 6, 6),
    ],
)
def test_group_and_instance_norm_follow_their_equation(name, channels, groups):
    """(x - mean) / sqrt(var + 1e-5) over the positions and the channels of a group, then scale and bias."""
    x = np.random.default_rng(0).normal(3, 2, (2, 4, 5, channels)).astype(np.float32)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return choose_norm(name)(use_running_average=not train, name="bn")(x)

    apply = functools.partial(Net().apply, train=False)
    variables = Net().init(jax.random.key(0), x, train=True)
    assert list(variables) == ["params"]
    variables = jax.tree.map(lambda leaf: leaf * 2 + 1, variables)  # scale 3, bias 1
    parts = x.reshape(2, -1, groups, channels // groups).astype(np.float64)
    mean, var = (moment(parts, axis=(1, 3), keepdims=True) for moment in (np.mean, np.var))
    expected = 3 * ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) + 1
    np.testing.assert_allclose(apply(variables, x), expected, atol=2e-4)
    np.testing.assert_allclose(Net().apply(variables, x, train=True), apply(variables, x))
    np.testing.assert_allclose(apply(variables, x[1:]), apply(variables, x)[1:], atol=1e-5)


def test_norms_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="model.norm is one of batch, group, instance; got 'layer'"):
        choose_norm("layer")
    with pytest.raises(ValueError, match="a map of one position"):
        choose_norm("instance")(use_running_average=True)(jnp.ones((2, 1, 1, 8)))
