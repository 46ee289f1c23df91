"""DenseNet against the published counts, sizes and the rule of concatenation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.models import densenet


def shapes_of(backbone, size=224):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(
        lambda x: backbone.init_with_output(jax.random.key(0), x, train=False),
        image,
    )


def params_of(backbone, size=224, num_classes=1000):
    features, variables = shapes_of(backbone, size)
    head = heads.Linear(num_classes)
    head_variables = jax.eval_shape(
        lambda x: head.init(jax.random.key(0), x, train=False), features.embedding
    )
    return sum(leaf.size for leaf in jax.tree.leaves((variables["params"], head_variables["params"])))


@pytest.mark.parametrize(
    "variant, params",
    [
        ("densenet121", 7_978_856),
        ("densenet161", 28_681_000),
        ("densenet169", 14_149_480),
        ("densenet201", 20_013_928),
    ],
)
def test_parameter_count(variant, params):
    assert params_of(densenet.build(variant)) == params


def test_parameter_count_of_a_cifar_network_as_the_paper_rounds_it():
    assert round(params_of(densenet.build("densenet_bc_100_12"), size=32, num_classes=10) / 1e6, 1) == 0.8


@pytest.mark.parametrize(
    "variant, size, side",
    [("densenet121", 224, 7), ("densenet121", 193, 6), ("densenet_bc_100_12", 33, 8)],
)
def test_sizes(variant, size, side):
    depth = len(densenet.VARIANTS[variant]["layers"])
    features, _ = shapes_of(densenet.build(variant, layers=(1,) * depth), size)
    assert features.map.shape[:3] == (2, side, side) and features.embedding.shape == (
        2,
        features.map.shape[-1],
    )
    assert features.aux == ()


def test_a_layer_appends_to_its_input_and_leaves_it_alone():
    layer = densenet.DenseLayer(growth=5)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 7))
    out, _ = jax.jit(lambda x: layer.init_with_output(jax.random.key(1), x, False))(x)
    assert out.shape == (2, 4, 4, 12)
    np.testing.assert_array_equal(out[..., :7], x)


def test_the_last_map_is_rectified_and_remat_changes_no_param():
    small = dict(layers=(1, 2), growth=4)
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    plain, remat = densenet.build("densenet121", **small), densenet.build("densenet121", **small, remat=True)
    features, variables = jax.jit(lambda x: plain.init_with_output(jax.random.key(1), x, train=False))(x)
    assert jnp.min(features.map) == 0 and jnp.max(features.map) > 0
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes_of(remat, 32)[1])


def test_bfloat16_computes_in_half_and_keeps_params_whole():
    features, variables = shapes_of(densenet.build("densenet121", layers=(1, 1, 1, 1), dtype="bfloat16"))
    assert features.embedding.dtype == features.map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_unknown_variant():
    with pytest.raises(ValueError, match="densenet121"):
        densenet.build("densenet264")
