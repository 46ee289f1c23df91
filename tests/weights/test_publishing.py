"""Networks under the names of timm and transformers: what tests/golden/record_published.py recorded of both.

There each package made the network of the config.json written here, loaded what was written, and gave its
logits. Here nothing of theirs is needed.
"""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from imgcls_jax.models import alexnet, resnet, vit
from imgcls_jax.weights import hub, pretrained, publishing
from imgcls_jax.weights.described import describe
from imgcls_jax.weights.timm_networks import TRAINING

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-4  # of the largest logit
QUICK = {"vit", "convnext", "swin", "mobilenet_v3"}  # families whose arrays are small


def module_of(name):
    spec = importlib.util.spec_from_file_location(name, GOLDEN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


cases, drawing = module_of("published_cases"), module_of("drawing")


def recorded(case, key):
    with np.load(GOLDEN / "published" / "logits.npz") as arrays:
        found = arrays[f"{case.name}/{key}"]
    return json.loads(found.tobytes()) if found.dtype == np.uint8 else found


def slow_unless(quick):
    return [
        pytest.param(case, marks=[] if quick(case) else [pytest.mark.slow], id=case.name)
        for case in cases.CASES
    ]


def parts_and_drawn(case):
    drawn = drawing.draw_all(recorded(case, "shapes"), case.gain)
    return cases.parts_of(case, drawn), drawn


@pytest.mark.parametrize("case", slow_unless(lambda case: case.family in QUICK or case.variant == "resnet18"))
def test_what_is_written_is_what_was_read_to_the_bit(case):
    parts, drawn = parts_and_drawn(case)
    written = cases.published(parts)
    assert written.files == recorded(case, "files")  # from which the other package made the network
    if "reg_token" in drawn:  # whose drawn positions are added to them, and written as zeros
        drawn, written = written.arrays, cases.published(cases.parts_of(case, written.arrays))
    assert written.arrays.keys() == drawn.keys()
    for name, array in written.arrays.items():
        assert array.dtype == np.float32 and np.array_equal(array, drawn[name]), name


@pytest.mark.parametrize("case", slow_unless(lambda case: case.variant == "vit_ti16"))
def test_the_other_package_gives_the_same_logits(case):
    parts, _ = parts_and_drawn(case)
    expected = recorded(case, "logits")
    found = drawing.summary(cases.logits_of(parts, drawing.images(cases.SIDE)), cases.CLASSES)
    assert np.abs(found - expected).max() / expected[2] <= TOLERANCE


def drawn_values(target, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), target)


