"""ZFNet against the counts and the sizes of its maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.layers.lrn import local_response_norm
from imgcls_jax.layers.pooling import ceil_max_pool
from imgcls_jax.models import zfnet

SIDES = {"conv1": 110, "conv2": 26, "conv3": 13, "conv4": 13, "conv5": 13}


def traced(backbone, size=224, **options):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    init = functools.partial(backbone.init_with_output, train=False, **options)
    return jax.eval_shape(lambda x: init(jax.random.key(0), x), image)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# The wide tail: conv3 to conv5 of 1,180,160 + 4,719,616 + 4,719,104, and an fc6 that reads 6 * 6 * 512.
@pytest.mark.parametrize("variant, params", [("zfnet", 62_357_608), ("zfnet_wide", 107_627_624)])
def test_parameter_count_and_sizes(variant, params):
    features, variables = traced(zfnet.build(variant), capture_intermediates=True)
    layers = variables["intermediates"]
    assert {name: layers[name]["__call__"][0].shape[1] for name in SIDES} == SIDES
    channels = 256 if variant == "zfnet" else 512
    assert features.map.shape == (2, 6, 6, channels) and features.embedding.shape == (2, 4096)
    head = jax.eval_shape(
        lambda x: heads.Linear(1000).init(jax.random.key(0), x, train=False), features.embedding
    )
    assert count(variables["params"]) + count(head["params"]) == params
    assert zfnet.torch_head(variant) == "fc8" and zfnet.torch_flatten(variant) == {"fc6": (6, 6)}


def test_work_of_the_first_layer_against_alexnet():
    kernel = traced(zfnet.build())[1]["params"]["conv1"]["kernel"]
    assert kernel.size * 110**2 / (11 * 11 * 3 * 96 * 55**2) == pytest.approx(1.62, abs=0.005)


@pytest.mark.parametrize("side, pooled", [(110, 55), (26, 13), (13, 6), (28, 14), (55, 27), (3, 1)])
def test_pooling_rounds_up(side, pooled):
    x = jnp.full((1, side, side, 1), -2.0).at[:, -1, -1].set(-1.0)
    result = ceil_max_pool(x)
    assert result.shape == (1, pooled, pooled, 1)
    np.testing.assert_array_equal(result[0, -1, -1], -1.0)
    np.testing.assert_array_equal(result[0, 0, 0], -1.0 if pooled == 1 else -2.0)


def test_norm_follows_the_pooling():
    backbone = zfnet.build(channels=(6, 8, 4, 4, 4), hidden=(8, 7))
    image = 300 * jax.random.normal(jax.random.key(1), (1, 63, 63, 3))
    variables = jax.jit(functools.partial(backbone.init, train=False))(jax.random.key(0), image)
    apply = functools.partial(backbone.apply, train=False, capture_intermediates=True)
    layers = jax.jit(apply)(variables, image)[1]["intermediates"]
    conv1, conv2 = (layers[name]["__call__"][0] for name in ("conv1", "conv2"))
    x = ceil_max_pool(jax.nn.relu(conv1))
    x = local_response_norm(x, size=5, alpha=5e-4, beta=0.75, k=2.0)
    expected = jax.lax.conv_general_dilated(
        x,
        variables["params"]["conv2"]["kernel"],
        (2, 2),
        ((0, 0), (0, 0)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(conv2, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variables["params"]["conv2"]["kernel"].std(), 0.01, rtol=0.1)


def test_bfloat16_keeps_params_whole():
    features, variables = traced(zfnet.build(dtype=jnp.bfloat16))
    assert features.embedding.dtype == features.map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_images_too_small():
    features, variables = traced(zfnet.build(), 63, capture_intermediates=True)
    sides = [variables["intermediates"][name]["__call__"][0].shape[1] for name in SIDES]
    assert sides == [30, 6, 3, 3, 3] and features.map.shape == (2, 1, 1, 256)
    with pytest.raises(ValueError, match="at least 63x63"):
        traced(zfnet.build(), 62)


def test_unknown_variant():
    for function in (zfnet.build, zfnet.torch_head, zfnet.torch_flatten):
        with pytest.raises(ValueError, match="zfnet_wide"):
            function("zfnet_v2")
