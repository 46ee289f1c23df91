"""Max-pooling and its gradient equal those of flax.linen, ties among them; adaptive pooling by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.pooling import adaptive_average_pool, max_pool

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


def test_what_is_not_a_number_stays_so():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2, 0].set(jnp.nan)
    pooled = jax.vjp(lambda x: max_pool(x, (2, 2), (2, 2)), x)[0]
    np.testing.assert_array_equal(jnp.isnan(pooled)[0, ..., 0], [[False, True], [False, False]])


def test_adaptive_average_pooling_by_hand():
    x = jnp.arange(10.0).reshape(1, 5, 2, 1)
    pooled = adaptive_average_pool(x, (3, 3))[0, ..., 0]
    rows = jnp.array([[1, 2], [4, 5], [7, 8]], jnp.float32)  # rows 0-1, 1-3, 3-4
    expected = jnp.stack([rows[:, 0], rows.mean(1), rows[:, 1]], axis=1)  # columns 0, 0-1, 1
    np.testing.assert_allclose(pooled, expected)
