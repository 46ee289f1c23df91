"""Weights under every public naming: what the networks compute is what tests/golden/record_names.py recorded.

The libraries wrote the names; each array is drawn from its name, each must be used, and each leaf filled.
Needs no torch.
"""

import importlib
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from imgcls_jax.models import resnet, vit
from imgcls_jax.weights import pretrained
from imgcls_jax.weights.layout import familiar
from imgcls_jax.weights.positions import resize_positions

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-4  # of the largest absolute value

_spec = importlib.util.spec_from_file_location("drawing", GOLDEN / "drawing.py")
drawing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(drawing)


def text(array):
    return json.loads(array.tobytes())


def cases():
    for path in sorted((GOLDEN / "namings").glob("*.npz")):
        found = {}
        with np.load(path) as arrays:
            for key in arrays.files:
                name, _, inside = key.partition("/")
                found.setdefault(name, {})[inside] = arrays[key]
        for name, case in found.items():
            yield pytest.param(path.stem, case, id=f"{path.stem}-{name}")


def drawn(shapes, gain):
    return {name: np.asarray(array) for name, array in drawing.draw_all(shapes, gain).items()}


def in_tuples(fields):
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def classes_of(family, variant, arrays):
    names = pretrained.renamed(arrays, family, variant)
    return len(names.get(f"{family.torch_head(variant)}.bias", ())) or None


@pytest.mark.parametrize("name, found", [*cases()])
def test_the_networks_compute_what_their_libraries_do(name, found):
    family = importlib.import_module(f"imgcls_jax.models.{name}")
    variant, fields, gain = text(found["case"])
    backbone = family.build(variant, **in_tuples(fields))
    for size in sorted(key.split("/")[0] for key in found if key.endswith("/output")):
        height, width = map(int, size.split("x"))
        arrays = drawn(text(found[f"{size}/shapes"]), gain)
        classes = classes_of(family, variant, arrays)
        target = pretrained.target_shapes(backbone, (height, width, 3), classes or 1)
        if not classes:
            del target["params"]["head"]
        params, batch_stats, report = pretrained.load_torch(arrays, family, variant, target)
        assert set(params) == set(target["params"]), report

        @jax.jit
        def run(params, batch_stats, images):
            variables = {"params": params["backbone"], "batch_stats": batch_stats}
            embedding = backbone.apply(variables, images, train=False).embedding
            if "head" not in params:
                return embedding
            head = params["head"]["classifier"]
            return embedding @ head["kernel"] + head["bias"]

        expected = found[f"{size}/output"]
        images = drawing.images(height)[:, :, :width]
        output = drawing.summary(run(params, batch_stats, images), len(expected) - 3)
        error = np.max(np.abs(output - expected)) / expected[2]
        print(f"{variant} {size}: {error:.1e}")
        assert error <= TOLERANCE, f"{size}: {error:.1e} of the largest value; {report}"


def test_blocks_in_groups_and_parts_that_do_not_transfer():
    """DINOv2's training writes blocks.GROUP.NUMBER; Hugging Face's ViT may have a pooler."""
    named = vit.import_weights(
        {"blocks.3.11.ls2.gamma": 1, "mask_token": 1, "pooler.dense.weight": 1}, "vit_b16"
    )
    assert named == {"encoder.layers.encoder_layer_11.ls_2": 1}


def test_a_part_of_an_attention_that_is_missing_is_named():
    sign = {"vit.embeddings.patch_embeddings.projection.weight": np.ones((2, 3, 1, 1))}
    queries = {"vit.encoder.layer.0.attention.attention.query.weight": np.ones((2, 2))}
    with pytest.raises(ValueError, match="blocks.0.attn.k.weight, blocks.0.attn.v.weight: not in the file"):
        familiar(sign | queries)
    sign = {"Transformer/encoder_norm/scale": np.ones(2)}
    block = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1"
    with pytest.raises(ValueError, match="blocks.0.kernel has query of query, key, value and out alone"):
        familiar(sign | {f"{block}/query/kernel": np.ones((2, 1, 2))})
    with pytest.raises(ValueError, match=r"is \[D, heads, D / heads\] or its inverse; got \(2, 2\)"):
        familiar(sign | {f"{block}/query/kernel": np.ones((2, 2))})
    with pytest.raises(ValueError, match="Transformer/odd/kernel: no part of a Vision Transformer"):
        familiar(sign | {"Transformer/odd/kernel": np.ones((2, 2))})


def test_a_classifier_behind_a_hidden_layer_is_left_out():
    arrays = {"Transformer/encoder_norm/scale": np.ones(2), "pre_logits/kernel": np.ones((2, 2))}
    named = familiar(arrays | {"head/kernel": np.ones((2, 5)), "head/bias": np.ones(5)})
    assert named.keys() == {"norm.weight"}


def test_tensorflows_background_is_left_out():
    sign = {"mobilenet_v2.conv_stem.first_conv.convolution.weight": np.ones((1, 1, 1, 1))}
    bias = np.arange(1001)
    named = familiar(sign | {"classifier.bias": bias, "classifier.weight": np.ones((1001, 2))})
    assert (
        named["classifier.1.bias"].tolist() == bias[1:].tolist() and len(named["classifier.1.weight"]) == 1000
    )


def test_a_prefix_that_only_looks_like_hugging_faces():
    """A training program may call its network `resnet`, with torchvision's names below."""
    target = pretrained.target_shapes(resnet.build("resnet18", stage_sizes=(1, 1, 1, 1)), (32, 32, 3), 3)
    values = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), target)
    arrays = pretrained.to_torch(values["params"], values["batch_stats"], resnet, "resnet18")
    own = {f"resnet.{name}": array for name, array in arrays.items()}
    _, _, report = pretrained.load_torch(own, resnet, "resnet18", target)
    assert report.loaded == len(arrays) and report.notes == ("names read under 'resnet.'",)


def test_bfloat16_of_numpys_files(tmp_path):
    values = jax.numpy.asarray([[1.5, -2.0]], jax.numpy.bfloat16)
    np.savez(tmp_path / "x.npz", **{"a/b": np.asarray(values).view("V2")})
    found = pretrained.read_state_dict(tmp_path / "x.npz")["a/b"]
    assert found.dtype == np.float32 and found.tolist() == [[1.5, -2.0]]


def test_positions_are_resized_as_dinov2_does():
    """By hand: a grid of 2 to one of 1 + 0.1 is read at 0.5 * 2 / 1.1 - 0.5 = 0.40909."""
    square = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)[None, :, :, None]
    found = resize_positions(square, 1, "dinov2")
    t = 0.5 * 2 / 1.1 - 0.5
    near = lambda d: (1.25 * d - 2.25) * d * d + 1  # noqa: E731
    far = lambda d: ((d - 5) * d + 8) * d * -0.75 + 3  # noqa: E731
    np.testing.assert_allclose(found[0, 0, 0, 0], near(1 - t) + far(2 - t), atol=1e-6)
