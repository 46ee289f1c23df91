"""Every family that torchvision or timm has, too, computes what tests/golden/record.py recorded of them.

The weights are drawn from PyTorch's names, so that loading them is tested too: each array is used, each leaf
filled, and the way back is the identity. Needs no torch.
"""

import importlib
import importlib.util
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from imgcls_jax.weights import pretrained

GOLDEN = Path(__file__).parents[1] / "golden"
TRAIN_BATCH = 4
TOLERANCE = 1e-4  # of the largest absolute value

_spec = importlib.util.spec_from_file_location("drawing", GOLDEN / "drawing.py")
drawing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(drawing)


def text(array):
    return json.loads(array.tobytes())


def recorded():
    """Yields (family, name of the case, {key: array}) of all files."""
    for path in sorted(GOLDEN.glob("*.npz")):
        found = {}
        with np.load(path) as arrays:
            for key in arrays.files:
                name, _, inside = key.partition("/")
                found.setdefault(name, {})[inside] = arrays[key]
        for name, case in found.items():
            yield path.stem, name, case


def params_of_cases(suits, slow_too=lambda found: False):
    for family, name, found in recorded():
        if suits(found):
            variant, fields, slow, gain = text(found["case"])
            fields = {
                key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
            }
            marks = [pytest.mark.slow] if slow or slow_too(found) else []
            yield pytest.param(family, variant, fields, gain, found, marks=marks, id=name)


def assert_same(name, found, expected):
    scale = expected[2]  # the largest absolute value
    error = np.max(np.abs(drawing.summary(found, len(expected) - 3) - expected)) / scale
    print(f"{name}: {error:.1e}")
    assert error <= TOLERANCE, f"{name}: {error:.1e} of the largest value"


def in_our_names(family, variant, arrays):
    return family.import_weights(arrays, variant) if hasattr(family, "import_weights") else arrays


def our_module(family, variant, name):
    (key,) = in_our_names(family, variant, {f"{name}.weight": None})
    return key.removesuffix(".weight")


def is_head(family, variant, name):
    return our_module(family, variant, name.removesuffix(".weight")) == family.torch_head(variant)


def loaded(family, variant, shapes, size, gain, **fields):
    """Returns the backbone and its params and batch_stats of drawn weights."""
    backbone = family.build(variant, **fields)
    (num_classes,) = (shape[0] for name, shape in shapes.items() if is_head(family, variant, name))
    aux = bool(fields.get("aux"))
    target = pretrained.target_shapes(backbone, (size, size, 3), num_classes, aux=aux)
    drawn = drawing.draw_all(shapes, gain)
    params, batch_stats, report = pretrained.load_torch(drawn, family, variant, target)
    assert set(params) == set(target["params"])
    if aux or not hasattr(family, "torch_aux_heads"):
        assert report.loaded == len(shapes) and not report.notes
        back = in_our_names(family, variant, pretrained.to_torch(params, batch_stats, family, variant))
        named = in_our_names(family, variant, drawn)
        assert back.keys() == named.keys() and all(np.array_equal(back[key], named[key]) for key in named)
    return backbone, params, batch_stats


def logits_of(backbone, head, features):
    by_map = getattr(backbone, "head", "") == "conv_pool"
    logits = (features.map if by_map else features.embedding) @ head["kernel"] + head["bias"]
    return jax.nn.relu(logits).mean((1, 2)) if by_map else logits


def run(backbone, params, batch_stats, images, taps):
    """Returns the logits and the outputs of the modules named in `taps`."""

    @jax.jit
    def apply(params, batch_stats, images):
        features, state = backbone.apply(
            {"params": params["backbone"], "batch_stats": batch_stats},
            images,
            train=False,
            capture_intermediates=lambda module, method: ".".join(module.path) in taps,
            mutable=["intermediates"],
        )
        outputs = jax.tree_util.tree_leaves_with_path(state.get("intermediates", {}))
        named = {".".join(key.key for key in path[:-2]): value for path, value in outputs}
        return logits_of(backbone, params["head"]["classifier"], features), named

    return apply(params, batch_stats, images)


@pytest.mark.parametrize("name, variant, fields, gain, found", [*params_of_cases(lambda found: True)])
def test_parity(name, variant, fields, gain, found):
    family = importlib.import_module(f"imgcls_jax.models.{name}")
    weights = None
    for size in [int(key.split("/")[0]) for key in found if key.endswith("/logits") and key[0].isdigit()]:
        if f"{size}/shapes" in found:
            weights = loaded(family, variant, text(found[f"{size}/shapes"]), size, gain, **fields)
        modules = [our_module(family, variant, module) for module in text(found[f"{size}/modules"])]
        taps = dict(zip(modules, found[f"{size}/taps"], strict=True))
        taps.pop(family.torch_head(variant), None)  # a convolution, where it is one; no part of the backbone
        if name == "densenet":  # its 1x1 convolutions come after the pooling; what follows both is compared
            taps = {tap: value for tap, value in taps.items() if not re.search(r"transition\d\.conv", tap)}
        logits, outputs = run(*weights, drawing.images(size), taps)
        for tap, expected in taps.items():
            assert_same(f"{variant} {size} {tap}", outputs[tap], expected)
        assert_same(f"{variant} {size} logits", logits, found[f"{size}/logits"])


WITH_AUX = params_of_cases(lambda found: "train/size" in found, lambda found: found["train/size"] > 200)


@pytest.mark.parametrize("name, variant, fields, gain, found", [*WITH_AUX])
def test_auxiliary_classifiers_in_training_mode(name, variant, fields, gain, found):
    family = importlib.import_module(f"imgcls_jax.models.{name}")
    size = int(found["train/size"])
    shapes = next(text(array) for key, array in found.items() if key.endswith("/shapes"))
    no_dropout = {"aux_dropout": 0.0} if hasattr(family.build(variant), "aux_dropout") else {}
    fields = {**fields, "aux": True, **no_dropout}
    backbone, params, batch_stats = loaded(family, variant, shapes, size, gain, **fields)

    @jax.jit
    def apply(params, batch_stats, images):
        variables = {"params": params["backbone"], "batch_stats": batch_stats}
        features, _ = backbone.apply(variables, images, train=True, mutable=["batch_stats"])
        heads = [params[f"aux_head_{i}"]["classifier"] for i in range(len(features.aux))]
        aux = [x @ head["kernel"] + head["bias"] for x, head in zip(features.aux, heads, strict=True)]
        return logits_of(backbone, params["head"]["classifier"], features), aux

    logits, aux = apply(params, batch_stats, drawing.images(size, TRAIN_BATCH))
    names = sorted(key for key in found if key.startswith("train/aux"))
    assert len(names) == len(aux) > 0
    for key, value in zip(names, aux, strict=True):
        assert_same(f"{variant} {key}", value, found[key])
    assert_same(f"{variant} training", logits, found["train/logits"])
