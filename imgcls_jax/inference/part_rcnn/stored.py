"""The file of a fitted Part R-CNN, `part_rcnn.npz`: arrays under names, and the settings as JSON.

The networks are in it, so that it needs nothing beside it. Nothing in it is executed.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.config.field_types import fits
from imgcls_jax.config.settings import ModelSettings
from imgcls_jax.inference.array_file import digest, read_arrays, write_arrays
from imgcls_jax.inference.part_rcnn.detectors import Detector
from imgcls_jax.inference.part_rcnn.geometry import Prior, log_density
from imgcls_jax.inference.part_rcnn.model import PARTS, REGIONS, Classifier, Options, PartRCNN
from imgcls_jax.inference.part_rcnn.trunk import Trunk, distinct
from imgcls_jax.runtime.mistakes import reason
from imgcls_jax.weights.pretrained import export_names, import_names

FILE = "part_rcnn.npz"


def networks(model: PartRCNN) -> list[dict[str, Any]]:
    """Returns what the networks of root, head and body are, as JSON values; `weights` is a digest."""
    found = []
    for trunk in model.trunks:
        leaves = export_names({"backbone": trunk.params}, trunk.batch_stats)
        found.append(_settings(trunk) | {"weights": digest(leaves)})
    return found


def _settings(trunk: Trunk) -> dict[str, Any]:
    model = trunk.model
    fields = json.loads(json.dumps(dict(model.fields)))
    return {
        "name": model.name, "variant": model.variant, "fields": fields, "line": trunk.line, "size": trunk.size
    }  # fmt: skip


def to_arrays(model: PartRCNN) -> dict[str, np.ndarray]:
    """Returns the arrays of the file."""
    kept, positions = distinct(model.trunks)
    settings = {
        "options": dataclasses.asdict(model.options),
        "regions": positions,
        "trunks": [_settings(trunk) for trunk in kept],
    }
    arrays = {
        "settings": np.array(json.dumps(settings)),
        "class_names": np.array(model.class_names),
        "neighbours": model.neighbours,
        "places": model.places,
        "classifier/weight": model.classifier.weight,
        "classifier/bias": model.classifier.bias,
    }
    for name, detector in zip(REGIONS, model.detectors, strict=True):
        arrays |= {
            f"detector/{name}/weight": detector.weight,
            f"detector/{name}/bias": np.array(detector.bias),
        }
    for name, prior in zip(PARTS, model.priors, strict=True):
        arrays |= {f"prior/{name}/{field}": value for field, value in prior._asdict().items()}
    for number, trunk in enumerate(kept):
        leaves = export_names({"backbone": trunk.params}, trunk.batch_stats)
        arrays |= {f"trunk/{number}/{name}": leaf for name, leaf in leaves.items()}
    return arrays


def write(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes <folder>/part_rcnn.npz, whole or not at all, and returns its path.

    Raises:
      OSError: it cannot be written; names it.
    """
    return write_arrays(folder / FILE, arrays)


def read(folder: Path) -> PartRCNN:
    """Reads what `write` wrote.

    Raises:
      ValueError: it is absent, damaged, or not of this program.
    """
    file = folder / FILE
    try:
        return _from_arrays(read_arrays(file))
    except FileNotFoundError as error:
        raise ValueError(f"{file} is absent: make it by imgcls_jax.tools.part_rcnn fit") from error
    except Exception as error:  # whatever a damaged file makes its readers raise
        raise ValueError(f"{file} is no Part R-CNN of this program ({reason(error)}); fit it anew") from error


def _from_arrays(arrays: dict[str, np.ndarray]) -> PartRCNN:
    settings = json.loads(str(arrays["settings"]))
    trunks = []
    for number, fields in enumerate(settings["trunks"]):
        wanted = {"name": str, "variant": str, "fields": dict, "line": str, "size": int}
        wrong = [name for name, kind in wanted.items() if not fits(fields[name], kind)]
        if wrong or not 8 <= fields["size"] <= 4096:
            raise ValueError(f"the network has an unsound {wrong[0] if wrong else 'size'}")
        start = f"trunk/{number}/"
        leaves = {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}
        params, batch_stats = import_names(leaves)
        model = ModelSettings(fields["name"], fields["variant"], fields=fields["fields"])
        trunks.append(Trunk(model, fields["line"], fields["size"], params["backbone"], batch_stats))
    found = PartRCNN(
        Options(**settings["options"]),
        tuple(arrays["class_names"].tolist()),
        tuple(trunks[position] for position in settings["regions"]),
        tuple(
            Detector(arrays[f"detector/{name}/weight"], float(arrays[f"detector/{name}/bias"]))
            for name in REGIONS
        ),
        tuple(Prior(*(arrays[f"prior/{name}/{field}"] for field in Prior._fields)) for name in PARTS),
        arrays["neighbours"],
        arrays["places"],
        Classifier(arrays["classifier/weight"], arrays["classifier/bias"]),
    )
    _check(found, arrays)
    return found


def _check(model: PartRCNN, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError for arrays that do not go together, or not with the networks; these are traced."""
    for name, kind in typing.get_type_hints(Options).items():
        if not fits(getattr(model.options, name), kind):
            raise ValueError(f"its option {name} is {getattr(model.options, name)!r}")
    for name, array in arrays.items():
        if array.dtype.kind != ("U" if name in ("settings", "class_names") else "f"):
            raise ValueError(f"{name} holds {array.dtype}")
        if name != "places" and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinity")
    classes, rows = len(model.class_names), len(model.neighbours)
    if len(model.trunks) != len(REGIONS) or not rows:
        raise ValueError("its arrays do not go together")
    sizes = [trunk.embedding_size for trunk in model.trunks]
    shapes = {
        "neighbours": (rows, sizes[0]),
        "places": (rows, len(PARTS), 4),
        "classifier/weight": (classes, sum(sizes)),
        "classifier/bias": (classes,),
    }
    for region, detector, trunk in zip(REGIONS, model.detectors, model.trunks, strict=True):
        grid = len(detector.weight)
        shapes[f"detector/{region}/weight"] = (grid, grid, trunk.map_size)
    for part, prior in zip(PARTS, model.priors, strict=True):
        count = len(prior.weights)
        shapes |= {f"prior/{part}/means": (count, 4), f"prior/{part}/covariances": (count, 4, 4)}
        shapes[f"prior/{part}/weights"] = (count,)
    for name, shape in shapes.items():
        if arrays[name].shape != shape or not all(shape):
            raise ValueError(f"{name} is {arrays[name].shape}, not {shape}")
    for part, prior in zip(PARTS, model.priors, strict=True):
        if not (prior.weights > 0).all() or not np.isfinite(log_density(prior, np.zeros((1, 4)))).all():
            raise ValueError(f"the prior of {part} is no density")
    hidden = np.isnan(model.places).all(axis=2)
    if not (hidden | np.isfinite(model.places).all(axis=2)).all() or hidden.all(axis=0).any():
        raise ValueError("places holds infinity, parts of places, or none")
