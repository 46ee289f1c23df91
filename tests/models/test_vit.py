"""Vision Transformers against the published counts, and the token list that masked training reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.models import heads, vit


def shapes_of(backbone, size=224):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x, train=False), image)


def params_of(backbone, num_classes=1000):
    features, variables = shapes_of(backbone)
    head = heads.Linear(num_classes)
    head_variables = jax.eval_shape(
        lambda x: head.init(jax.random.key(0), x, train=False), features.embedding
    )
    return sum(leaf.size for leaf in jax.tree.leaves((variables["params"], head_variables["params"])))


@pytest.mark.parametrize(
    "variant, params",
    [
        ("vit_ti16", 5_717_416),
        ("vit_s16", 22_050_664),
        ("vit_b16", 86_567_656),
        ("vit_b32", 88_224_232),
        ("vit_l16", 304_326_632),
        ("vit_h14", 632_045_800),
    ],
)
def test_parameter_count(variant, params):
    assert params_of(vit.build(variant)) == params


@pytest.fixture(scope="module")
def tiny():
    backbone = vit.build("vit_tiny", depth=2)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables = jax.jit(lambda x: backbone.init(jax.random.key(1), x, train=False))(images)
    return backbone, variables, images


def test_map_and_embedding_are_the_tokens(tiny):
    backbone, variables, images = tiny

    @jax.jit
    def run(images):
        return (
            backbone.apply(variables, images, train=False, method="tokens"),
            backbone.apply(variables, images, train=False),
            backbone.clone(pool="mean").apply(variables, images, train=False).embedding,
        )

    tokens, features, mean = run(images)
    assert tokens.shape == (2, 17, 64) and features.aux == ()
    np.testing.assert_allclose(features.embedding, tokens[:, 0], atol=1e-6)
    np.testing.assert_allclose(features.map, tokens[:, 1:].reshape(2, 4, 4, 64), atol=1e-6)
    np.testing.assert_allclose(mean, jnp.mean(features.map, axis=(1, 2)), atol=1e-5)


def test_tokens_of_kept_patches(tiny):
    backbone, variables, images = tiny
    encode = jax.jit(
        lambda images, keep: backbone.apply(variables, images, train=False, keep=keep, method="tokens")
    )
    whole = encode(images, jnp.tile(jnp.arange(16), (2, 1)))
    order = jax.random.permutation(jax.random.key(2), jnp.arange(16))
    shuffled = encode(images, jnp.stack([order, order]))
    np.testing.assert_allclose(shuffled[:, 1:], whole[:, 1:][:, order], atol=1e-5)
    keep = jnp.array([[0, 5, 15], [2, 5, 7]])
    some = encode(images, keep)
    assert some.shape == (2, 4, 64)
    unseen = images.at[:, 4:8, :4].add(1.0)  # patch 4 of both images
    np.testing.assert_array_equal(encode(unseen, keep), some)
    seen = images.at[:, 4:8, 4:8].add(1.0)  # patch 5
    assert jnp.all(jnp.any(encode(seen, keep) != some, axis=(1, 2)))


def test_attention_splits_its_projection_into_queries_keys_and_values():
    attention = vit.SelfAttention(heads=2)
    x = jax.random.normal(jax.random.key(0), (1, 3, 8))
    out, variables = jax.jit(lambda x: attention.init_with_output(jax.random.key(1), x))(x)
    params = variables["params"]
    query, key, value = (
        (x[0] @ rows.T).reshape(3, 2, 4) for rows in np.split(params["in_proj_weight"], 3, axis=0)
    )
    weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", query, key) / 2.0, axis=-1)
    mixed = jnp.einsum("hqk,khd->qhd", weights, value).reshape(3, 8)
    np.testing.assert_allclose(out[0], mixed @ params["out_proj"]["kernel"], atol=1e-5)


def test_sincos_positions():
    positions = vit.sincos_positions((2, 2), 8)
    expected = [0.8415, 0.0100, 0.5403, 0.99995, 0, 0, 1, 1]  # row 0, column 1
    np.testing.assert_allclose(positions[1], expected, atol=5e-5)
    _, variables = shapes_of(vit.build("vit_tiny", depth=1, position="sincos"), 16)
    assert "encoder.pos_embedding" not in variables["params"]


def test_stochastic_depth_of_one_leaves_the_input():
    layer = vit.EncoderLayer(heads=2, stochastic_depth=1.0)
    x = jax.random.normal(jax.random.key(0), (2, 3, 8))

    @jax.jit
    def run(x):
        variables = layer.init(jax.random.key(1), x, False)
        return layer.apply(variables, x, True, rngs={"dropout": jax.random.key(2)})

    np.testing.assert_array_equal(run(x), x)


def test_remat_changes_no_param_and_bfloat16_keeps_them_whole():
    _, plain = shapes_of(vit.build("vit_tiny"), 16)
    features, variables = shapes_of(vit.build("vit_tiny", remat=True, dtype="bfloat16"), 16)
    assert variables == plain
    assert features.embedding.dtype == features.map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_errors():
    with pytest.raises(ValueError, match="vit_b16"):
        vit.build("vit_g14")
    for fields, size in [({"pool": "max"}, 16), ({"position": "rotary"}, 16), ({}, 18)]:
        with pytest.raises(ValueError, match="pool|position|patches"):
            shapes_of(vit.build("vit_tiny", **fields), size)
