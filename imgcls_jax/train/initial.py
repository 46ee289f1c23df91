"""The state that a run begins with: drawn, with weights that were trained before, or another run's."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imgcls_jax.config.modules import find_module
from imgcls_jax.config.settings import DataSettings
from imgcls_jax.data import transforms
from imgcls_jax.runtime.names import printable
from imgcls_jax.train import origin
from imgcls_jax.train import workdir as workdirs
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.checkpoint_tree import differing_leaves
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.state import TrainState
from imgcls_jax.weights import pretrained
from imgcls_jax.weights.described import Preprocessing, require_fields
from imgcls_jax.weights.hub import Located, locate

logger = logging.getLogger(__name__)

FITTED_TO = 5_000  # training images, for a backbone that is set from images before the first step


def first_state(setup: Setup, weights: Located | None = None) -> tuple[TrainState, np.ndarray | None]:
    """Returns (state, order of the running epoch where there is one) of a workdir without a checkpoint.

    Args:
      setup: of the run.
      weights: of `locate_weights`, which is asked where it is None.

    Raises:
      ValueError: config.model.pretrained or config.train.resume_from names what does not fit.
    """
    if setup.settings.train.resume_from:
        return origin.read(setup)
    return initial_state(setup, weights), None


def locate_weights(setup: Setup, workdir: Path | None = None) -> Located | None:
    """Finds the weights that config.model.pretrained names, fetching public ones (weights/hub.py).

    Args:
      setup: of the run.
      workdir: of the run; where it keeps the commit of the hub that was taken before, that one is taken.

    Returns:
      None where the run begins with none.

    Raises:
      ValueError, OSError: as `hub.locate` has it.
    """
    settings = setup.settings
    if settings.train.resume_from or not settings.model.pretrained:
        return None
    return locate(settings.model.pretrained, workdirs.pinned_weights(workdir) if workdir else None)


def initial_state(setup: Setup, weights: Located | None = None) -> TrainState:
    """Returns the state of step 0, with the weights that config.model.pretrained names.

    That is a file of weights (weights/pretrained.py), here or public, an exported folder, which holds one, or
    the workdir of another run, whose backbone is taken.

    Raises:
      ValueError: the weights do not fit, or were trained with another GELU.
    """
    model = setup.settings.model
    state = setup.init(jax.random.key(setup.settings.train.seed))
    weights = weights or locate_weights(setup)
    if weights is None:
        return _fitted(setup, state)
    target = {"params": state.params, "batch_stats": state.objective_state.get("batch_stats", {})}
    path, exported = weights.path, weights.path / pretrained.EXPORTED
    if exported.is_file():
        path = exported
    if path.is_dir():
        params, batch_stats, told = _from_workdir(path, target, setup.sharding)
    else:
        require_fields(weights.description, setup.backbone, model.pretrained)
        family = find_module("models", model.name)
        positions = getattr(setup.backbone, "resize_positions", "timm")
        params, batch_stats, report = pretrained.load(
            path, family, model.variant, target, positions=positions
        )
        told = str(report)
    if setup.first_process:
        revision = weights.pinned.get("revision")
        of = f"{model.pretrained}, revision {revision}" if revision else path
        print(printable(f"pretrained weights from {of}: {told}"), flush=True)
        for line in differing_transforms(weights.description.preprocessing, setup.settings.data):
            logger.warning("%s", printable(f"{model.pretrained}: {line}"))
    params = state.params | params
    objective_state = {"batch_stats": batch_stats} if "batch_stats" in state.objective_state else {}
    objective_state |= {"ema": params} if "ema" in state.objective_state else {}
    loaded = state._replace(
        params=params,
        objective_state=state.objective_state | objective_state,
        opt_state=setup.phases[0].tx.init(params),
    )
    return setup.copy(loaded)


def _fitted(setup: Setup, state: TrainState) -> TrainState:
    """Returns the drawn state; a backbone with a method `fit` is set from training images."""
    fit = getattr(setup.backbone, "fit", None)
    if fit is None:
        return state
    backbone = fit(state.params["backbone"], setup.data.some_images(FITTED_TO))
    params = state.params | {"backbone": backbone}
    averaged = {"ema": params} if "ema" in state.objective_state else {}
    return setup.copy(state._replace(params=params, objective_state=state.objective_state | averaged))


def differing_transforms(preprocessing: Preprocessing | None, settings: DataSettings) -> list[str]:
    """Returns a line for each way in which images are made otherwise than weights were measured with.

    Args:
      preprocessing: of the weights; None where it is not known.
      settings: of the data.
    """
    if preprocessing is None:
        return []
    theirs = _spelled(preprocessing.line)
    ours, training = _spelled(settings.eval_transforms), _spelled(settings.train_transforms)
    lines = []
    missing = [operation for operation in theirs if operation not in ours]
    if missing:
        lines.append(
            f"config.data.eval_transforms has no {', no '.join(missing)}, as the weights were measured with. "
            f"All of it: --config.data.eval_transforms={preprocessing.line!r}"
        )
    if theirs[-1] not in training:
        lines.append(
            f"config.data.train_transforms does not end with its {preprocessing.line.split(' | ')[-1]}"
        )
    return lines


def _spelled(line: str) -> list[str]:
    """Returns what a line does to sizes and colors, one spelling for what is the same."""
    operations = []
    for name, arguments in transforms.spelled(line):
        if name == "resize" and arguments["width"] is None:
            arguments["width"] = arguments["height"]
        if name == "normalize":
            wide = {
                key: value if isinstance(value, tuple) else (value,) * 3 for key, value in arguments.items()
            }
            arguments = {key: tuple(round(float(x), 3) for x in value) for key, value in wide.items()}
        if name not in ("decode", "rgb"):
            operations.append(f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})")
    return operations


def _from_workdir(
    workdir: Path, target: dict[str, Any], where: jax.sharding.Sharding
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Returns params {"backbone"}, batch_stats and a report of a trained workdir's latest checkpoint."""
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step, params, objective_state = checkpoints.restore_for_prediction("latest", where)
    backbone = objective_state.get("ema", params)["backbone"]
    differing = differing_leaves(
        {"backbone": backbone, "batch_stats": objective_state.get("batch_stats", {})},
        {"backbone": target["params"]["backbone"], "batch_stats": target["batch_stats"]},
    )
    if differing:
        raise ValueError(
            f"config.model.pretrained: {workdir} holds another backbone: {'; '.join(differing[:3])}"
        )
    return {"backbone": backbone}, objective_state.get("batch_stats", {}), f"backbone of step {step}"
