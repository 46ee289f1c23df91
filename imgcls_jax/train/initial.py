"""The state that a run begins with: drawn, with weights that were trained before, or another run's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imgcls_jax.config.modules import find_module
from imgcls_jax.runtime.names import printable
from imgcls_jax.train import origin
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.checkpoint_tree import differing_leaves
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.state import TrainState
from imgcls_jax.weights import pretrained


def first_state(setup: Setup) -> tuple[TrainState, np.ndarray | None]:
    """Returns (state, order of the running epoch where there is one) of a workdir without a checkpoint.

    Raises:
      ValueError: config.model.pretrained or config.train.resume_from names what does not fit.
    """
    return origin.read(setup) if setup.settings.train.resume_from else (initial_state(setup), None)


def initial_state(setup: Setup) -> TrainState:
    """Returns the state of step 0, with the weights that config.model.pretrained names.

    That is a file of weights (weights/pretrained.py), an exported folder, which holds one, or the workdir of
    another run, whose backbone is taken.

    Raises:
      ValueError: the weights do not fit.
    """
    model = setup.settings.model
    state, path = setup.init(jax.random.key(setup.settings.train.seed)), model.pretrained
    if not path:
        return state
    target = {"params": state.params, "batch_stats": state.objective_state.get("batch_stats", {})}
    path = os.path.expanduser(path)
    exported = Path(path) / pretrained.EXPORTED
    if exported.is_file():
        path = str(exported)
    if Path(path).is_dir():
        params, batch_stats, told = _from_workdir(Path(path), target, setup.sharding)
    else:
        family = find_module("models", model.name)
        positions = getattr(setup.backbone, "resize_positions", "timm")
        params, batch_stats, report = pretrained.load(
            path, family, model.variant, target, positions=positions
        )
        told = str(report)
    if setup.first_process:
        print(printable(f"pretrained weights from {path}: {told}"), flush=True)
    params = state.params | params
    objective_state = {"batch_stats": batch_stats} if "batch_stats" in state.objective_state else {}
    objective_state |= {"ema": params} if "ema" in state.objective_state else {}
    loaded = state._replace(
        params=params,
        objective_state=state.objective_state | objective_state,
        opt_state=setup.phases[0].tx.init(params),
    )
    return setup.copy(loaded)


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
