"""The layer normalization is flax's: values, gradients, params."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.layer_norm import LayerNorm


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("result", [None, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(4, 9, 32), (3, 5, 4, 16), (6, 8)])
def test_it_is_flaxs(shape, result, dtype):
    rng = np.random.default_rng(0)
    x, gradient = (jnp.asarray(1 + rng.normal(size=shape), jnp.float32) for _ in range(2))
    params = {"scale": jnp.linspace(0.5, 2, shape[-1]), "bias": jnp.linspace(-1, 1, shape[-1])}
    ours, theirs = (kind(epsilon=1e-3, dtype=result) for kind in (LayerNorm, nn.LayerNorm))
    assert jax.tree.structure(ours.init(jax.random.key(0), x)["params"]) == jax.tree.structure(params)

    def all_of(module, x, gradient, params):
        y, pull = jax.vjp(lambda params, x: module.apply({"params": params}, x), params, x)
        return y, pull(gradient.astype(y.dtype))

    # The expected gradients are those of float32, of the same rounded numbers.
    x, gradient = (array.astype(dtype) for array in (x, gradient))
    found = jax.jit(all_of, static_argnums=0)(ours, x, gradient, params)
    wide = theirs.clone(dtype=jnp.float32)
    rounded = gradient.astype(found[0].dtype)
    expected = all_of(wide, x.astype(jnp.float32), rounded.astype(jnp.float32), params)
    assert found[0].dtype == theirs.apply({"params": params}, x).dtype
    assert found[1][1].dtype == dtype and found[1][0]["scale"].dtype == jnp.float32
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        rounding = 1e-5 if one.dtype == jnp.float32 else 2**-7
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one, other, atol=rounding * np.abs(other).max())


def test_a_gradient_of_a_gradient_and_vmap():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 8)), jnp.float32)
    params = {"scale": jnp.linspace(0.5, 2, 8), "bias": jnp.linspace(-1, 1, 8)}

    def penalties(kind):
        def loss(x):
            return jnp.sum(kind(epsilon=1e-3).apply({"params": params}, x) ** 3)

        def penalty(x):
            return jnp.sum(jax.grad(loss)(x) ** 2)

        return jax.vmap(jax.grad(penalty))(x)

    np.testing.assert_allclose(penalties(LayerNorm), penalties(nn.LayerNorm), rtol=1e-3, atol=1e-2)

    def along(kind):
        def loss(x):
            return jnp.sum(kind(epsilon=1e-3).apply({"params": params}, x) ** 3)

        return jax.jvp(jax.grad(loss), (x,), (x,))[1]

    np.testing.assert_allclose(along(LayerNorm), along(nn.LayerNorm), rtol=1e-3, atol=1e-4)
