"""Network in Network against the counts, the sizes of pooling that rounds up, and its average pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.config.resolve import resolve_model
from imgcls_jax.layers import heads
from imgcls_jax.models import nin
from imgcls_jax.train.build import make_backbone


def shapes_of(backbone, size):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x, train=False), image)


@pytest.mark.parametrize(
    "variant, size, num_classes, params",
    [
        ("nin_imagenet", 224, 1000, 7_595_176),
        ("nin_cifar", 32, 10, 966_986),
        ("nin_cifar", 32, 1000, 1_158_056),
    ],
)
def test_parameter_count(variant, size, num_classes, params):
    # A 1x1 convolution has the size of a linear layer.
    backbone, head = nin.build(variant), heads.Linear(num_classes)
    features, variables = shapes_of(backbone, size)
    head_variables = jax.eval_shape(
        lambda x: head.init(jax.random.key(0), x, train=False), features.embedding
    )
    trees = (variables["params"], head_variables["params"])
    assert sum(leaf.size for leaf in jax.tree.leaves(trees)) == params
    assert backbone.head == "conv_pool"
    # The head's name is the next of the 1x1 convolutions.
    layers = sum(name.startswith("cccp") for name in variables["params"])
    assert nin.torch_head(variant) == f"cccp{layers + 1}"


@pytest.mark.parametrize(
    "variant, size, shape",
    [
        ("nin_imagenet", 224, (2, 6, 6, 1024)),
        ("nin_imagenet", 227, (2, 6, 6, 1024)),
        ("nin_imagenet", 39, (2, 1, 1, 1024)),
        ("nin_cifar", 32, (2, 8, 8, 192)),
        ("nin_cifar", 4, (2, 1, 1, 192)),
        ("nin_cifar", 45, (2, 11, 11, 192)),
    ],
)
def test_sizes(variant, size, shape):
    features, _ = shapes_of(nin.build(variant), size)
    assert features.map.shape == shape and features.embedding.shape == (2, shape[-1]) and features.aux == ()


@pytest.mark.parametrize("variant", nin.VARIANTS)
def test_a_configuration_keeps_the_stages(variant):
    backbone = make_backbone(resolve_model({"name": "nin", "variant": variant}))
    assert backbone == nin.build(variant)


def test_rotnets_network_has_four_blocks_with_batch_norm():
    backbone = nin.build("nin_rotnet")
    features, variables = shapes_of(backbone, 32)
    assert features.map.shape == (2, 8, 8, 192) and backbone.head == "linear"
    first = 3 * 192 * 25 + 192 * 160 + 160 * 96
    others = 96 * 192 * 25 + 192 * 192 * (2 + 9 + 2 + 9 + 2)
    norms = 2 * (192 + 160 + 96 + 9 * 192)  # and no bias
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == first + others + norms
    assert len(variables["batch_stats"]) == 12


def test_a_border_counts_in_averages_and_never_is_the_largest():
    x = -jnp.ones((1, 4, 4, 1))
    np.testing.assert_allclose(nin._pool(x, "max", 1)[0, :, :, 0], [[-1, -1], [-1, -1]])
    np.testing.assert_allclose(
        nin._pool(x, "avg", 1)[0, :, :, 0], [[-4 / 9, -6 / 9], [-6 / 9, -1]], rtol=1e-6
    )


def test_pooling_rounds_up_and_averages_what_a_partial_window_has():
    ramp = jnp.broadcast_to(jnp.arange(-4.0, 0.0)[None, :, None, None], (1, 4, 4, 1))
    np.testing.assert_allclose(nin._pool(ramp, "max")[0, :, 0, 0], [-2, -1])
    np.testing.assert_allclose(nin._pool(ramp, "avg")[0, :, 0, 0], [-3, -1.5])


def test_dropout_acts_in_training_only():
    backbone = nin.build("nin_cifar")
    images = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))

    @jax.jit
    def maps(images):
        variables = backbone.init(jax.random.key(1), images, train=False)
        still = backbone.apply(variables, images, train=False).map
        noisy = [
            backbone.apply(variables, images, train=True, rngs={"dropout": jax.random.key(seed)}).map
            for seed in (2, 3)
        ]
        return still, *noisy

    still, one, other = maps(images)
    assert jnp.any(one != still) and jnp.any(one != other)


def test_bfloat16_computes_in_half_and_keeps_params_whole():
    features, variables = shapes_of(nin.build("nin_cifar", dtype="bfloat16"), 32)
    assert features.embedding.dtype == features.map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_unknown_variant():
    with pytest.raises(ValueError, match="nin_cifar"):
        nin.build("nin")
