"""Pooling and its gradients equal those of flax.linen, ties among them; adaptive pooling by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.pooling import adaptive_average_pool, avg_pool, max_pool

SHAPES = [  # image, window, strides, padding
    ((8, 6), (2, 2), (2, 2), ((0, 0), (0, 0))),
    ((9, 7), (2, 2), (2, 2), ((0, 0), (0, 0))),  # a last row and column in no window
    ((8, 7), (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((8, 7), (3, 3), (2, 2), ((0, 1), (0, 0))),  # of ceil mode
    ((6, 5), (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((9, 11), (3, 2), (2, 3), ((1, 0), (0, 1))),
    ((11, 11), (2, 2), (3, 3), ((0, 0), (0, 0))),  # windows that leave gaps
    ((17, 18), (17, 16), (1, 1), ((0, 0), (0, 0))),  # more places than a byte counts
    ((4, 4), (4, 4), (4, 4), ((0, 0), (0, 0))),
]


@pytest.mark.parametrize(
    "size, window, strides, padding, dtype",
    [*((*shape, jnp.float32) for shape in SHAPES), *((*shape, jnp.bfloat16) for shape in SHAPES[:3])],
)
def test_it_is_the_native_one_with_ties(size, window, strides, padding, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-2, 3, size=(2, *size, 3)), dtype)  # five values: most windows have ties
    expected, pull = jax.vjp(lambda x: nn.max_pool(x, window, strides, padding), x)
    found, pull_ours = jax.vjp(lambda x: max_pool(x, window, strides, padding), x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(max_pool(x, window, strides, padding), expected)
    cotangent = jnp.asarray(rng.integers(-8, 9, size=expected.shape), dtype)  # sums are exact
    np.testing.assert_array_equal(pull_ours(cotangent)[0], pull(cotangent)[0])


@pytest.mark.parametrize("nan", [np.nan, -np.nan])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_what_is_not_a_number_stays_so(dtype, nan):
    x = jnp.full((1, 4, 4, 1), -jnp.inf, dtype).at[0, 1, 2, 0].set(nan).at[0, 3, :2, 0].set(jnp.inf)
    for pooled in (max_pool(x, (2, 2), (2, 2)), jax.vjp(lambda x: max_pool(x, (2, 2), (2, 2)), x)[0]):
        np.testing.assert_array_equal(pooled[0, ..., 0], [[-np.inf, np.nan], [np.inf, -np.inf]])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_all_floats_of_16_bits_have_the_order_of_their_integers(dtype):
    """Each beside its neighbor in a random order; both zeros are equal, and the first has the gradient."""
    numbers = np.random.default_rng(0).permutation(np.arange(2**16, dtype=np.uint16)).view(np.dtype(dtype))
    x = jnp.asarray(numbers.reshape(1, 1, -1, 1))
    expected = np.asarray(x, np.float32).reshape(1, 1, -1, 2, 1).max(axis=3)
    np.testing.assert_array_equal(max_pool(x, (1, 2), (1, 2)), expected)
    zeros = jnp.asarray([-0.0, 0.0], dtype).reshape(1, 1, 2, 1)
    gradient = jax.grad(lambda x: max_pool(x, (1, 2), (1, 2)).astype(jnp.float32).sum())(zeros)
    np.testing.assert_array_equal(gradient[0, 0, :, 0], [1, 0])


@pytest.mark.parametrize("size, window, strides, padding", [*SHAPES[:7], SHAPES[8]])
@pytest.mark.parametrize("counts_padding", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_means_are_the_native_ones(size, window, strides, padding, counts_padding, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), dtype)
    expected, pull = jax.vjp(
        lambda x: nn.avg_pool(x, window, strides, padding, counts_padding), x.astype(jnp.float32)
    )
    found, pull_ours = jax.vjp(lambda x: avg_pool(x, window, strides, padding, counts_padding), x)
    cotangent = jnp.asarray(rng.normal(size=expected.shape), dtype)
    pairs = [(found, expected), (pull_ours(cotangent)[0], pull(cotangent.astype(jnp.float32))[0])]
    for one, other in pairs:
        assert one.dtype == dtype
        tolerance = 1e-6 if dtype == jnp.float32 else 2**-8
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=tolerance, atol=1e-6)


def test_adaptive_average_pooling_by_hand():
    x = jnp.arange(10.0).reshape(1, 5, 2, 1)
    pooled = adaptive_average_pool(x, (3, 3))[0, ..., 0]
    rows = jnp.array([[1, 2], [4, 5], [7, 8]], jnp.float32)  # rows 0-1, 1-3, 3-4
    expected = jnp.stack([rows[:, 0], rows.mean(1), rows[:, 1]], axis=1)  # columns 0, 0-1, 1
    np.testing.assert_allclose(pooled, expected)
