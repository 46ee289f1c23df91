"""Simpleconv3 against the book's counts and sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.models import simpleconv3


def count(num_classes, size=48):
    backbone, head = simpleconv3.build(), heads.Linear(num_classes)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    params = jax.eval_shape(lambda x: backbone.init(jax.random.key(0), x, train=False), image)["params"]
    head_params = jax.eval_shape(lambda x: head.init(jax.random.key(0), x, train=False), jnp.zeros((1, 128)))[
        "params"
    ]
    return sum(leaf.size for leaf in jax.tree.leaves((params, head_params)))


@pytest.mark.parametrize("num_classes, params", [(2, 964_706), (4, 964_964), (1000, 1_093_448)])
def test_parameter_count(num_classes, params):
    assert count(num_classes) == params


def test_sizes_and_padding():
    backbone = simpleconv3.build()
    image = jnp.zeros((2, 48, 48, 3))
    features, variables = backbone.init_with_output(jax.random.key(0), image, train=False)
    assert features.map.shape == (2, 6, 6, 48) and features.embedding.shape == (2, 128) and features.aux == ()
    # Symmetric padding: an impulse at (0, 0) meets the kernel's centre at output (0, 0); SAME would show its
    # corner.
    kernel = variables["params"]["conv1"]["kernel"]
    impulse = image.at[0, 0, 0, 0].set(1.0)
    conv = lambda x: jax.lax.conv_general_dilated(  # noqa: E731
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(conv(impulse)[0, 0, 0], kernel[1, 1, 0], rtol=1e-6)
    state = lambda x: backbone.apply(  # noqa: E731
        variables, x, train=False, capture_intermediates=True
    )[1]["intermediates"]["conv1"]["__call__"][0]
    np.testing.assert_allclose(state(impulse)[0, 0, 0] - state(image)[0, 0, 0], kernel[1, 1, 0], atol=1e-6)


def test_initial_weights_have_the_fan_in_uniform_spread():
    variables = simpleconv3.build().init(jax.random.key(0), jnp.zeros((1, 48, 48, 3)), train=False)
    layer = variables["params"]["fc1"]
    bound = 1728**-0.5
    for leaf in (layer["kernel"], layer["bias"]):
        assert jnp.max(jnp.abs(leaf)) <= bound
    np.testing.assert_allclose(jnp.std(layer["kernel"]), bound / 3**0.5, rtol=0.02)
    assert jnp.std(layer["bias"]) > bound / 3


def test_bfloat16_computes_in_half_and_keeps_params_whole():
    backbone = simpleconv3.build(dtype="bfloat16")
    features, variables = backbone.init_with_output(jax.random.key(0), jnp.ones((2, 16, 16, 1)), train=False)
    assert features.embedding.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_unknown_variant():
    with pytest.raises(ValueError, match="variants simpleconv3, simpleconv3_caffe"):
        simpleconv3.build("simpleconv5")


def test_the_caffe_network_has_one_linear_layer_without_a_relu():
    backbone = simpleconv3.build("simpleconv3_caffe")
    images = jax.random.normal(jax.random.key(1), (2, 48, 48, 3))
    features, variables = backbone.init_with_output(jax.random.key(0), images, train=False)
    params = variables["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 13_536 + 36 * 48 * 128 + 128
    linear = params["fc1"]["bias"] + features.map.reshape(2, -1) @ params["fc1"]["kernel"]
    np.testing.assert_allclose(features.embedding, linear, atol=1e-5)
    assert (features.embedding < 0).any()
    with_relu = simpleconv3.build("simpleconv3_caffe", relu_after_hidden=True)
    np.testing.assert_allclose(
        with_relu.apply(variables, images, train=False).embedding, jnp.maximum(linear, 0), atol=1e-5
    )
