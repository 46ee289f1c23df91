"""MobileNetV2 against the published count, its sizes, and the two paddings."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.models import mobilenet_v2
from imgcls_jax.weights import pretrained

SHARED = Path(__file__).parents[3] / "shared" / "data"


def shapes_of(backbone, size=224):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x, train=False), image)


def params_of(backbone, num_classes=1000):
    features, variables = shapes_of(backbone)
    head = heads.Linear(num_classes)
    head_variables = jax.eval_shape(
        lambda x: head.init(jax.random.key(0), x, train=False), features.embedding
    )
    return sum(leaf.size for leaf in jax.tree.leaves((variables["params"], head_variables["params"])))


def test_parameter_count():
    assert params_of(mobilenet_v2.build("mobilenet_v2")) == 3_504_872
    # Folding leaves one bias a channel where the norm had a scale and a bias. Here are 1001 classes.
    norms = 17_056
    assert params_of(mobilenet_v2.build("mobilenet_v2_folded"), 1001) == 3_504_872 - norms + 1281


def test_sizes():
    features, variables = shapes_of(mobilenet_v2.build("mobilenet_v2"), 193)
    assert features.map.shape == (2, 7, 7, 1280) and features.embedding.shape == (2, 1280)
    assert features.aux == () and "batch_stats" in variables
    features, variables = shapes_of(mobilenet_v2.build("mobilenet_v2_folded"), 200)
    assert features.map.shape == (2, 7, 7, 1280) and set(variables) == {"params"}


@pytest.mark.parametrize("width, stem, last", [(0.35, 16, 1280), (0.75, 24, 1280), (1.4, 48, 1792)])
def test_width_multiplier(width, stem, last):
    features, variables = shapes_of(mobilenet_v2.build("mobilenet_v2", width=width), 64)
    assert variables["params"]["features.0.0"]["kernel"].shape[-1] == stem
    assert features.map.shape[-1] == last


def test_rounding_of_channels():
    assert [mobilenet_v2.round_channels(c) for c in (3, 11.2, 12, 18, 33.6)] == [8, 16, 16, 24, 32]


def test_paddings_meet_another_tap_of_the_kernel():
    # An impulse at (0, 0) meets the centre of a stride-2 kernel under symmetric padding, its corner under
    # TensorFlow's SAME, which pads only the far side of an even input.
    impulse = jnp.zeros((1, 8, 8, 1)).at[0, 0, 0, 0].set(1.0)
    for padding, tap in (("torch", (1, 1)), ("tf", (0, 0))):
        block = mobilenet_v2.InvertedResidual(1, 1, 2, padding, None)
        params = {
            "conv.0.0": {"kernel": jnp.zeros((3, 3, 1, 1)).at[*tap, 0, 0].set(1.0), "bias": jnp.zeros(1)},
            "conv.1": {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.zeros(1)},
        }
        out = block.apply({"params": params}, impulse, False)
        np.testing.assert_array_equal(out[0, :, :, 0], np.eye(4)[:, :1] * np.eye(4)[:1])


def test_bfloat16_computes_in_half_and_keeps_params_whole():
    features, variables = shapes_of(mobilenet_v2.build("mobilenet_v2", dtype="bfloat16"), 64)
    assert features.embedding.dtype == features.map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_unknown_variant_and_padding():
    with pytest.raises(ValueError, match="mobilenet_v2_folded"):
        mobilenet_v2.build("mobilenet_v3")
    with pytest.raises(ValueError, match="torch"):
        shapes_of(mobilenet_v2.build("mobilenet_v2", padding="same"))


def test_tensorflows_names_and_layouts_by_hand():
    rng = np.random.default_rng(0)
    ours = {
        "Conv/w": "features.0.0.weight",
        "expanded_conv/depthwise/w": "features.1.conv.0.0.weight",
        "expanded_conv/project/b": "features.1.conv.1.bias",
        "expanded_conv_12/expand/w": "features.13.conv.0.0.weight",
        "expanded_conv_12/depthwise/b": "features.13.conv.1.0.bias",
        "expanded_conv_12/project/w": "features.13.conv.2.weight",
        "Conv_1/b": "features.18.0.bias",
        "Logits/Conv2d_1c_1x1/w": "classifier.1.weight",
        "Logits/Conv2d_1c_1x1/b": "classifier.1.bias",
    }
    shapes = {"Conv/w": (5, 3, 2, 4), "expanded_conv/depthwise/w": (1, 3, 2, 4)}
    shapes["Logits/Conv2d_1c_1x1/w"] = (1001, 1, 1, 4)
    arrays = {
        f"MobilenetV2/{name}": rng.normal(size=shapes.get(name, (6, 1, 1, 4) if name[-1] == "w" else (1001,)))
        for name in ours
    }
    named = mobilenet_v2.import_weights(arrays, "mobilenet_v2_folded")
    assert list(named) == list(ours.values())
    kernel, depthwise, *_ = arrays.values()
    assert named["features.0.0.weight"][4, 3, 2, 1] == kernel[4, 2, 1, 3]  # [O, I, h, w] from [O, h, w, I]
    assert named["features.1.conv.0.0.weight"].shape == (4, 1, 3, 2)
    assert named["features.1.conv.0.0.weight"][3, 0, 2, 1] == depthwise[0, 2, 1, 3]
    assert named["classifier.1.weight"].shape == (1000, 4) and named["classifier.1.bias"].shape == (1000,)
    assert named["classifier.1.bias"][7] == arrays["MobilenetV2/Logits/Conv2d_1c_1x1/b"][8]  # no background
    with pytest.raises(ValueError, match="take 'mobilenet_v2_folded'"):
        mobilenet_v2.import_weights(arrays, "mobilenet_v2")
    assert mobilenet_v2.import_weights(named, "mobilenet_v2") == named


def test_tensorflows_own_weights_on_photos():
    """On every tenth of 500 photos: 40 of 50 are right; of all 500 it is 439, 87.8 %."""
    weights, folder = SHARED / "weights" / "mobilenet_v2_1.0_224_folded.npz", SHARED / "imagenet_samples"
    if not (weights.exists() and folder.exists()):
        pytest.skip(f"{SHARED} is not here")
    from imgcls_jax.data import transforms

    backbone = mobilenet_v2.build("mobilenet_v2_folded")
    target = pretrained.target_shapes(backbone, (224, 224, 3), 1000)
    params, _, report = pretrained.load(weights, mobilenet_v2, "mobilenet_v2_folded", target)
    assert report.loaded == 106 and not report.notes and set(params) == {"backbone", "head"}
    ops, _ = transforms.parse("decode | rgb | resize_short(256) | center_crop(224)")
    lines = [line.split() for line in (folder / "labels.txt").read_text().splitlines()[::10]]
    photos = [
        transforms.apply(ops, (folder / path).read_bytes(), np.random.default_rng(0)) for path, _ in lines
    ]
    head = params["head"]["classifier"]

    @jax.jit
    def classify(images):
        features = backbone.apply({"params": params["backbone"]}, images / 127.5 - 1, train=False)
        return jnp.argmax(features.embedding @ head["kernel"] + head["bias"], axis=1)

    found = np.concatenate([classify(np.stack(photos[i : i + 25])) for i in range(0, len(photos), 25)])
    assert np.sum(found == [int(label) for _, label in lines]) >= 39
