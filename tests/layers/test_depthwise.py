"""The depthwise convolution for CPUs equals the native one, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.depthwise import ROWS, depthwise_convolution

NUMBERS = ("NHWC", "HWIO", "NHWC")
CHANNELS = 5
SHAPES = [  # image, kernel, strides, padding
    ((1, 1), (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((7, 9), (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((9, 8), (5, 5), (1, 1), ((2, 2), (2, 2))),
    ((10, 7), (3, 3), (2, 2), ((0, 1), (1, 1))),
    ((12, 11), (5, 5), (2, 2), ((1, 2), (2, 2))),
    ((11, 10), (5, 3), (1, 2), ((0, 0), (2, 0))),
    ((13, 10), (2, 4), (3, 2), ((0, 1), (0, 3))),
    ((7, 8), (1, 1), (2, 3), ((0, 0), (0, 0))),
    ((2 * ROWS + 3, 3), (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((2 * ROWS + 4, 4), (5, 5), (2, 2), ((2, 2), (2, 2))),
]


@pytest.mark.parametrize("size, kernel, strides, padding", SHAPES)
def test_it_is_the_native_one(size, kernel, strides, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, CHANNELS)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(*kernel, 1, CHANNELS)), jnp.float32)
    expected, pull = jax.vjp(lambda x, w: native(x, w, strides, padding), x, w)
    ours = functools.partial(depthwise_convolution, strides=strides, padding=padding)
    found, pull_ours = jax.vjp(jax.jit(ours), x, w)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    cotangent = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    for one, other in zip(pull_ours(cotangent), pull(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_bfloat16_is_summed_in_float32():
    """A sum in bfloat16 stays at 256, however often one is added."""
    x, w = jnp.ones((1, 17, 17, 1), jnp.bfloat16), jnp.ones((3, 3, 1, 1), jnp.bfloat16).at[0, 0].set(256)
    ours = functools.partial(depthwise_convolution, strides=(1, 1), padding=((0, 0), (0, 0)))
    found, pull = jax.vjp(ours, x, w)
    gradient_x, gradient_w = pull(jnp.ones_like(found).at[:, 0].set(256))
    assert found.dtype == gradient_x.dtype == gradient_w.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(jnp.float32), 256 + 8)
    np.testing.assert_array_equal(gradient_x[:, 4:-2, 2:-2].astype(jnp.float32), 256 + 8)
    np.testing.assert_allclose(gradient_w.astype(jnp.float32), (256 + 14) * 15, rtol=2**-8)


def test_the_gradient_has_a_gradient():
    x, w = jnp.arange(16.0).reshape(1, 4, 4, 1) / 16, jnp.ones((3, 3, 1, 1))

    def penalty(x, convolve):
        return jnp.sum(jax.grad(lambda x: jnp.sum(convolve(x, w, (1, 1), ((1, 1), (1, 1))) ** 3))(x) ** 2)

    expected, found = [jax.grad(penalty)(x, convolve) for convolve in (native, depthwise_convolution)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def native(x, w, strides, padding):
    return jax.lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=NUMBERS, feature_group_count=x.shape[3]
    )
