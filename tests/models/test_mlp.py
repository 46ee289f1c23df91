"""The perceptron against a count and a computation by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.contracts.backbone import init_backbone
from imgcls_jax.models import mlp

KEY = jax.random.key(0)


def test_parameter_count():
    """784 512 + 512 and 512 256 + 256 for the digits of MNIST."""
    image = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    variables = jax.eval_shape(lambda x: mlp.build().init(KEY, x, train=False), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 533_248


def test_two_layers_by_hand():
    """fc1 reads (1, -1, 2, 0) row by row: 1 - 2 + 6 = 5 and 2 - 2 - 2 = -2; fc2 makes 2 5 + 1 of it."""
    backbone = mlp.build(hidden=(2, 1))
    images = jnp.array([[[[1.0], [-1.0]], [[2.0], [0.0]]]])
    layers = {
        "fc1": {"kernel": jnp.array([[1.0, 2.0], [2.0, 2.0], [3.0, -1.0], [9.0, 9.0]]), "bias": jnp.zeros(2)},
        "fc2": {"kernel": jnp.array([[2.0], [7.0]]), "bias": jnp.ones(1)},
    }
    features = backbone.apply({"params": layers}, images, train=False)
    np.testing.assert_allclose(features.embedding, [[11.0]])
    assert features.map.shape == (1, 1, 1, 1)


def test_without_layers_the_embedding_is_the_image():
    images = jnp.arange(12.0).reshape(1, 2, 2, 3)
    features, variables = mlp.build(hidden=()).init_with_output(KEY, images, train=False)
    np.testing.assert_array_equal(features.embedding, images.reshape(1, 12))
    assert not variables
    assert init_backbone(mlp.build(hidden=()), KEY, images)[:2] == ({}, {})


def test_dropout_is_drawn_in_training_alone():
    backbone, images = mlp.build(hidden=(64,), dropout=0.5), jnp.ones((4, 2, 2, 1))
    variables = backbone.init(KEY, images, train=False)
    still = backbone.apply(variables, images, train=False).embedding
    drawn = backbone.apply(variables, images, train=True, rngs={"dropout": KEY}).embedding
    kept = np.asarray(drawn != 0)
    np.testing.assert_allclose(drawn[kept], 2 * still[kept], rtol=1e-6)
    assert 0.2 < 1 - kept.sum() / np.sum(still != 0) < 0.8
