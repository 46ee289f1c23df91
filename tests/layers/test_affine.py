"""Sums over a batch are the native ones in any dtype, and on a CPU read bfloat16 as it is."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.affine import affine, moments

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


def drawn(shape, dtype=jnp.float32, seed=0):
    return jnp.asarray(1 + np.random.default_rng(seed).normal(size=shape), dtype)


def exact(x):
    return np.asarray(x, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_factor", [True, False])
def test_values_and_gradients_are_those_of_the_equation(dtype, has_factor):
    x, gradient = drawn((5, 4, 3, 7), dtype), drawn((5, 4, 3, 7), dtype, 1)
    offset, factor = drawn((7,), seed=2), drawn((7,), seed=3) if has_factor else None
    y, pull = jax.vjp(affine, x, offset, factor)
    to_x, to_offset, to_factor = pull(gradient)
    by = exact(factor) if has_factor else 1
    rounding = float(jnp.finfo(dtype).eps)
    assert y.dtype == to_x.dtype == dtype and to_offset.dtype == jnp.float32
    np.testing.assert_allclose(exact(y), exact(x) * by + exact(offset), rtol=rounding, atol=rounding)
    np.testing.assert_allclose(exact(to_x), exact(gradient) * by, rtol=rounding)
    np.testing.assert_allclose(to_offset, exact(gradient).sum((0, 1, 2)), rtol=1e-5)
    if has_factor:
        np.testing.assert_allclose(to_factor, (exact(gradient) * exact(x)).sum((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_and_their_gradients(dtype):
    x = drawn((5, 4, 3, 7), dtype)
    (mean, variance), pull = jax.vjp(lambda x: moments(x, (0, 1, 2)), x)
    weights = drawn((1, 1, 1, 7), seed=1), drawn((1, 1, 1, 7), seed=2)
    assert mean.dtype == variance.dtype == jnp.float32 and mean.shape == variance.shape == (1, 1, 1, 7)
    np.testing.assert_allclose(mean, exact(x).mean((0, 1, 2), keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(variance, exact(x).var((0, 1, 2), keepdims=True), rtol=1e-4)
    expected = (exact(weights[0]) + 2 * exact(weights[1]) * (exact(x) - exact(mean))) / 60
    (found,) = pull(weights)
    assert found.dtype == dtype
    np.testing.assert_allclose(exact(found), expected, rtol=float(jnp.finfo(dtype).eps), atol=1e-6)


def test_another_dtype_of_the_result():
    x, vector = drawn((5, 3), jnp.bfloat16), drawn((3,))
    assert affine(x, vector, vector, jnp.float32).dtype == jnp.float32
    assert affine(drawn((5, 3)), vector, dtype=jnp.bfloat16).dtype == jnp.bfloat16


def test_vmap_and_a_second_derivative():
    x, vector = drawn((2, 5, 3), jnp.bfloat16), drawn((3,))
    one_by_one = jnp.stack([affine(each, vector, vector) for each in x])
    np.testing.assert_array_equal(jax.vmap(affine, (0, None, None))(x, vector, vector), one_by_one)

    def loss(factor):
        return jnp.sum(jnp.square(affine(x, vector, factor).astype(jnp.float32)))

    def slope(factor):
        return jnp.vdot(jax.grad(loss)(factor), vector)

    expected = 2 * (exact(x) ** 2).sum((0, 1)) * vector
    np.testing.assert_allclose(jax.grad(slope)(vector), expected, rtol=2e-2)
    np.testing.assert_allclose(jax.jvp(jax.grad(loss), (vector,), (vector,))[1], expected, rtol=2e-2)


def test_a_gradients_derivative_of_moments():
    x = drawn((5, 3), jnp.bfloat16)

    def loss(x):
        return sum(jnp.sum(jnp.square(each)) for each in moments(x, (0,)))

    tangent = jax.jvp(jax.grad(loss), (x,), (x,))[1]
    wide = jax.jvp(jax.grad(loss), (x.astype(jnp.float32),), (x.astype(jnp.float32),))[1]
    np.testing.assert_allclose(exact(tangent), wide, atol=0.02 * float(jnp.abs(wide).max()))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's programs for a CPU")
def test_no_array_is_written_in_float32_for_a_sum():
    shape = (8, 16, 16, 32)
    x, gradient = drawn(shape, jnp.bfloat16), drawn(shape, jnp.bfloat16, 1)

    def step(x, vector, gradient):
        def normalized(x, vector):
            mean, variance = moments(x, (0, 1, 2))
            return affine(x, mean[0, 0, 0], vector * variance[0, 0, 0])

        y, pull = jax.vjp(normalized, x, vector)
        return y, pull(gradient)

    program = jax.jit(step).lower(x, drawn((32,)), gradient).compile().as_text()
    entry = program[program.index("\nENTRY") :]
    written = set(re.findall(r" = (\w+)\[8,16,16,32\]", entry))
    assert written == {"bf16"}
