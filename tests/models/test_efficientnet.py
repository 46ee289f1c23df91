"""EfficientNet against the published counts, the scaling table and the rule of stochastic depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.models import efficientnet


def shapes_of(backbone, size=64):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x, train=False), image)


def params_of(features, variables, num_classes=1000):
    head = heads.Linear(num_classes)
    head_variables = jax.eval_shape(
        lambda x: head.init(jax.random.key(0), x, train=False), features.embedding
    )
    return sum(leaf.size for leaf in jax.tree.leaves((variables["params"], head_variables["params"])))


@pytest.mark.parametrize(
    "variant, params, stem, last, repeats, channels",
    [
        ("b0", 5_288_548, 32, 1280, (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
        ("b1", 7_794_184, 32, 1280, (2, 3, 3, 4, 4, 5, 2), (16, 24, 40, 80, 112, 192, 320)),
        ("b2", 9_109_994, 32, 1408, (2, 3, 3, 4, 4, 5, 2), (16, 24, 48, 88, 120, 208, 352)),
        ("b3", 12_233_232, 40, 1536, (2, 3, 3, 5, 5, 6, 2), (24, 32, 48, 96, 136, 232, 384)),
        ("b4", 19_341_616, 48, 1792, (2, 4, 4, 6, 6, 8, 2), (24, 32, 56, 112, 160, 272, 448)),
        ("b5", 30_389_784, 48, 2048, (3, 5, 5, 7, 7, 9, 3), (24, 40, 64, 128, 176, 304, 512)),
        ("b6", 43_040_704, 56, 2304, (3, 6, 6, 8, 8, 11, 3), (32, 40, 72, 144, 200, 344, 576)),
        ("b7", 66_347_960, 64, 2560, (4, 7, 7, 10, 10, 13, 4), (32, 48, 80, 160, 224, 384, 640)),
    ],
)
def test_parameter_count_and_scaling(variant, params, stem, last, repeats, channels):
    features, variables = shapes_of(efficientnet.build(f"efficientnet_{variant}"))
    assert params_of(features, variables) == params
    tree = variables["params"]
    assert tree["features.0"]["0"]["kernel"].shape[-1] == stem and features.embedding.shape == (2, last)
    for stage, (depth, width) in enumerate(zip(repeats, channels, strict=True), start=1):
        blocks = [tree[name] for name in tree if name.startswith(f"features.{stage}.")]
        project = "block.2" if stage == 1 else "block.3"
        assert [block[project]["0"]["kernel"].shape[-1] for block in blocks] == [width] * depth


def test_sizes_and_squeeze_widths():
    features, variables = shapes_of(efficientnet.build("efficientnet_b0"), 193)
    assert features.map.shape == (2, 7, 7, 1280) and features.aux == ()
    squeezed = [
        variables["params"][f"features.2.{block}"]["block.2"]["fc1"]["kernel"].shape[-1] for block in (0, 1)
    ]
    assert squeezed == [4, 6]  # a quarter of the block's input, not of what it expands to


def test_drop_rates():
    rates = efficientnet.build("efficientnet_b0").drop_rates()
    assert len(rates) == 16
    np.testing.assert_allclose(rates, np.arange(16) * 0.0125, atol=1e-12)


def test_epsilon_and_momentum_of_the_norm():
    assert efficientnet.build("efficientnet_b4").norm is efficientnet.batch_norm
    norm = efficientnet.build("efficientnet_b5").norm()
    assert (norm.epsilon, norm.momentum) == (1e-3, 0.99)


def test_stochastic_depth_keeps_or_drops_whole_images_and_is_unbiased():
    # Without batch statistics, so that images do not mix.
    frozen = lambda use_running_average, dtype, name: efficientnet.batch_norm(  # noqa: E731
        use_running_average=True, dtype=dtype, name=name
    )
    block = lambda rate: efficientnet.MBConv(4, 2, 3, 1, stochastic_depth=rate, norm=frozen)  # noqa: E731
    x = jax.random.normal(jax.random.key(0), (64, 2, 2, 4))
    variables = jax.jit(lambda x: block(0.0).init(jax.random.key(1), x, False))(x)
    run = jax.jit(
        lambda rate: block(rate).apply(variables, x, True, rngs={"dropout": jax.random.key(2)}) - x,
        static_argnums=0,
    )
    branch, dropped, half = run(0.0), run(1.0), run(0.5)
    np.testing.assert_array_equal(dropped, 0)
    kept = jnp.any(half != 0, axis=(1, 2, 3))
    assert 16 < jnp.sum(kept) < 48
    np.testing.assert_allclose(half, jnp.where(kept[:, None, None, None], 2 * branch, 0), atol=1e-5)


def test_remat_changes_no_param_and_bfloat16_keeps_them_whole():
    _, plain = shapes_of(efficientnet.build("efficientnet_b0"))
    features, variables = shapes_of(efficientnet.build("efficientnet_b0", remat=True, dtype="bfloat16"))
    assert variables == plain
    assert features.embedding.dtype == features.map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_errors():
    with pytest.raises(ValueError, match="efficientnet_b7"):
        efficientnet.build("efficientnet_b8")
    with pytest.raises(ValueError, match="padding"):
        shapes_of(efficientnet.build("efficientnet_b0", padding="same"))
