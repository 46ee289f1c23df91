"""The word `of_weights` in a line of transforms: what the weights of model.pretrained were measured with.

  decode | rgb | random_resized_crop(of_weights, (0.5, 1.0)) | flip | normalize(of_weights)
  of_weights

As the first argument of an operation it gives that operation's size, interpolation, mean and standard
deviation; as an operation of its own it is the whole line. It is written out once, when a run begins, from
what lies beside the weights (weights/described.py): the workdir keeps both, and a resume, an export and a
prediction take what the workdir keeps.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgcls_jax.config.configuration import Configuration
from imgcls_jax.config.written import Config
from imgcls_jax.data import transforms
from imgcls_jax.data.transforms import OF_WEIGHTS
from imgcls_jax.train.workdir import load_configuration
from imgcls_jax.weights.described import Preprocessing
from imgcls_jax.weights.hub import locate

FIELDS = ("train_transforms", "eval_transforms")  # of the section `data`


def written_out(configuration: Configuration, workdir: Path | None = None) -> tuple[Configuration, list[str]]:
    """Writes `of_weights` out in every line of a configuration.

    Args:
      configuration: resolved.
      workdir: of the run; where it keeps lines that were written out of the same ones, those are taken.

    Returns:
      (the configuration, a line for the log for each field that was written out).

    Raises:
      ValueError: there are no weights, or nothing beside them says how their images are made.
      OSError: they cannot be fetched.
    """
    fields = {name: line for name, line in _lines(configuration.resolved).items() if OF_WEIGHTS in line}
    if not fields:
        return configuration, []
    kept = _kept(configuration, workdir)
    lines = kept or _described(configuration.resolved["model"]["pretrained"], fields)
    resolved = copy.deepcopy(configuration.resolved)
    _replace(resolved, lambda name, line: lines.get(name, line) if name in fields else line)
    told = [f"{name} = {lines[name]!r}, {'as before' if kept else 'of the weights'}" for name in fields]
    return dataclasses.replace(configuration, resolved=resolved), told


def _kept(configuration: Configuration, workdir: Path | None) -> dict[str, str]:
    """Returns the lines of a workdir by field, {} where it keeps none that were written the same."""
    if workdir is None or not (workdir / "config.json").exists():
        return {}
    old = load_configuration(workdir)
    same = _lines(old.written) == _lines(configuration.written)
    names = [own.written["model"].get("pretrained") for own in (old, configuration)]
    return _lines(old.resolved) if same and names[0] == names[1] else {}


def _described(name: str, fields: dict[str, str]) -> dict[str, str]:
    first = next(iter(fields))
    if not name:
        raise ValueError(
            f"config.{first} says {OF_WEIGHTS}, and config.model.pretrained names no weights: name them, or "
            "write the line"
        )
    preprocessing = locate(name).description.preprocessing
    if preprocessing is None:
        raise ValueError(
            f"config.{first} says {OF_WEIGHTS}, and nothing beside {name} tells how its images are made: "
            "write the line"
        )
    found = {}
    for field, line in fields.items():
        try:
            found[field] = transforms.written_out(line, preprocessing.line, _arguments(preprocessing))
        except ValueError as error:
            raise ValueError(f"config.{field}: {error}") from error
    return found


def _arguments(own: Preprocessing) -> dict[str, tuple[list[Any], dict[str, Any]]]:
    """Returns positional and keyword arguments of the operations that `of_weights` may be said in."""
    kind = {} if own.interpolation == "bilinear" else {"interpolation": own.interpolation}
    arguments: dict[str, tuple[list[Any], dict[str, Any]]] = {
        "normalize": ([own.mean, own.std], {}),
        "resize": ([own.height, own.width], kind),
    }
    if own.height == own.width:
        arguments["random_resized_crop"] = ([own.height], kind)
    return arguments


def _lines(config: Config) -> dict[str, str]:
    """Returns {name: line} of every field that holds a line of transforms."""
    found: dict[str, str] = {}
    _replace(copy.deepcopy(config), lambda name, line: found.setdefault(name, line))
    return found


def _replace(config: Config, change: Callable[[str, str], str]) -> None:
    """Changes every line of transforms of a configuration, which is written into."""
    data = config["data"]
    for field in FIELDS:
        if isinstance(data.get(field), str):
            data[field] = change(f"data.{field}", data[field])
    views = data.get("view_transforms") or ()
    if not isinstance(views, str) and views:
        data["view_transforms"] = [change(f"data.view_transforms[{i}]", v) for i, v in enumerate(views)]
    for name, phase in config.get("phases", {}).items():
        if isinstance(phase.get("train_transforms"), str):
            phase["train_transforms"] = change(f"phases.{name}.train_transforms", phase["train_transforms"])
