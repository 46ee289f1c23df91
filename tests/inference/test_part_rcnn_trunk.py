"""The network that describes regions: its map lies where the pixels do."""

import jax
import numpy as np
import pytest
from PIL import Image

from imgcls_jax.config.settings import ModelSettings
from imgcls_jax.data import transforms
from imgcls_jax.inference.part_rcnn.trunk import Trunk, distinct, of_workdir, side_of
from imgcls_jax.inference.trained import embedding, load
from imgcls_jax.models import mobilenet_v2, simpleconv3
from imgcls_jax.train.run import run
from tests.train.test_loop import folder_config, folder_of_images

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


def test_the_network_of_a_run(tmp_path):
    folder_of_images(tmp_path / "data", 8)
    config = folder_config(tmp_path / "data")
    config["train"]["total_steps"] = 1
    run(config, tmp_path / "run")
    trunk = of_workdir(tmp_path / "run")
    files = sorted((tmp_path / "data").rglob("*.png"))[:3]
    found = list(load(tmp_path / "run").outputs_of_files(files, embedding, batch_size=8))
    host = transforms.parse(config["data"]["eval_transforms"])[0]
    crops = [transforms.apply(host, file.read_bytes(), np.random.default_rng(0)) for file in files]
    assert [trunk.size, trunk.embedding_size] == [16, len(found[0].output)]
    for ours, theirs in zip(trunk.embeddings(crops), found, strict=True):
        np.testing.assert_allclose(ours, theirs.output, atol=1e-5)
    both, positions = distinct([trunk, of_workdir(tmp_path / "run"), trunk])
    assert len(both) == 2 and positions == [0, 1, 0]


def test_more_crops_than_are_computed_at_once():
    trunk = drawn(simpleconv3, "simpleconv3", "simpleconv3", 16)
    crops = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), np.uint8)
    found = np.stack(list(trunk.embeddings(iter(crops))))
    assert found.shape == (70, 128)
    np.testing.assert_allclose(found[64:], np.stack(list(trunk.embeddings(crops[64:]))), atol=1e-6)


def test_the_side_of_crops():
    assert side_of("decode | resize_short(60) | center_crop(48) | normalize(0.5, 0.5)") == 48
    with pytest.raises(ValueError, match=r"makes images of \(48, 64, 3\); Part R-CNN needs square RGB ones"):
        side_of("decode | resize(48, 64)")
