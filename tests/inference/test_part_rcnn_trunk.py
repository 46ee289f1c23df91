"""The network that describes regions: its map lies where the pixels do."""

import jax
import numpy as np
import pytest
from PIL import Image

from imgcls_jax.config.settings import ModelSettings
from imgcls_jax.inference.part_rcnn.trunk import Trunk, distinct, side_of
from imgcls_jax.models import mobilenet_v2, simpleconv3

LINE = "decode | resize({}) | normalize({})"


def drawn(family, name, variant, size, scale="0.5, 0.5", **fields):
    backbone = family.build(variant, **fields)
    init = jax.jit(lambda images: backbone.init(jax.random.key(0), images, train=False))
    variables = init(np.zeros((1, size, size, 3), np.float32))
    model = ModelSettings(name, variant, fields=fields)
    stats = variables.get("batch_stats", {})
    return Trunk(model, LINE.format(size, scale), size, variables["params"], stats)


def test_the_filling_becomes_zero():
    """The mean of the normalization, in 0..255."""
    imagenet = "(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)"
    assert drawn(simpleconv3, "simpleconv3", "simpleconv3", 16, imagenet).fill == (124, 116, 104)
    assert drawn(simpleconv3, "simpleconv3", "simpleconv3", 16).fill == (128, 128, 128)


def test_a_map_of_stride_16_at_twice_the_size():
    """MobileNetV2's own map has stride 32; the deepest of stride 16 is the expansion before it."""
    trunk = drawn(mobilenet_v2, "mobilenet_v2", "mobilenet_v2_folded", 32, width=0.1)
    for width, height, shape in ((300, 150, (2, 4)), (100, 200, (4, 2)), (64, 64, (4, 4)), (1, 900, (4, 1))):
        found, scale = trunk.feature_map(Image.new("RGB", (width, height), (10, 20, 30)))
        assert found.shape == (*shape, 6 * 8 * 2) and scale == 4 / max(width, height)


def test_the_map_lies_where_the_pixels_do():
    """A bright square changes the map where it is; the network, of linear layers, reads one size alone."""
    trunk = drawn(simpleconv3, "simpleconv3", "simpleconv3", 64)
    dark = np.zeros((100, 200, 3), np.uint8)
    bright = dark.copy()
    bright[40:60, 140:180] = 255
    (before, scale), (after, _) = (trunk.feature_map(Image.fromarray(pixels)) for pixels in (dark, bright))
    assert before.shape == (4, 8, 48) and scale == 8 / 200  # stride 8 at its own 64 pixels
    row, column = np.unravel_index(np.abs(after - before).sum(axis=-1).argmax(), before.shape[:2])
    assert 40 * scale - 1 < row < 60 * scale and 140 * scale - 1 < column < 180 * scale


def test_more_crops_than_are_computed_at_once():
    trunk = drawn(simpleconv3, "simpleconv3", "simpleconv3", 16)
    crops = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), np.uint8)
    found = np.stack(list(trunk.embeddings(iter(crops))))
    assert found.shape == (70, 128)
    np.testing.assert_allclose(found[64:], np.stack(list(trunk.embeddings(crops[64:]))), atol=1e-6)


def test_networks_that_are_one():
    first, second = (drawn(simpleconv3, "simpleconv3", "simpleconv3", 16) for _ in range(2))
    both, positions = distinct([first, second, first])
    assert both[0] is first and both[1] is second and positions == [0, 1, 0]


def test_the_side_of_crops():
    assert side_of("decode | resize_short(60) | center_crop(48) | normalize(0.5, 0.5)") == 48
    with pytest.raises(ValueError, match=r"makes images of \(48, 64, 3\); Part R-CNN needs square RGB ones"):
        side_of("decode | resize(48, 64)")
