"""EfficientNet against the published counts, the scaling table and the rule of stochastic depth, and Lite0
against ImageNet photos.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imgcls_jax.layers import heads
from imgcls_jax.models import efficientnet
from imgcls_jax.weights import pretrained

DATA = Path(__file__).parents[3] / "shared/data"


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
        ("lite0", 4_652_008, 32, 1280, (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
        ("lite1", 5_416_680, 32, 1280, (1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
        ("lite2", 6_092_072, 32, 1280, (1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
        ("lite3", 8_197_096, 32, 1280, (1, 3, 3, 5, 5, 6, 1), (24, 32, 48, 96, 136, 232, 384)),
        ("lite4", 13_006_568, 32, 1280, (1, 4, 4, 6, 6, 8, 1), (24, 32, 56, 112, 160, 272, 448)),
    ],
)
def test_parameter_count_and_scaling(variant, params, stem, last, repeats, channels):
    features, variables = shapes_of(efficientnet.build(f"efficientnet_{variant}"))
    assert params_of(features, variables) == params
    tree = variables["params"]
    assert tree["features.0"]["0"]["kernel"].shape[-1] == stem and features.embedding.shape == (2, last)
    for stage, (depth, width) in enumerate(zip(repeats, channels, strict=True), start=1):
        blocks = [tree[name] for name in tree if name.startswith(f"features.{stage}.")]
        project = f"block.{3 - (stage == 1) - variant.startswith('lite')}"
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


def test_names_of_other_packages():
    ours = {
        "features.0.0.weight": ("_conv_stem.weight", "conv_stem.weight"),
        "features.0.1.running_var": ("_bn0.running_var", "bn1.running_var"),
        "features.1.0.block.0.0.weight": ("_blocks.0._depthwise_conv.weight", "blocks.0.0.conv_dw.weight"),
        "features.1.0.block.2.1.bias": ("_blocks.0._bn2.bias", "blocks.0.0.bn2.bias"),
        "features.2.1.block.1.1.bias": ("_blocks.2._bn1.bias", "blocks.1.1.bn2.bias"),
        "features.2.1.block.2.fc2.bias": ("_blocks.2._se_expand.bias", "blocks.1.1.se.conv_expand.bias"),
        "features.7.0.block.3.0.weight": ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
        "features.8.1.bias": ("_bn1.bias", "bn2.bias"),
        "classifier.1.bias": ("_fc.bias", "classifier.bias"),
    }
    for names in zip(*ours.values(), strict=True):
        found = efficientnet.import_weights(dict(zip(names, range(9), strict=True)), "efficientnet_b0")
        assert found == dict(zip(ours, range(9), strict=True))
    assert efficientnet.import_weights(dict(ours), "efficientnet_b0") == ours
    lite = efficientnet.import_weights({"_blocks.29._project_conv.weight": 0}, "efficientnet_lite4")
    assert lite == {"features.7.0.block.2.0.weight": 0}  # no gate, and 1 + 4 + 4 + 6 + 6 + 8 blocks before


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


@pytest.mark.slow
def test_lite0_knows_439_of_500_photos():
    """The reference network in PyTorch gets 439 right; with symmetric padding 399, with epsilon 1e-5 434."""
    weights, photos = DATA / "weights/efficientnet_lite0.pth", DATA / "imagenet_samples"
    if not (weights.exists() and photos.exists()):
        pytest.skip(f"{weights} or {photos} is not here")
    backbone = efficientnet.build("efficientnet_lite0")
    target = pretrained.target_shapes(backbone, (224, 224, 3), 1000)
    params, batch_stats, report = pretrained.load(weights, efficientnet, "efficientnet_lite0", target)
    assert report.loaded == 247 and not report.notes

    @jax.jit
    def predicted(images):
        variables = {"params": params["backbone"], "batch_stats": batch_stats}
        embedding = backbone.apply(variables, images, train=False).embedding
        head = params["head"]["classifier"]
        return jnp.argmax(embedding @ head["kernel"] + head["bias"], axis=-1)

    lines = [line.rsplit(" ", 1) for line in (photos / "labels.txt").read_text().splitlines()]
    images = np.stack([(center_of(photos / name) - 127.0) / 128 for name, _ in lines]).astype(np.float32)
    found = np.concatenate([predicted(part) for part in np.split(images, 10)])
    assert np.sum(found == [int(label) for _, label in lines]) == 439


def center_of(path):
    """Returns the 224 x 224 pixels in the middle of an image whose shorter side is made 256."""
    with Image.open(path) as image:
        sides = [256 * side // min(image.size) for side in image.size]
        image = image.convert("RGB").resize(sides, Image.Resampling.BICUBIC)
    left, top = ((side - 224) // 2 for side in sides)
    return np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
