"""Wide residual networks: counts of MixMatch and FixMatch, sizes, what a block's shortcut sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.models import wide_resnet

KEY = jax.random.key(0)


def shapes(backbone, size=32):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init_with_output(KEY, x, train=False), image)


@pytest.mark.parametrize(
    "variant, num_classes, params",
    [
        ("wrn_28_2", 10, 1_469_642),
        ("wrn_28_2", 100, 1_481_252),
        ("wrn_28_2", 1000, 1_597_352),
        ("wrn_37_2", 10, 5_933_770),
        ("wrn_28_2_large", 10, 25_985_290),
        ("wrn_28_2_large", 100, 26_033_980),
        ("wrn_28_8", 100, 23_409_092),
    ],
)
def test_parameter_count(variant, num_classes, params):
    features, variables = shapes(wide_resnet.build(variant))
    head = heads.Linear(num_classes)
    head_params = jax.eval_shape(lambda x: head.init(KEY, x, train=False), features.embedding)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves((variables["params"], head_params))) == params


def test_sizes_and_names():
    features, variables = shapes(wide_resnet.build("wrn_28_2"))
    assert features.map.shape == (1, 8, 8, 128) and features.embedding.shape == (1, 128)
    params = variables["params"]
    assert "convShortcut" in params["block2.layer.0"] and "convShortcut" not in params["block2.layer.1"]
    assert set(params["block1.layer.0"]["convShortcut"]) == {"kernel", "bias"}
    assert shapes(wide_resnet.build("wrn_37_2"), 96)[0].map.shape == (1, 12, 12, 256)
    assert wide_resnet.torch_head("wrn_28_2") == "fc"


def test_padding_is_that_of_tensorflow():
    conv = wide_resnet._conv(1, (3, 3), strides=2)
    variables = {"params": {"kernel": jnp.arange(9.0).reshape(3, 3, 1, 1), "bias": jnp.zeros(1)}}
    impulse = jnp.zeros((1, 8, 8, 1)).at[0, 0, 0, 0].set(1.0)
    y = conv.apply(variables, impulse)
    assert y.shape == (1, 4, 4, 1) and y[0, 0, 0, 0] == 0 and jnp.sum(y) == 0
    np.testing.assert_array_equal(conv.apply(variables, jnp.roll(impulse, 1, axis=(1, 2)))[0, 0, 0], [4.0])


@pytest.mark.parametrize("activated", [False, True])
def test_with_silent_branches_a_block_is_its_shortcut(activated):
    block = wide_resnet.Block(8, 1, activate_before_residual=activated)
    x = jax.random.normal(KEY, (1, 4, 4, 8))
    variables = jax.jit(lambda x: block.init(KEY, x, False))(x)
    params = dict(variables["params"], conv2=jax.tree.map(jnp.zeros_like, variables["params"]["conv2"]))
    y = jax.jit(lambda x: block.apply({**variables, "params": params}, x, False))(x)
    at_rest = x / np.sqrt(1 + 1e-3)  # the norm at its initial mean 0 and variance 1
    expected = jnp.where(at_rest > 0, at_rest, 0.1 * at_rest) if activated else x
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_running_mean_moves_slowly():
    norm = wide_resnet.slow_batch_norm(use_running_average=False)
    x = jnp.full((4, 2), 3.0)
    variables = norm.init(KEY, x)
    for _ in range(3):
        variables = {**variables, **norm.apply(variables, x, mutable=["batch_stats"])[1]}
    np.testing.assert_allclose(variables["batch_stats"]["mean"], 3 * (1 - 0.999**3), rtol=1e-4)


def test_bfloat16_and_remat_keep_the_params():
    plain = shapes(wide_resnet.build("wrn_28_2"))
    half = shapes(wide_resnet.build("wrn_28_2", dtype=jnp.bfloat16))
    again = shapes(wide_resnet.build("wrn_28_2", remat=True))
    assert half[0].embedding.dtype == jnp.bfloat16
    assert plain[1] == half[1] == again[1]


def test_unknown_variant():
    with pytest.raises(ValueError, match="wrn_28_8"):
        wide_resnet.build("wrn_40_2")
