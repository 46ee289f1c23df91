"""The batch normalisation equals flax's, forward and backward, in training and with running statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.normalization import BatchNorm


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