@pytest.mark.parametrize("naming", ["timm", "hugging_face"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_back_to_the_bit(tmp_path, naming, channels):
    fields = {"depth": 2, "width": 12, "heads": 3, "patch": 8}
    backbone, shape = vit.build("vit_ti16", **fields), (16, 16, channels)
    target = pretrained.target_shapes(backbone, shape, 3)
    values = drawn_values(target)["params"]
    preprocessing = cases.Preprocessing(16, 16, 20, "bicubic", (0.5,) * channels, (0.25,) * channels)
    written = publishing.published(
        values,
        {},
        vit,
        "vit_ti16",
        backbone,
        naming=naming,
        image_shape=shape,
        class_names=("a", "b", "c"),
        preprocessing=preprocessing,
    )
    pretrained.write_safetensors(tmp_path / "model.safetensors", written.arrays)
    for name, content in written.files.items():
        (tmp_path / name).write_text(json.dumps(content))
    located = hub.locate(str(tmp_path))
    params, _, report = pretrained.load(located.path, vit, "vit_ti16", target)
    assert not report.notes
    jax.tree.map(np.testing.assert_array_equal, params, values)
    if channels == 3:
        assert located.description.preprocessing == preprocessing
    assert written.files["config.json"].get("label_names", ["a", "b", "c"]) == ["a", "b", "c"]


@pytest.mark.parametrize("height", [16, 224, 299, 384])
@pytest.mark.parametrize("longer", [0, 1, 11, 32, 100])
def test_a_crop_is_said_so_that_it_is_read_again(tmp_path, height, longer):
    from imgcls_jax.weights.described import hugging_face_preprocessing, timm_preprocessing

    own = cases.Preprocessing(height, height, height + longer, "bilinear", (0.5,) * 3, (0.5,) * 3)
    for name, content in (
        ("config.json", {"pretrained_cfg": timm_preprocessing(own, 3)}),
        ("preprocessor_config.json", hugging_face_preprocessing(own)),
    ):
        (tmp_path / name).write_text(json.dumps(content))
        assert describe({name: tmp_path / name}).preprocessing == own


def refused(family, variant, naming, **fields):
    """Returns why a network is refused, before its arrays are looked at."""
    backbone = family.build(variant, **fields)
    with pytest.raises(ValueError) as error:
        publishing.published(
            {"backbone": {}, "head": {}},
            {},
            family,
            variant,
            backbone,
            naming=naming,
            image_shape=(64, 64, 3),
            class_names=("a", "b"),
            preprocessing=cases.Preprocessing(64, 64, 0, "bilinear", (0.5,) * 3, (0.5,) * 3),
        )
    return str(error.value)


def test_networks_that_others_do_not_have_are_refused():
    told = refused(alexnet, "alexnet", "timm")
    assert "models/alexnet.py has no names of timm; of the families timm has resnet, densenet" in told
    assert "; hugging_face has vit, resnet" in told
    told = refused(resnet, "resnet18_cbam", "timm")
    assert "timm has no network of resnet18_cbam of models/resnet.py; it has those of resnet18, " in told
    told = refused(resnet, "resnet18", "timm", stem=resnet.cifar_stem)
    assert "timm has no resnet18 with config.model.stem=" in told
    told = refused(resnet, "se_resnet50", "hugging_face", stage_sizes=(1, 1, 1, 1))
    assert "transformers has no se_resnet50; it has resnet18, resnet34" in told
    told = refused(vit, "vit_ti16", "hugging_face", depth=1, pool="mean")
    assert "has no config.model.pool='mean'; --naming timm has" in told
    told = refused(vit, "vit_ti16", "timm", depth=1, position="sincos")
    assert "with config.model.position='sincos'" in told
    told = refused(vit, "vit_ti16", "timm", depth=1, epsilon=1e-4)
    assert "config.model.epsilon=0.0001" in told
    told = refused(vit, "vit_ti16", "timm", depth=1, pool="map")
    assert "no config.model.pool='map' with class_token or registers" in told
    for naming in ("timm", "hugging_face"):
        plain = dict(depth=1, layer_scale=0.0, registers=0)
        told = refused(vit, "vit_s16plus_dinov3", naming, **plain)
        assert "with config.model.position='rotary'" in told
        told = refused(vit, "vit_s16plus_dinov3", naming, **plain, position="learned")
        assert "with config.model.gated_mlp=True" in told


SIZES = frozenset("patch width depth heads mlp_width".split())


@pytest.mark.parametrize("naming", ["timm", "hugging_face"])
def test_each_variant_of_vit_is_proven_or_refused(naming):
    """A variant is proven where each of its fields, sizes apart, has a value that a recorded network had."""

    def values(variant, fields):
        backbone = vit.build(variant, **fields)
        names = {field.name for field in dataclasses.fields(backbone)} - {"parent", "name"} - SIZES - TRAINING
        return {(name, getattr(backbone, name)) for name in names}

    own = [case for case in cases.CASES if (case.family, case.naming) == ("vit", naming)]
    proven = set().union(*(values(case.variant, case.fields) for case in own))
    for variant in vit.VARIANTS:
        if not values(variant, {}) <= proven:
            refused(vit, variant, naming, depth=1)
