"""SqueezeNet against the published counts and the sizes of ceil-mode pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.layers.pooling import ceil_max_pool
from imgcls_jax.models import squeezenet


def shapes_of(backbone, size=224):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x, train=False), image)


def params_of(backbone, num_classes=1000):
    # A 1x1 convolution has the size of a linear layer.
    features, variables = shapes_of(backbone)
    head = heads.Linear(num_classes)
    head_variables = jax.eval_shape(
        lambda x: head.init(jax.random.key(0), x, train=False), features.embedding
    )
    return sum(leaf.size for leaf in jax.tree.leaves((variables["params"], head_variables["params"])))


@pytest.mark.parametrize("variant, params", [("squeezenet1_0", 1_248_424), ("squeezenet1_1", 1_235_496)])
def test_parameter_count(variant, params):
    backbone = squeezenet.build(variant)
    assert params_of(backbone) == params and backbone.head == "conv_pool"


@pytest.mark.parametrize(
    "variant, size, side",
    [
        ("squeezenet1_0", 224, 13),  # 109, 54, 27, 13
        ("squeezenet1_1", 67, 4),  # 33, 16, 8, 4: the last two round up
        ("squeezenet1_1", 224, 13),  # 111, 55, 27, 13
    ],
)
def test_sizes(variant, size, side):
    features, _ = shapes_of(squeezenet.build(variant), size)
    assert features.map.shape == (2, side, side, 512) and features.embedding.shape == (2, 512)
    assert features.aux == ()


@pytest.mark.parametrize(
    "size, pooled", [(112, 56), (56, 28), (30, 15), (14, 7), (55, 27), (27, 13), (13, 6)]
)
def test_pooling_rounds_up(size, pooled):
    ramp = -jnp.arange(size, 0, -1.0)[None, :, None, None]  # negative: a padding of zeros would show
    out = ceil_max_pool(jnp.broadcast_to(ramp, (1, size, size, 1)))
    assert out.shape == (1, pooled, pooled, 1) and jnp.max(out) == -1


def test_bfloat16_computes_in_half_and_keeps_params_whole():
    features, variables = shapes_of(squeezenet.build("squeezenet1_1", dtype="bfloat16"), 64)
    assert features.embedding.dtype == features.map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_unknown_variant():
    with pytest.raises(ValueError, match="squeezenet1_1"):
        squeezenet.build("squeezenet2")


@pytest.mark.parametrize(
    "variant, indices", [("squeezenet1_0", "3 4 5 7 8 9 10 12"), ("squeezenet1_1", "3 4 6 7 9 10 11 12")]
)
def test_caffes_names_by_hand(variant, indices):
    rng = np.random.default_rng(0)
    layers = {"conv1x1_1": "squeeze", "conv1x1_2": "expand1x1", "conv3x3_2": "expand3x3"}
    ours = {"conv1_w": "features.0.weight", "conv1_b": "features.0.bias"}
    ours |= {
        f"fire{fire}__{layer}_{leaf}": f"features.{index}.{name}.{'weight' if leaf == 'w' else 'bias'}"
        for fire, index in enumerate(indices.split(), start=2)
        for layer, name in layers.items()
        for leaf in "wb"
    }
    ours |= {"conv_final_w": "classifier.1.weight", "conv_final_b": "classifier.1.bias"}
    arrays = {name: rng.normal(size=(2, 3, 1, 1)).astype(np.float32) for name in ours}
    named = squeezenet.import_weights(arrays, variant)
    assert list(named) == list(ours.values())
    for name, our_name in ours.items():
        flip = -1 if name == "conv1_w" else 1  # B, G, R to R, G, B
        np.testing.assert_array_equal(named[our_name], arrays[name][:, ::flip])
    assert squeezenet.import_weights(named, variant) == named
