"""The list of heads, and what an unknown one is told."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads


def test_the_list_names_every_head_of_the_file():
    found = {
        value
        for value in vars(heads).values()
        if inspect.isclass(value) and issubclass(value, nn.Module) and hasattr(value, "reads")
    }
    assert set(heads.HEADS.values()) == found


@pytest.mark.parametrize("name", heads.HEADS)
def test_every_head_makes_float32_logits_of_what_it_reads(name):
    head = heads.build(name, 3, dropout=0.5)
    reads = {"map": jnp.ones((2, 4, 4, 6), jnp.bfloat16), "embedding": jnp.ones((2, 6), jnp.bfloat16)}
    logits, _ = head.init_with_output(jax.random.key(0), reads[head.reads], train=False)
    assert logits.shape == (2, 3) and logits.dtype == jnp.float32


def test_an_unknown_head_and_an_unknown_field():
    with pytest.raises(ValueError, match="has no head 'liner'; it has bilinear, conv_pool, cosine, linear"):
        heads.build("liner", 3)
    with pytest.raises(ValueError, match="the head 'linear' has no field 'dim'; it has dropout, dtype"):
        heads.build("linear", 3, dim=8)


def test_a_normalized_head_reads_features_of_any_scale():
    head = heads.build("linear", 3, normalize=True)
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    variables = head.init(jax.random.key(0), x, train=False)
    layer = variables["params"]["classifier"]
    # the root of the mean square of (3, 4) is 5 / sqrt(2)
    expected = jnp.array([3.0, 4.0]) * jnp.sqrt(2) / 5 @ layer["kernel"] + layer["bias"]
    for scale in (1.0, 1000.0, 1e-3):
        found = head.apply(variables, scale * x, train=False)
        np.testing.assert_allclose(found[0], expected, rtol=1e-5)
        assert np.all(np.isfinite(found))


def test_the_cosine_head_forgets_lengths():
    head = heads.build("cosine", 2, scale=10.0)
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    params = {"prototypes": jnp.array([[2.0, 0.0], [-0.3, -0.4]])}
    for scale in (1.0, 1e-3):
        logits = head.apply({"params": params}, scale * x, train=False)
        np.testing.assert_allclose(logits, [[6.0, -10.0], [0.0, 0.0]], rtol=1e-6)


def test_a_head_that_starts_at_zero_says_nothing_at_first():
    head = heads.build("linear", 3, zero_init=True)
    logits, variables = head.init_with_output(jax.random.key(0), jnp.ones((2, 6)), train=False)
    assert not logits.any()
    assert jax.tree.map(jnp.shape, variables["params"]["classifier"]) == {"kernel": (6, 3), "bias": (3,)}
