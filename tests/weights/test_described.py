"""What the files beside public weights say: preprocessing and GELU, and files of other forms."""

import json

import pytest

from imgcls_jax.data import transforms
from imgcls_jax.weights.described import describe

MEAN = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
NORMALIZED = "normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))"
TIMM = {"input_size": [3, 224, 224], "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}


def described(tmp_path, **contents):
    files = {}
    for name, content in contents.items():
        path = tmp_path / f"{name}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        files[path.name] = path
    return describe(files)


@pytest.mark.parametrize(
    "content, expected",
    [
        ({"size": 224, "resample": 2}, "resize(224, 224)"),  # the older form of google/vit-base-patch16-224
        ({"size": {"height": 384, "width": 384}, "resample": 3}, 'resize(384, 384, "bicubic")'),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3},
            'resize_short(256, "bicubic") | center_crop(224)',
        ),
        (
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3},
            'resize_short(256, "bicubic") | center_crop(224)',
        ),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, "resize(384, 384)"),
    ],
)
def test_the_processor_of_transformers(tmp_path, content, expected):
    line = described(tmp_path, preprocessor_config=content | MEAN).preprocessing.line
    assert line == f"decode | rgb | {expected} | {NORMALIZED}"
    transforms.parse(line)


def test_timm_and_open_clip(tmp_path):
    found = described(tmp_path, config={"pretrained_cfg": TIMM | {"crop_pct": 0.9}}).preprocessing
    assert found.line == f'decode | rgb | resize_short(248, "bicubic") | center_crop(224) | {NORMALIZED}'
    squashed = described(tmp_path, config={"pretrained_cfg": TIMM | {"crop_mode": "squash"}}).preprocessing
    assert 'resize(224, 224, "bicubic")' in squashed.line
    clip = {
        "model_cfg": {"vision_cfg": {"image_size": 240}},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "shortest"},
    }
    found = described(tmp_path, open_clip_config=clip)
    assert found.fields == {"quick_gelu": False}
    assert 'resize_short(240, "bicubic") | center_crop(240)' in found.preprocessing.line
    clip["model_cfg"]["vision_cfg"]["timm_model_name"] = "vit_base_patch16_siglip_224"
    assert described(tmp_path, open_clip_config=clip).fields == {}


@pytest.mark.parametrize(
    "config, quick, tanh",
    [
        ({"model_type": "vit", "hidden_act": "gelu"}, False, False),
        ({"model_type": "clip", "vision_config": {}}, True, False),
        ({"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}, False, False),
        ({"model_type": "siglip", "vision_config": {"hidden_size": 768}}, False, True),
    ],
)
def test_the_gelu(tmp_path, config, quick, tanh):
    assert described(tmp_path, config=config).fields == {"quick_gelu": quick, "tanh_gelu": tanh}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"pretrained_cfg": 3}',
        "[" * 100_000,
        {"pretrained_cfg": TIMM | {"input_size": [3, 10**9, 10**9]}},
        {"pretrained_cfg": TIMM | {"input_size": "224"}},
        {"pretrained_cfg": TIMM | {"crop_pct": 0}},
        {"pretrained_cfg": TIMM | {"interpolation": "lanczos"}},
        {"pretrained_cfg": TIMM | {"interpolation": ["bicubic"]}},
        {"pretrained_cfg": TIMM | {"std": [0, 1, 1]}},
        {"pretrained_cfg": TIMM | {"mean": ["nan", 0, 0]}},
        {"pretrained_cfg": TIMM | {"mean": [0.5]}},
        {"hidden_act": ["x"], "model_type": {}, "vision_config": 3},
    ],
)
def test_what_is_in_another_form_describes_nothing(tmp_path, content):
    found = described(tmp_path, config=content)
    assert found.preprocessing is None and found.fields == {}
    for name in ("preprocessor_config", "open_clip_config"):
        assert described(tmp_path, **{name: content}).preprocessing is None
