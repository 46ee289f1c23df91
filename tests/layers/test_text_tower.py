"""CLIP's text tower: what a token may see, how many params, and how they start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.text_tower import TextTower

TINY = TextTower(vocab_size=30, context_length=7, width=8, depth=2, dim=5, heads=2)
IDS = jnp.array([[27, 3, 4, 29, 0, 0, 0], [27, 5, 29, 0, 0, 0, 0]])


@functools.cache
def params():
    return jax.jit(TINY.init)(jax.random.key(0), IDS)


apply = jax.jit(TINY.apply)


def test_number_of_params_of_the_released_tower():
    tower = TextTower(49408, 77, 512, 12, 512)
    shapes = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 77), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 63_428_096


def test_what_follows_the_end_changes_nothing():
    with_rest = IDS.at[:, 4:].set(jnp.array([7, 8, 9]))
    np.testing.assert_array_equal(apply(params(), IDS), apply(params(), with_rest))
    np.testing.assert_allclose(apply(params(), IDS), apply(params(), IDS[:, :4]), rtol=1e-5, atol=1e-6)
    other = apply(params(), IDS.at[:, 1].set(9))
    assert np.all(np.any(np.asarray(other) != np.asarray(apply(params(), IDS)), axis=1))


def test_a_token_sees_itself_and_those_before_it_alone():
    """The Jacobian of the last norm's output by the token embeddings is lower triangular."""
    weights = jnp.arange(1.0, 9.0)  # the sum of a norm's output is constant

    @jax.jit
    @jax.jacobian
    def reached(embedding):
        variables = {"params": params()["params"] | {"token_embedding": embedding}}
        of_norm = lambda module, _: module.name == "ln_final"  # noqa: E731
        _, kept = TINY.apply(variables, jnp.arange(7)[None], capture_intermediates=of_norm)
        return kept["intermediates"]["ln_final"]["__call__"][0][0] @ weights  # [l]

    jacobian = np.asarray(reached(params()["params"]["token_embedding"]))  # [l, vocabulary, W]
    np.testing.assert_array_equal(np.any(jacobian[:, :7] != 0, axis=-1), np.tri(7, dtype=bool))


def test_initial_values():
    tower = TextTower(400, 77, 256, 3, 64)
    found = jax.jit(tower.init)(jax.random.key(1), jnp.zeros((1, 77), jnp.int32))["params"]
    layer = found["layer_1"]
    expected = {
        "token_embedding": (found["token_embedding"], 0.02),
        "positional_embedding": (found["positional_embedding"], 0.01),
        "text_projection": (found["text_projection"], 256**-0.5),
        "queries": (layer["self_attention"]["in_proj_weight"], 256**-0.5),
        "attention": (layer["self_attention"]["out_proj"]["kernel"], (2 * 3 * 256) ** -0.5),
        "first": (layer["mlp.0"]["kernel"], (2 * 256) ** -0.5),
        "last": (layer["mlp.3"]["kernel"], (2 * 3 * 256) ** -0.5),
    }
    for name, (array, std) in expected.items():
        assert np.std(array) == pytest.approx(std, rel=0.03), name
    assert not np.any(layer["self_attention"]["out_proj"]["bias"])


def test_an_id_beyond_the_vocabulary_shows():
    embedded = np.asarray(apply(params(), IDS.at[0, 1].set(30)))
    assert np.all(np.isnan(embedded[0])) and np.all(np.isfinite(embedded[1]))


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="reads 7 tokens at most, and a text has 8"):
        TINY.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))
