"""ConvNeXt: global response normalization by hand, and the names of its authors' files."""

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.models import convnext


def test_global_response_normalization_by_hand():
    x = np.array([[[[3.0, 1.0]], [[4.0, 0.0]]]], np.float32)  # [1, 2, 1, 2]: norms 5 and 1, of mean 3
    params = {"scale": jnp.array([1.0, 2.0]), "bias": jnp.array([0.5, 0.0])}
    found = convnext.GlobalResponseNorm().apply({"params": params}, x)
    expected = x * (1 + np.array([1 * 5 / 3, 2 * 1 / 3])) + np.array([0.5, 0])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    begin = convnext.GlobalResponseNorm().init_with_output(jax.random.key(0), x)[0]
    np.testing.assert_array_equal(begin, x)


def test_its_gradient_is_finite_where_a_channel_or_all_are_zero():
    params = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
    for x in (jnp.zeros((1, 2, 2, 2)), jnp.ones((1, 2, 2, 2)).at[..., 0].set(0)):
        gradient = jax.grad(lambda x: convnext.GlobalResponseNorm().apply({"params": params}, x).sum())(x)
        assert np.isfinite(gradient).all()


def test_layer_scale_begins_small_and_v2_has_none():
    for variant, has in (("convnext_tiny", True), ("convnextv2_tiny", False)):
        backbone = convnext.build(variant, depths=(1,), widths=(4,))
        image = jnp.zeros((1, 8, 8, 3))
        params = jax.jit(lambda x: backbone.init(jax.random.key(0), x, train=False))(image)["params"]  # noqa: B023
        block = params["features.1.0"]
        assert ("layer_scale" in block) == has and ("block.grn" in block) != has
        if has:
            np.testing.assert_allclose(block["layer_scale"], 1e-6)


def test_names_and_shapes_of_the_authors_and_of_timm():
    here = {
        "features.0.1.bias": ("downsample_layers.0.1.bias", "stem.1.bias"),
        "features.4.0.weight": ("downsample_layers.2.0.weight", "stages.2.downsample.0.weight"),
        "features.5.3.block.0.bias": ("stages.2.3.dwconv.bias", "stages.2.blocks.3.conv_dw.bias"),
        "features.5.3.block.2.bias": ("stages.2.3.norm.bias", "stages.2.blocks.3.norm.bias"),
        "features.5.3.block.3.weight": ("stages.2.3.pwconv1.weight", "stages.2.blocks.3.mlp.fc1.weight"),
        "features.5.3.block.5.bias": ("stages.2.3.pwconv2.bias", "stages.2.blocks.3.mlp.fc2.bias"),
        "features.5.3.layer_scale": ("stages.2.3.gamma", "stages.2.blocks.3.gamma"),
        "features.5.3.block.grn.weight": ("stages.2.3.grn.gamma", "stages.2.blocks.3.mlp.grn.weight"),
        "features.5.3.block.grn.bias": ("stages.2.3.grn.beta", "stages.2.blocks.3.mlp.grn.bias"),
        "classifier.0.weight": ("norm.weight", "head.norm.weight"),
        "classifier.2.bias": ("head.bias", "head.fc.bias"),
    }
    for names in zip(*here.values(), strict=True):
        found = convnext.import_weights(dict.fromkeys(names), "convnext_tiny")
        assert list(found) == list(here)
    assert list(convnext.import_weights(dict.fromkeys(here), "convnext_tiny")) == list(here)
    shaped = {
        "stages.0.0.grn.beta": np.zeros((1, 1, 1, 8)),
        "stages.0.blocks.0.mlp.fc1.weight": np.zeros((8, 2, 1, 1)),
        "features.1.0.layer_scale": np.zeros((2, 1, 1)),
        "stages.0.blocks.0.conv_dw.weight": np.zeros((2, 1, 7, 7)),
    }
    found = convnext.import_weights(shaped, "convnextv2_nano")
    assert [a.shape for a in found.values()] == [(8,), (8, 2), (2,), (2, 1, 7, 7)]
    back = convnext.export_weights(found, "convnext_tiny")
    assert back["features.1.0.layer_scale"].shape == (2, 1, 1)
