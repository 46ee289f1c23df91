"""The checkpoint of another run with which a new one begins: config.train.resume_from.

  WORKDIR        its newest checkpoint that can be read
  WORKDIR@STEP   the one of a step
  WORKDIR@best   its best by train.best_metric

A workdir takes one configuration. So a run that is to go on otherwise goes on in a new workdir: at a lower
rate after a NaN, with other transforms, another seed, other numbers of the objective, a longer schedule. It
begins with the whole state: params, objective state, optimizer state and step. From that step the input
stream and the schedules go on. With an unchanged configuration it ends in the state of the old run.

Every array of the state must have its place in the new run; all else may differ, and is printed. The old
workdir is only read, its data are not opened, and once the new one has a checkpoint it is not needed.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imgcls_jax.config import compare
from imgcls_jax.config.settings import PhaseSettings, Settings
from imgcls_jax.data.contents import differing
from imgcls_jax.runtime.agreement import all_or_none
from imgcls_jax.runtime.names import printable
from imgcls_jax.train import kept_data, sharding
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.optimizer import make_optimizer
from imgcls_jax.train.schedule import make_schedule
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.state import TrainState
from imgcls_jax.train.workdir import load_configuration, named

logger = logging.getLogger(__name__)

FIELD = "train.resume_from"
SHOWN = 3  # differences that an error names


def read(setup: Setup) -> tuple[TrainState, np.ndarray | None]:
    """Returns (state, order of the running epoch) with which the run begins, and prints what differs.

    Args:
      setup: of the new run, whose train.resume_from names the old one.

    Raises:
      ValueError: there is no such checkpoint, or it does not fit the run; names the first arrays that do not.
    """
    workdir, which = named(setup.settings.train.resume_from)
    with all_or_none():
        configuration = load_configuration(workdir)
        old = configuration.settings(1)  # its durations are in steps
        _check_data(setup, workdir)
    order = np.zeros(setup.task.num_examples, np.int64) if setup.objective.plan_epoch is not None else None
    with Checkpoints(
        workdir / "checkpoints",
        best_metric=old.train.best_metric,
        best_mode=old.train.best_mode,
        read_only=True,
    ) as checkpoints:
        wanted = None if which == "latest" else checkpoints.find(which)
        before = None if wanted is None else wanted + 1
        restored = checkpoints.restore_latest(_target(setup, workdir, old), order, before=before)
    if restored is None:
        raise ValueError(f"config.{FIELD}: {workdir} holds no checkpoint")
    state, order = restored
    step = int(state.step)
    if wanted not in (None, step):
        raise ValueError(f"config.{FIELD}: the checkpoint of step {wanted} in {workdir} cannot be read")
    state = state._replace(opt_state=_opt_state(setup, workdir, old, state))
    if old.train.seed != setup.settings.train.seed:
        rng = jax.jit(lambda key: setup.draw(key).rng)(jax.random.key(setup.settings.train.seed))
        state = state._replace(rng=sharding.copy(rng, setup.sharding))
    if setup.first_process:
        print(f"begins with the checkpoint of step {step} of {printable(workdir)}", flush=True)
        changed = compare.differing_fields(configuration.in_steps(1), setup.resolved)
        for name, (there, here) in compare.without_new_fields(changed, setup.configuration.written).items():
            if name != FIELD:
                print(printable(f"  {name}: {there!r} there, {here!r} here"), flush=True)
    return state, order


def _check_data(setup: Setup, workdir: Path) -> None:
    """Compares the images trained on, as far as the old workdir kept them.

    Raises:
      ValueError: they are others, and the objective remembers each by its number.
    """
    kept = kept_data.read(workdir)
    split = setup.data.settings.train_split
    found = kept and differing(kept, {split: setup.contents[split]}, setup.class_names)
    if not found:
        return
    lines = [printable(line) for own in found.values() for line in own.lines]
    told = f"{workdir} trained on other data: {'; '.join(lines)}"
    if setup.objective.plan_epoch is not None or "index" in setup.objective.batch_keys:
        raise ValueError(
            f"config.{FIELD}: {told}. The objective {setup.settings.objective.name!r} remembers every image "
            "by its number: bring the data back, or take the backbone alone by model.pretrained"
        )
    if setup.first_process:
        logger.warning("%s", told)


def _phase_at(old: Settings, step: int, workdir: Path) -> tuple[int, PhaseSettings]:
    """Returns (first step, settings) of the phase whose optimizer made the state of a step."""
    start = 0
    for phase in old.phases:
        if step <= start + phase.total_steps:
            return start, phase
        start += phase.total_steps
    raise ValueError(f"{workdir} is damaged: its run ends before the checkpoint of step {step}")


def _target(setup: Setup, workdir: Path, old: Settings) -> Callable[[int], TrainState]:
    """Returns step -> the new run's state in shapes, with the optimizer state of the old run."""

    def target(step: int) -> TrainState:
        total = setup.settings.train.total_steps
        if step >= total:
            raise ValueError(
                f"config.{FIELD}: the checkpoint is of step {step} and this run ends at step {total}, so "
                f"nothing is left to train: give a longer run, or an earlier checkpoint by {workdir}@STEP"
            )
        state, phase = setup.target(step), _phase_at(old, step, workdir)[1]
        try:
            schedule = make_schedule(phase.optimizer, phase.total_steps)
            tx = make_optimizer(phase.optimizer, schedule, state.params)
        except ValueError as error:
            raise ValueError(
                f"config.{FIELD}: the optimizer of {workdir} does not fit this network: {error}"
            ) from error
        state = state._replace(opt_state=jax.eval_shape(tx.init, state.params))
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            state,
            setup.shardings(state),
        )

    return target


