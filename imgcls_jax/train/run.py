"""The run: from a configuration and a workdir to a trained, evaluated, checkpointed network."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imgcls_jax.config.configuration import Configuration
from imgcls_jax.config.resolve import resolve
from imgcls_jax.config.written import flat_fields
from imgcls_jax.contracts.tracker import Outcome
from imgcls_jax.data.worker_processes import refuse_in_worker, require_guard
from imgcls_jax.runtime import compilations
from imgcls_jax.runtime.agreement import all_or_none, of_first, require_agreement
from imgcls_jax.runtime.buckets import as_path, make_folder
from imgcls_jax.runtime.files import write_json
from imgcls_jax.runtime.names import printable
from imgcls_jax.runtime.stop import Interrupted, StopRequest
from imgcls_jax.train import evaluation, finished, kept_data, known_data, of_weights, tracking
from imgcls_jax.train import workdir as workdirs
from imgcls_jax.train.checkpoint import Checkpoints, NotSaved
from imgcls_jax.train.due import Due
from imgcls_jax.train.growth import require_data_growth, require_growth
from imgcls_jax.train.initial import first_state, locate_weights
from imgcls_jax.train.loop import Failed, Loop
from imgcls_jax.train.nonfinite import Incidents, NonFinite, RollBack
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.spent import Spent
from imgcls_jax.train.state import TrainState
from imgcls_jax.train.step import differences_in_parts
from imgcls_jax.train.writer import MetricWriter, evaluated_at

logger = logging.getLogger(__name__)


def run(
    config: Any, workdir: str | Path, *, name: str = "", accept_data_growth: bool = False
) -> dict[str, Any]:
    """Trains a configuration in a workdir; prints as it goes on, and a summary.

    Args:
      config: ConfigDict or dict with the sections of config/written.py.
      workdir: a folder, made where absent, or one of an object store (gs://).
      name: of the configuration, for trackers.
      accept_data_growth: whether a run goes on where its data have more images and are else as they were.

    Returns:
      What <workdir>/result.json holds.

    Raises:
      ValueError: a mistake in configuration, data or workdir, a workdir in use, or processes that differ;
        nothing but the lock was written then. Of several processes all raise it.
      Interrupted, Failed, FloatingPointError: see train.
      SystemExit: data.num_workers in a script that workers cannot import, as without a guard of `__main__`.
    """
    refuse_in_worker()
    workdir = as_path(workdir)
    with contextlib.ExitStack() as held:
        with all_or_none():
            configuration, told = of_weights.written_out(resolve(config), workdir)
            if jax.process_index() == 0:
                tracking.require(configuration.resolved["train"]["loggers"])
            if configuration.data.num_workers:
                require_guard()
            grown = workdirs.check(configuration, workdir)
            changed = workdirs.changed_evaluations(configuration, workdir)
            is_finished = (workdir / "result.json").exists() and not grown and not changed
            result = finished.read_result(workdir) if is_finished else {}
            setup = None if result else _prepare(configuration, workdir, held, accept_data_growth)
        require_agreement({"whether its workdir holds a finished run": setup is None})
        if setup is None:
            print(f"{workdir} holds a finished run of this configuration; nothing to do", flush=True)
        else:
            require_agreement(setup.facts())
            with all_or_none():
                if setup.teacher is not None:
                    setup.teacher.require_same(workdir)
            if setup.first_process:
                for line in told:
                    print(printable(line), flush=True)
                _tell_data(setup)
                for line in changed:
                    print(printable(f"the evaluations change here: {line}"), flush=True)
            result = train(setup, workdir, name)
    if jax.process_index() == 0:
        print(finished.summary(result, workdir), flush=True)
    return result


def _tell_data(setup: Setup) -> None:
    lines, warnings = setup.describe_data()
    for line in lines:
        print(printable(line), flush=True)
    for warning in warnings:
        logger.warning("%s", printable(warning))


def _found(setup: Setup, *, accept_growth: bool = False) -> workdirs.Found:
    """Returns what a workdir keeps, or is compared with, of the data."""
    task = setup.task
    return workdirs.Found(
        setup.contents, setup.class_names, task.steps_per_epoch, accept_growth, task.signatures
    )


def _prepare(
    configuration: Configuration, workdir: Path, held: contextlib.ExitStack, accept_growth: bool
) -> Setup:
    """Returns the setup; the first process holds the workdir's lock from here on."""
    setup = Setup(configuration)
    make_folder(workdir)
    if setup.first_process:
        known_data.remember(configuration)
        held.enter_context(workdirs.lock(workdir))
        # Another run may have begun since.
        found = _found(setup, accept_growth=accept_growth)
        if workdirs.check(configuration, workdir, found):
            require_growth(setup, workdirs.saved_length(workdir))
        train_split = setup.data.settings.train_split
        if kept_data.has_grown(workdir, train_split, setup.contents[train_split].examples):
            require_data_growth(setup)
    return setup


def train(setup: Setup, workdir: Path, name: str = "") -> dict[str, Any]:
    """Trains to the end, from the newest checkpoint where there is one, and writes result.json.

    Args:
      setup: of the configuration.
      workdir: exists.
      name: of the configuration, for trackers.

    Returns:
      What result.json holds.

    Raises:
      Interrupted: SIGTERM or Ctrl-C came; the state was saved.
      Failed: anything else ended the run; the state was saved.
      FloatingPointError: the loss is not finite; names step and leaf.
    """
    settings, spent = setup.settings.train, Spent()
    incidents = Incidents(workdir, settings.on_nonfinite, write=setup.first_process)
    with (
        StopRequest() as stop,
        Checkpoints(
            workdir / "checkpoints",
            keep_last=settings.keep_checkpoints,
            best_metric=settings.best_metric,
            best_mode=settings.best_mode,
        ) as checkpoints,
        compilations.counted() as compiled,
    ):
        result = None
        while result is None:
            try:
                result = _go_on(setup, workdir, name, checkpoints, stop, incidents, spent)
            except RollBack as back:
                spent.clock.pause()
                logger.warning("GOING BACK to the newest checkpoint: %s", back)
    result |= {"compilations": compiled(), "wall_seconds": spent.wall_seconds()}
    if setup.first_process:
        write_json(workdir / "result.json", result)
    return result


def restore(
    setup: Setup, checkpoints: Checkpoints, *, before: int | None = None
) -> tuple[TrainState, np.ndarray | None] | None:
    """Returns (state, order) of the newest readable checkpoint; see Checkpoints.restore_latest."""
    plans = setup.objective.plan_epoch is not None
    order = np.zeros(setup.task.num_examples, np.int64) if plans else None
    return checkpoints.restore_latest(setup.target, order, before=before)


def _go_on(
    setup: Setup,
    workdir: Path,
    name: str,
    checkpoints: Checkpoints,
    stop: StopRequest,
    incidents: Incidents,
    spent: Spent,
) -> dict[str, Any]:
    """Trains from the newest checkpoint to the end and returns the result, all but wall_seconds."""
    restored = restore(setup, checkpoints)
    weights = None if restored else locate_weights(setup, workdir)
    state, order = restored or first_state(setup, weights)
    kept = checkpoints.progress(int(state.step)) if restored else {}
    spent.go_on(kept)
    if setup.first_process:  # only now: what is refused changes nothing in the workdir
        workdirs.claim(
            workdir,
            setup.configuration,
            setup.task,
            setup.source_shape,
            _found(setup),
            setup.data.brightness,
            weights.pinned if weights else {},
        )
        if setup.teacher is not None:
            setup.teacher.write(workdir)
    first_step, total = int(state.step), setup.settings.train.total_steps
    if restored and setup.first_process:
        print(f"resumed from the checkpoint of step {first_step}", flush=True)
    parts = setup.settings.train.num_microbatches
    if setup.first_process and first_step < total:
        for line in differences_in_parts(setup.objective, state.objective_state, parts):
            logger.warning("train.num_microbatches = %d: %s", parts, line)
    names = [own.name for own in setup.settings.evals]
    # An evaluation that was due at this step is made up for; the last one of a run always, for result.json.
    evaluated = of_first(evaluated_at(workdir, first_step, names))
    owed = first_step == total or (Due(setup.settings.train, 0).evaluation(first_step) and evaluated is None)
    again = ("plan", *(names if owed else ()))
    writer = MetricWriter(
        workdir,
        resume_step=first_step,
        again=again,
        active=setup.first_process,
        loggers=setup.settings.train.loggers,
        config_name=name,
        fields=flat_fields(setup.resolved),
    )
    outcome: Outcome = "failed"
    loop = Loop(setup, state, order, checkpoints, writer, stop, incidents, spent, kept)
    try:
        if owed or (first_step and not restored):
            loop.save()
        if owed:
            loop.evaluate()
        elif evaluated:
            evaluation.require_metric(setup.settings.train.best_metric, evaluated)
            checkpoints.record(first_step, evaluated)
        loop.advance()
        result = loop.result() | {"resumed_from_step": first_step}
        outcome = "finished"
        return result
    except Interrupted:
        outcome = "stopped"
        loop.save(wait=True)
        raise Interrupted(
            f"stopped by {stop.reason} after step {loop.step} of {total}, which is saved in {workdir}"
        ) from None
    except (NotSaved, NonFinite, RollBack):
        raise
    except Exception as error:
        if not loop.step or (jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError)):
            raise  # nothing to save, or no others to save it with
        message = loop.end(error)
        if isinstance(error, BrokenPipeError):  # nobody reads what a run prints
            logger.error(message)
            raise
        raise Failed(message) from error
    finally:
        writer.close(outcome)
