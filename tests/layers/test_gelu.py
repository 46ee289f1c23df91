"""GELU against JAX's own, and its slope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.gelu import gelu

X = jnp.linspace(-9, 9, 1001)


def jaxs(x):
    return jax.nn.gelu(x, approximate=False)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_value_and_slope_are_jaxs(dtype, tolerance):
    x = X.astype(dtype)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(gelu)))(x)
    expected, its_slope = jax.vmap(jax.value_and_grad(jaxs))(x.astype(jnp.float32))
    assert value.dtype == slope.dtype == x.dtype
    np.testing.assert_allclose(value.astype(jnp.float32), expected, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(slope.astype(jnp.float32), its_slope, atol=tolerance, rtol=tolerance)


def test_curvature_and_forward_mode():
    """Second derivatives, as of a loss through a gradient, by differences of the slope."""
    step = 1e-3
    slope = jax.vmap(jax.grad(gelu))
    expected = (slope(X + step) - slope(X - step)) / (2 * step)
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(gelu)))(X), expected, atol=1e-3)
    forward = jax.jvp(gelu, (X,), (jnp.ones_like(X),))[1]
    np.testing.assert_allclose(forward, slope(X), atol=1e-6)


def test_the_backward_pass_keeps_the_slope_alone():
    kept = jax.tree.leaves(jax.vjp(gelu, X)[1])
    assert sum(leaf.size for leaf in kept) <= X.size + 10
