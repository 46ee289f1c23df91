"""BN-Inception, both width tables and squeeze-and-excitation, against the published counts and sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.layers.attention import SqueezeExcitation
from imgcls_jax.models import bn_inception

COUNTS = {"bn_inception": 11_194_984, "bn_inception_caffe": 11_285_224, "se_bn_inception": 11_931_622}
MODULES = ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
SIDES = (28, 28, 14, 14, 14, 14, 14, 7, 7, 7)
CHANNELS = {
    "bn_inception": (256, 320, 576, 576, 576, 576, 576, 1024, 1024, 1024),
    "bn_inception_caffe": (256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024),
}


@functools.cache
def shapes_of(backbone, size=224):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init(jax.random.key(0), x, train=False), image)


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def outputs(backbone, size=224, **options):
    """Shapes of the features and of what mutable collections hold."""
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    apply = lambda variables, x: backbone.apply(variables, x, **options)  # noqa: E731
    return jax.eval_shape(apply, shapes_of(backbone, size), image)


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_count(variant):
    init = lambda x: heads.Linear(1000).init(jax.random.key(0), x, train=False)  # noqa: E731
    head = size_of(jax.eval_shape(init, jnp.zeros((1, 1024))))
    assert size_of(shapes_of(bn_inception.build(variant))["params"]) + head == COUNTS[variant]


@pytest.mark.parametrize("variant", CHANNELS)
def test_sizes_of_the_maps(variant):
    features, state = outputs(bn_inception.build(variant), train=False, capture_intermediates=True)
    calls = state["intermediates"]
    maps = [calls[f"inception{name}"]["__call__"][0].shape[1:] for name in MODULES]
    assert maps == [(side, side, width) for side, width in zip(SIDES, CHANNELS[variant], strict=True)]
    assert features.map.shape == (2, 7, 7, 1024) and features.embedding.shape == (2, 1024)
    assert features.aux == ()


@pytest.mark.parametrize("size, side", [(193, 7), (17, 1)])
def test_odd_sizes(size, side):
    assert outputs(bn_inception.build("bn_inception"), size=size, train=False).map.shape == (
        2,
        side,
        side,
        1024,
    )


def test_no_convolution_but_the_gates_has_a_bias():
    params = jax.tree_util.tree_leaves_with_path(shapes_of(bn_inception.build("se_bn_inception"))["params"])
    biased = {path[-2].key for path, _ in params if path[-1].key == "bias"}
    assert biased == {"bn", "fc1", "fc2"}


def test_widths_of_the_gates():
    params = shapes_of(bn_inception.build("se_bn_inception"))["params"]
    hidden = [params[f"inception{name}"]["se_module"]["fc1"]["kernel"].shape[-1] for name in MODULES]
    assert hidden == [16, 20, 36, 36, 36, 38, 38, 66, 64, 64]
    assert sum(size_of(params[f"inception{name}"]["se_module"]) for name in MODULES) == 646_398


def test_the_gate():
    block = SqueezeExcitation(16)
    x = jax.random.normal(jax.random.key(0), (3, 4, 5, 32))
    params = block.init(jax.random.key(1), x)["params"]
    out = block.apply({"params": params}, x)
    np.testing.assert_allclose(block.apply({"params": params}, x[::-1]), out[::-1], rtol=1e-5)  # per example
    assert np.ptp(out / x, axis=(1, 2)).max() < 1e-5  # one gate a channel
    closed = params | {"fc2": jax.tree.map(jnp.zeros_like, params["fc2"])}
    np.testing.assert_allclose(block.apply({"params": closed}, x), x / 2, rtol=1e-6)
    opened = params | {"fc2": {"kernel": 0 * params["fc2"]["kernel"], "bias": jnp.full(32, 50.0)}}
    np.testing.assert_allclose(block.apply({"params": opened}, x), x, rtol=1e-6)


def test_pools():
    x = -1.0 - jnp.arange(7.0)[None, :, None, None] * jnp.ones(
        (1, 7, 6, 1)
    )  # falls down the rows, odd by even
    halved = bn_inception._halve(x)
    assert halved.shape == (1, 4, 3, 1)
    np.testing.assert_array_equal(halved[0, :, 0, 0], [-1, -2, -4, -6])
    ones = jnp.ones((1, 3, 3, 1))
    corner = bn_inception._pool(ones, "avg")[0, 0, 0, 0]
    np.testing.assert_allclose(corner, 4 / 9, rtol=1e-6)  # the padding counts
    np.testing.assert_array_equal(bn_inception._pool(-ones, "max"), -ones)


def test_half_precision_and_remat_keep_the_params():
    plain = shapes_of(bn_inception.build("se_bn_inception"))
    half = bn_inception.build("se_bn_inception", dtype="bfloat16")
    assert shapes_of(half) == plain == shapes_of(bn_inception.build("se_bn_inception", remat=True))
    assert {leaf.dtype for leaf in jax.tree.leaves(plain)} == {jnp.dtype(jnp.float32)}
    assert outputs(half, train=False).embedding.dtype == jnp.bfloat16


def test_norm_epsilon():
    epsilons = [bn_inception.build(name).norm(use_running_average=True).epsilon for name in COUNTS]
    assert epsilons == [1e-3, 1e-5, 1e-5]


def test_unknown_variant():
    for function in (bn_inception.build, bn_inception.torch_head):
        with pytest.raises(ValueError, match="bn_inception, bn_inception_caffe, se_bn_inception"):
            function("inception_v2")
