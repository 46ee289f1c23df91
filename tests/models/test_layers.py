"""The shared layers: convolutions by patches and by shifts equal the native one, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.models.layers import adaptive_average_pool, depthwise_convolution, small_convolution

NUMBERS = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize(
    "size, kernel, strides, padding",
    [
        ((9, 9), (3, 3), (1, 1), ((1, 1), (1, 1))),
        ((10, 7), (3, 3), (2, 2), ((1, 1), (1, 1))),
        ((5, 12), (5, 3), (3, 2), ((0, 0), (0, 0))),
        ((10, 7), (5, 3), (2, 2), ((0, 1), (2, 0))),
        ((10, 7), (1, 1), (2, 2), ((0, 0), (0, 0))),
    ],
)
def test_small_convolution_is_the_native_one(size, kernel, strides, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(*kernel, 3, 4)), jnp.float32)

    def native(x, w):
        return jax.lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=NUMBERS)

    def small(x, w):
        return small_convolution(x, w, strides, padding, dimension_numbers=NUMBERS)

    expected, pull = jax.vjp(native, x, w)
    found, pull_small = jax.vjp(small, x, w)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    cotangent = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    for one, other in zip(pull_small(cotangent), pull(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    "size, kernel, strides, padding",
    [
        ((9, 9), (3, 3), (1, 1), ((1, 1), (1, 1))),
        ((10, 7), (3, 3), (2, 2), "SAME"),
        ((11, 12), (5, 5), (2, 2), "SAME"),
        ((10, 7), (5, 3), (2, 2), ((0, 1), (2, 0))),
        ((10, 7), (3, 3), (1, 1), "VALID"),
    ],
)
def test_depthwise_convolution_is_the_native_one(size, kernel, strides, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 6)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(*kernel, 1, 6)), jnp.float32)
    options = dict(dimension_numbers=NUMBERS, feature_group_count=6)
    native = lambda x, w: jax.lax.conv_general_dilated(x, w, strides, padding, **options)  # noqa: E731
    shifted = lambda x, w: depthwise_convolution(x, w, strides, padding, **options)  # noqa: E731
    expected, pull = jax.vjp(native, x, w)
    found, pull_shifted = jax.vjp(shifted, x, w)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    cotangent = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    for one, other in zip(pull_shifted(cotangent), pull(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_depthwise_convolution_refuses_what_it_cannot():
    x, w = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 1, 4))
    with pytest.raises(ValueError, match="one filter a channel"):
        depthwise_convolution(x, w, (1, 1), "SAME", feature_group_count=2)
    with pytest.raises(ValueError, match="without dilation"):
        depthwise_convolution(x, w, (1, 1), "SAME", feature_group_count=4, rhs_dilation=(2, 2))


def test_small_convolution_refuses_what_it_cannot():
    x, w = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 2, 4))
    with pytest.raises(ValueError, match="neither groups nor dilation"):
        small_convolution(x, w, (1, 1), ((1, 1), (1, 1)), feature_group_count=2)
    with pytest.raises(ValueError, match="neither groups nor dilation"):
        small_convolution(x, jnp.ones((3, 3, 4, 4)), (1, 1), ((1, 1), (1, 1)), rhs_dilation=(2, 2))


def test_adaptive_average_pooling_by_hand():
    x = jnp.arange(10.0).reshape(1, 5, 2, 1)
    pooled = adaptive_average_pool(x, (3, 3))[0, ..., 0]
    rows = jnp.array([[1, 2], [4, 5], [7, 8]], jnp.float32)  # rows 0-1, 1-3, 3-4
    expected = jnp.stack([rows[:, 0], rows.mean(1), rows[:, 1]], axis=1)  # columns 0, 0-1, 1
    np.testing.assert_allclose(pooled, expected)
