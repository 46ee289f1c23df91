"""Local response normalisation against golden values and its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.lrn import local_response_norm


@pytest.mark.parametrize(
    "settings, expected",
    [
        (dict(size=5, alpha=1.0, beta=0.75, k=2.0), [0.3084, 0.4204, 0.4382, 0.5911, 0.7755]),
        (dict(size=4, alpha=1.0, beta=1.0, k=1.0), [0.4444, 0.4444, 0.3529, 0.2759, 0.3704]),
    ],
)
def test_golden_values(settings, expected):
    channels = jnp.arange(1.0, 6.0)
    np.testing.assert_allclose(local_response_norm(channels, **settings), expected, atol=5e-5)
    jitted = jax.jit(lambda x: local_response_norm(x, **settings))
    np.testing.assert_allclose(jitted(channels), local_response_norm(channels, **settings), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_the_definition_on_a_map(size):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 7))
    expected = np.empty_like(x)
    for channel in range(7):
        window = x[..., max(0, channel - size // 2) : channel + (size - 1) // 2 + 1]
        expected[..., channel] = x[..., channel] / (1.5 + 0.3 / size * (window**2).sum(-1)) ** 0.75
    result = local_response_norm(jnp.float32(x), size=size, alpha=0.3, beta=0.75, k=1.5)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_half_precision_keeps_its_dtype_and_computes_in_single():
    x = jnp.linspace(-300, 300, 64).astype(jnp.bfloat16)
    settings = dict(size=5, alpha=1e-4, beta=0.75, k=1.0)
    half = local_response_norm(x, **settings)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        half, local_response_norm(x.astype(jnp.float32), **settings).astype(jnp.bfloat16)
    )


def test_gradients_are_finite_at_extremes():
    settings = dict(size=5, alpha=5e-4, beta=0.75, k=2.0)
    for scale in (0.0, 1e-20, 1e6):
        gradient = jax.grad(lambda x: local_response_norm(x, **settings).sum())(jnp.full(8, scale))
        assert jnp.isfinite(gradient).all()


def test_size_below_one():
    with pytest.raises(ValueError, match="size >= 1"):
        local_response_norm(jnp.ones(3), size=0, alpha=1.0, beta=0.75, k=1.0)
