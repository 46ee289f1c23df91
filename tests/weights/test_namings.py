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

from imgcls_jax.weights import pretrained

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
    for size in sorted(int(key.split("/")[0]) for key in found if key.endswith("/output")):
        arrays = drawn(text(found[f"{size}/shapes"]), gain)
        classes = classes_of(family, variant, arrays)
        target = pretrained.target_shapes(backbone, (size, size, 3), classes or 1)
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
        output = drawing.summary(run(params, batch_stats, drawing.images(size)), len(expected) - 3)
        error = np.max(np.abs(output - expected)) / expected[2]
        print(f"{variant} {size}: {error:.1e}")
        assert error <= TOLERANCE, f"{size}: {error:.1e} of the largest value; {report}"
