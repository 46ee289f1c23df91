"""BiT's networks: standardized weights, and the names and layouts of the authors' files."""

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.models import resnetv2


def test_standardized_by_hand_and_blind_to_scale_and_shift():
    kernel = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(2, 2, 1, 1)
    expected = (np.array([1, 2, 3, 6]) - 3) / np.sqrt(3.5)
    np.testing.assert_allclose(resnetv2.standardized(kernel).ravel(), expected, rtol=1e-5)
    drawn = jax.random.normal(jax.random.key(0), (3, 3, 4, 5))
    one, other = resnetv2.standardized(drawn), resnetv2.standardized(3 * drawn + 2)
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert resnetv2.standardized(drawn.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert np.isfinite(jax.grad(lambda k: resnetv2.standardized(k).sum())(jnp.ones((1, 1, 4, 2)))).all()


def test_names_and_layouts_of_the_authors():
    arrays = {
        "resnet/root_block/standardized_conv2d/kernel": np.zeros((7, 7, 3, 64)),
        "resnet/block2/unit03/b/standardized_conv2d/kernel": np.zeros((3, 3, 4, 5)),
        "resnet/block1/unit01/a/proj/standardized_conv2d/kernel": np.zeros((1, 1, 6, 7)),
        "resnet/block4/unit01/c/group_norm/gamma": np.zeros(9),
        "resnet/block4/unit01/a/group_norm/beta": np.zeros(8),
        "resnet/group_norm/beta": np.zeros(2),
        "resnet/head/conv2d/kernel": np.zeros((1, 1, 2, 10)),
        "resnet/head/conv2d/bias": np.zeros(10),
    }
    found = resnetv2.import_weights(arrays, "resnetv2_50x1_bit")
    assert {name: array.shape for name, array in found.items()} == {
        "stem.conv.weight": (64, 3, 7, 7),
        "stages.1.blocks.2.conv2.weight": (5, 4, 3, 3),
        "stages.0.blocks.0.downsample.conv.weight": (7, 6, 1, 1),
        "stages.3.blocks.0.norm3.weight": (9,),
        "stages.3.blocks.0.norm1.bias": (8,),
        "norm.bias": (2,),
        "head.fc.weight": (10, 2),
        "head.fc.bias": (10,),
    }
    back = resnetv2.export_weights(found, "resnetv2_50x1_bit")
    assert back["head.fc.weight"].shape == (10, 2, 1, 1)