def _opt_state(setup: Setup, workdir: Path, old: Settings, state: TrainState) -> Any:
    """Returns the optimizer state of a checkpoint in the form that this run's optimizer has at its step.

    Raises:
      ValueError: they do not hold the same arrays, or have counted their steps from another one on.
    """
    step, phase = int(state.step), setup.phase_of(int(state.step))
    if step == phase.stop:  # the next phase begins here, with a fresh optimizer
        return setup.copy(state._replace(opt_state=phase.tx.init(state.params))).opt_state
    start = _phase_at(old, step, workdir)[0]
    if start != phase.start:
        raise ValueError(
            f"config.{FIELD}: the optimizer of step {step} began at step {start} in {workdir}, and begins at "
            f"step {phase.start} here: let the phases begin at the same steps"
        )
    wanted = setup.target(step).opt_state
    lines, moved = carried_over(state.opt_state, wanted)
    if lines:
        raise ValueError(
            f"config.{FIELD}: the optimizer of {workdir} keeps other arrays than this one: "
            f"{'; '.join(lines[:SHOWN])}. Its numbers may differ; its name, its momentum and what is frozen "
            "may not. model.pretrained takes the backbone alone"
        )
    return moved


def carried_over(old: Any, new: Any) -> tuple[list[str], Any]:
    """Brings an optimizer state of optax into the form of another that holds the same arrays.

    A clipping or a decay that keeps nothing moves the others within their chain. So arrays are matched by
    their names, without the positions in chains, and those of one name in their order.

    Args:
      old: arrays.
      new: shapes.

    Returns:
      (a line for each array that has no counterpart of its shape and dtype, the arrays of `old` in the form
      of `new`; None where there are lines).
    """
    arrays, shapes = _by_name(old), _by_name(new)
    lines = [
        f"{name}: {_told(arrays.get(name, []))} there, {_told(shapes.get(name, []))} here"
        for name in sorted(arrays.keys() | shapes.keys())
        if _told(arrays.get(name, [])) != _told(shapes.get(name, []))
    ]
    if lines:
        return lines, None
    rest = {name: iter(leaves) for name, leaves in arrays.items()}
    return [], jax.tree_util.tree_map_with_path(lambda path, _: next(rest[_name(path)]), new)


def _by_name(tree: Any) -> dict[str, list[Any]]:
    leaves = defaultdict(list)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaves[_name(path)].append(leaf)
    return leaves


def _name(path: tuple[Any, ...]) -> str:
    named_keys = tuple(key for key in path if not isinstance(key, jax.tree_util.SequenceKey))
    return jax.tree_util.keystr(named_keys, simple=True, separator="/")


def _told(leaves: list[Any]) -> str:
    return " and ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves) or "nothing"
