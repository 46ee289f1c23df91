"""A trained network as a folder that timm or Hugging Face's transformers load, and the hub shows.

The folder holds `model.safetensors`, config.json (of transformers also preprocessor_config.json) and a model
card, README.md. `config.model.pretrained=FOLDER` reads it back. `published.json` beside them says the SHA-256
of each, by which a later publish knows what it may replace.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from imgcls_jax.config.modules import find_module
from imgcls_jax.data import transforms
from imgcls_jax.runtime.fetch import digest
from imgcls_jax.runtime.files import naming as naming_file
from imgcls_jax.runtime.files import read_json, whole, write_json
from imgcls_jax.train.build import make_backbone
from imgcls_jax.weights.described import MAX_SIDE, Preprocessing
from imgcls_jax.weights.publishing import Published, published

MODEL, CARD, DIGESTS = "model.safetensors", "README.md", "published.json"
FILES = (MODEL, "config.json", "preprocessor_config.json", CARD)
OF_RUN = ("checkpoints", "task.json")  # which a workdir holds
COLORS = ("decode", "rgb", "gray")  # which say nothing of size or scale


class Told(NamedTuple):
    """What a configuration of another package says of a line of transforms.

    Attributes:
      preprocessing: of the images.
      untold: operations that it cannot say, in words.
    """

    preprocessing: Preprocessing
    untold: tuple[str, ...]


def of_line(line: str, image_shape: tuple[int, int, int]) -> Told:
    """Returns what to say of a line of transforms.

    Args:
      line: of evaluation.
      image_shape: (H, W, C) that the network reads.

    Raises:
      ValueError: a mistake in the line.
    """
    height, width, channels = image_shape
    mean, std = (0.0,) * channels, (1.0,) * channels
    operations = [own for own in transforms.spelled(line) if own[0] not in COLORS]
    names = [name for name, _ in operations]
    if names[-1:] == ["normalize"]:
        values = operations.pop()[1]
        mean, std = (_of_channels(values[key], channels) for key in ("mean", "std"))
    names, short_side, interpolation = [name for name, _ in operations], 0, "bilinear"
    if names in (["resize_short", "center_crop"], ["resize"]):
        interpolation = operations[0][1]["interpolation"]
        short_side = operations[0][1].get("size", 0)
        operations = []
    untold = tuple(f"{name}({', '.join(map(str, values.values()))})" for name, values in operations)
    short_side = short_side if short_side <= MAX_SIDE and height == width else 0
    return Told(Preprocessing(height, width, short_side, interpolation, mean, std), untold)


def _of_channels(value: Any, channels: int) -> tuple[float, ...]:
    values = tuple(map(float, value)) if isinstance(value, (tuple, list)) else (float(value),)
    return values * channels if len(values) == 1 else values


def of_trained(trained: Any, naming: str) -> tuple[Published, Told]:
    """Brings a trained network to another package's names: where weights are averaged, their average.

    Args:
      trained: of inference/trained.py.
      naming: of `publishing.NAMINGS`.

    Raises:
      ValueError: the other package has no network that computes the same; says why.
    """
    params = trained.objective_state.get("ema", trained.params)
    if not isinstance(params, dict) or "backbone" not in params:
        raise ValueError("this run's objective has no single backbone to publish")
    model, told = (
        trained.settings.model,
        of_line(trained.data.settings.eval_transforms, trained.task.image_shape),
    )
    network = published(
        jax.tree.map(np.asarray, params),
        jax.tree.map(np.asarray, trained.objective_state.get("batch_stats", {})),
        find_module("models", model.name),
        model.variant,
        make_backbone(model),
        naming=naming,
        image_shape=trained.task.image_shape,
        class_names=trained.class_names,
        preprocessing=told.preprocessing,
    )
    return network, told


def write(network: Published, card: str, folder: Path) -> tuple[str, ...]:
    """Writes the folder; returns the names of its files. Those of an earlier call are replaced.

    Raises:
      ValueError: the folder is a run's, or holds a file of one of the names that no earlier call wrote, or
        that was changed since; says which.
      OSError: it cannot be written; names the file.
    """
    from safetensors.numpy import save

    earlier = _written_before(folder)
    arrays = {name: np.ascontiguousarray(array) for name, array in network.arrays.items()}
    contents = {MODEL: save(arrays, metadata={"format": "pt"})}
    contents |= {name: f"{json.dumps(own, indent=2)}\n".encode() for name, own in network.files.items()}
    contents[CARD] = card.encode("utf-8", "backslashreplace")
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    with naming_file(folder, way_out=""):
        folder.mkdir(parents=True, exist_ok=True)
        for name in earlier:
            if name not in contents:
                (folder / name).unlink()
        for name, content in contents.items():
            with whole(folder / name) as file:
                file.write(content)
    write_json(folder / DIGESTS, digests, way_out="")
    return tuple(contents)


def _written_before(folder: Path) -> tuple[str, ...]:
    """Returns which of `FILES` the folder holds, all as an earlier call wrote them.

    Raises:
      ValueError: it is a run's, or holds another file.
    """
    for name in OF_RUN:
        if (folder / name).exists():
            raise ValueError(f"{folder} holds {name}, so it is the workdir of a run: name another folder")
    held = tuple(name for name in FILES if os.path.lexists(folder / name))
    digests = read_json(folder / DIGESTS) if (folder / DIGESTS).exists() else {}
    for name in held:
        if not (folder / name).is_file() or digest(folder / name, "sha256:") != f"sha256:{digests.get(name)}":
            raise ValueError(
                f"{folder / name} is not as an earlier publish wrote it, and would be replaced: name another "
                "folder, or move it away"
            )
    return held
