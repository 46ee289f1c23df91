"""Checkpoints by Orbax, behind one small class: asynchronous, atomic, verified, the last n and the best
kept."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from imgcls_jax.runtime.agreement import all_or_none, of_first, require_agreement
from imgcls_jax.runtime.buckets import make_folder
from imgcls_jax.runtime.files import write_json
from imgcls_jax.runtime.mistakes import is_passing
from imgcls_jax.train.checkpoint_manager import Manager, absolute, commit_by
from imgcls_jax.train.checkpoint_tree import (
    OBJECTIVE_STATE,
    differing_leaves,
    from_tree,
    in_saved_order,
    part_checksums,
    require_held,
    shapes_digest,
    to_tree,
)
from imgcls_jax.train.state import TrainState, combined, leaf_checksums

logger = logging.getLogger(__name__)

Tree = Any
OF_PREDICTION = ("params", OBJECTIVE_STATE)
DIFFERS = "its bits are not those that were saved (checksum differs)"
ATTEMPTS = 5  # at a checkpoint, while another run removes those that it no longer keeps


class Checkpoints:
    """The checkpoints of one run.

    A checkpoint holds the whole TrainState, the epoch's order where there is one, and checksums of their
    bits, which whoever reads it verifies: Orbax itself does not notice a flipped bit.

    Args:
      directory: made where absent, unless read_only.
      keep_last: how many of the newest stay.
      best_metric: name of the metric by which the best one stays too; "" for none.
      best_mode: "max" or "min".
      read_only: nothing is written or removed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep_last: int = 2,
        best_metric: str = "",
        best_mode: str = "max",
        read_only: bool = False,
    ):
        if best_mode not in ("max", "min"):
            raise ValueError(f"train.best_mode is 'max' or 'min'; got {best_mode!r}")
        if keep_last < 1:
            raise ValueError(f"train.keep_checkpoints is at least 1; got {keep_last}")
        # Orbax reports every save and file at INFO, and at ERROR, with tracebacks, what it raises besides.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.directory, self.read_only = absolute(directory), read_only
        self._keep_last, self._tracks_best = keep_last, bool(best_metric)

        def metric(metrics: dict[str, float]) -> float:
            return metrics[best_metric]

        policies = [checkpoint_managers.LatestN(keep_last)]
        if best_metric:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=metric,
                    reverse=best_mode == "min",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        manager = type("Manager", (Manager,), {"best_metric": best_metric})  # read by the constructor
        open_folder = functools.partial(
            manager,
            self.directory,
            item_handlers={"state": ocp.PyTreeCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                best_fn=metric if best_metric else None,
                best_mode=best_mode,
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                temporary_path_class=commit_by(self.directory),
                # Else threads of a save whose folder cannot be made wait 300 s for it, at the process's end.
                async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
            ),
        )
        for attempt in range(ATTEMPTS):
            try:
                self._manager = open_folder()
                return
            except FileNotFoundError:  # another run has removed a checkpoint since it was listed
                if not read_only or attempt == ATTEMPTS - 1:
                    raise

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None or not issubclass(kind, (jax.errors.JaxRuntimeError, NotSaved)):
            self.wait()
            self._manager.close()
        # Else a save that waits for processes which are gone, or one that failed and would fail again here.

    def wait(self) -> None:
        """Returns when all is on disk.

        Raises:
          NotSaved: a checkpoint could not be written.
        """
        with self._saving():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a full disk makes Orbax raise, perhaps of an earlier save
            raise NotSaved(
                f"a checkpoint could not be written to {self.directory}: {_first_line(error)}. Those that "
                "are there stay whole; with room and permission to write, the same command goes on from them"
            ) from error

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        state: TrainState,
        *,
        order: np.ndarray | None = None,
        progress: Mapping[str, Any] | None = None,
        wait: bool = False,
    ) -> None:
        """Saves in the background, as step `state.step`; an existing checkpoint of that step stays as it is.

        Args:
          state: copied before this returns, so that the step may donate it.
          order: int64 [N], the running epoch's, of objectives that plan it.
          progress: JSON values of how the run came here, of train/progress.py.
          wait: return only when the checkpoint is on disk.

        Raises:
          NotSaved: this checkpoint, or an earlier one in the background, could not be written.
          ValueError: the processes hold different states, of which no checkpoint could be made.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            tree = to_tree(state, order)
            parts = part_checksums(tree)
            meta = {
                "step": step,
                "checksum": combined([one for part in parts.values() for one in part]),
                "parts": {name: combined(parts[name]) for name in OF_PREDICTION},
                "shapes": {name: shapes_digest(tree[name]) for name in OF_PREDICTION},
                "progress": dict(progress or {}),
            }
            # For another number of CPU cores XLA makes other code, which may round otherwise.
            require_agreement({f"the state of step {step} (are they of as many cores?)": meta["checksum"]})
            with self._saving():
                self._manager.save(
                    step,
                    args=ocp.args.Composite(state=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(meta)),
                )
        if wait:
            self.wait()

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of an evaluation to the checkpoint of its step, for the choice of the best.

        Args:
          step: a saved one; where its checkpoint has metrics, they stay.
          metrics: with best_metric among them.

        Raises:
          NotSaved: they could not be written.
        """
        if not self._tracks_best or of_first(self._manager.metrics(step) is not None):
            return
        self.wait()
        with self._saving(), all_or_none():
            if jax.process_index() == 0:
                folder = self.directory / str(step) / "metrics"  # where Orbax itself would write and look
                make_folder(folder)
                write_json(folder / "metrics", dict(metrics))
        self._manager.reload()
        for old in self.steps()[: -self._keep_last]:
            # One with metrics, but not this one, was the best by another evaluation.
            by_another = (
                self._manager.metrics(old) is None and (self.directory / str(old) / "metrics").exists()
            )
            if old != self._manager.best_step() and not of_first(by_another):
                self._manager.delete(old)

    def restore_latest(
        self,
        target: Callable[[int], TrainState],
        order: np.ndarray | None = None,
        *,
        before: int | None = None,
    ) -> tuple[TrainState, np.ndarray | None] | None:
        """Restores the newest checkpoint whose bits are as they were saved.

        One that cannot be read is reported and, once an older one has been restored in its place, renamed to
        N.unreadable (unless read_only).

        Args:
          target: of a checkpoint's step, jax.ShapeDtypeStruct leaves with shardings.
          order: an array like the saved one, where there is one.
          before: only checkpoints of earlier steps than this.

        Returns:
          (state, order); None where there is no checkpoint at all.

        Raises:
          ValueError: a checkpoint of another structure, or none of them readable.
        """
        self.wait()
        unreadable: list[int] = []
        for step in reversed([step for step in self.steps() if before is None or step < before]):
            wanted = to_tree(target(step), order)
            try:
                tree = self._restore(step, wanted)
            except _OtherStructure as error:
                raise ValueError(
                    f"{self.directory / str(step)} was saved by another model, objective or optimizer: "
                    f"{error}"
                ) from error
            except Exception as error:  # whatever a damaged file makes Orbax raise
                if is_passing(error):
                    raise OSError(
                        f"the checkpoint {self.directory / str(step)} cannot be read now: "
                        f"{_first_line(error)}. It stays as it is: mend that, and the same command goes on"
                    ) from error
                logger.warning(
                    "CHECKPOINT %s CANNOT BE READ, trying the one before it: %s",
                    self.directory / str(step),
                    str(error).split("\n", 1)[0][:300],
                )
                unreadable.append(step)
                continue
            if not self.read_only:
                self._set_aside(unreadable)
            return from_tree(tree)
        if unreadable:
            raise ValueError(
                f"none of the checkpoints in {self.directory} can be read (steps {unreadable}); move the "
                "folder away to start from the beginning"
            )
        return None

    def progress(self, step: int) -> dict[str, Any]:
        """Returns what `save` was given of a checkpoint's progress; {} where an older version saved it."""
        found = self._meta(step).get("progress")
        return found if isinstance(found, dict) else {}

    def _meta(self, step: int) -> dict[str, Any]:
        (meta,) = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).values()
        return meta

    def _restore(self, step: int, wanted: Tree) -> Tree:
        differing = differing_leaves(self._tree_of(step), wanted)
        if differing:
            raise _OtherStructure("; ".join(differing[:3]))
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted)
                ),
                meta=ocp.args.JsonRestore(),
            ),
        )
        if combined(np.asarray(leaf_checksums(restored["state"]))) != restored["meta"]["checksum"]:
            raise ValueError(DIFFERS)
        return restored["state"]

    def _tree_of(self, step: int) -> Tree:
        """Returns what a checkpoint's own description says of its arrays: shapes and dtypes.

        Raises:
          ValueError: they are far larger than its files.
        """
        tree = self._manager.item_metadata(step)["state"].tree
        require_held(tree, self.directory / str(step))
        return tree

    def _set_aside(self, steps: list[int]) -> None:
        for step in steps:
            if jax.process_index() == 0:
                (self.directory / str(step)).replace(self.directory / f"{step}.unreadable")
        if steps:
            self._manager.reload()

    def restore_for_prediction(self, which: str, sharding: jax.sharding.Sharding) -> tuple[int, Tree, Tree]:
        """Restores what `objective.predict` needs.

        Args:
          which: "latest", "best" (where no metric was recorded, the latest) or a step.
          sharding: of every leaf.

        Returns:
          (step, params, objective_state).

        Raises:
          ValueError: there is no such checkpoint, or it cannot be read.
        """
        for attempt in range(1, ATTEMPTS + 1):
            step = self.find(which)
            try:
                restored = self._restore_for_prediction(step, sharding)
            except Exception as error:  # whatever a damaged file makes Orbax raise
                gone = not (self.directory / str(step)).exists()
                if gone and attempt < ATTEMPTS:  # another run has removed it since
                    self._manager.reload()
                    continue
                raise ValueError(
                    f"the checkpoint {self.directory / str(step)} cannot be read: "
                    f"{'it was removed' if gone else _first_line(error)}; others: "
                    f"{[other for other in self.steps() if other != step]}"
                ) from error
            return step, restored["params"], restored[OBJECTIVE_STATE]
        raise AssertionError("unreachable")

    def _restore_for_prediction(self, step: int, sharding: jax.sharding.Sharding) -> Tree:
        """Returns {"params", OBJECTIVE_STATE} of a checkpoint, verified."""
        tree = self._tree_of(step)
        meta = self._meta(step)
        parts = meta.get("parts")
        if parts is not None:  # absent from older checkpoints, which are read whole
            tree = {name: tree[name] for name in OF_PREDICTION}
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )
        restore_args = ocp.checkpoint_utils.construct_restore_args(target)
        state = ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True)
        restored = self._manager.restore(step, args=ocp.args.Composite(state=state))["state"]
        if parts is None:
            leaves = [leaf for name in sorted(restored) for leaf in in_saved_order(restored[name])]
            sound = combined(np.asarray(leaf_checksums(leaves))) == meta["checksum"]
        else:
            sums = {name: combined(part) for name, part in part_checksums(restored).items()}
            shapes = {name: shapes_digest(restored[name]) for name in OF_PREDICTION}
            sound = (sums, shapes) == (parts, meta["shapes"])
        if not sound:
            raise ValueError(DIFFERS)
        return restored

    def find(self, which: str) -> int:
        """Returns the step of the checkpoint that "latest", "best" or a number names.

        Raises:
          ValueError: there is none.
        """
        steps = self.steps()
        if not steps:
            raise ValueError(f"{self.directory} holds no checkpoint yet")
        if which == "latest":
            return steps[-1]
        if which == "best":
            best = self._manager.best_step()
            return steps[-1] if best is None else best
        if which.isdigit() and int(which) in steps:
            return int(which)
        raise ValueError(
            f"checkpoint {which!r} is not in {self.directory}; there are 'latest', 'best' and {steps}"
        )


def _first_line(error: Exception) -> str:
    """Returns what an error says, a long one by its beginning and its end, where the cause stands."""
    text = str(error).strip().split("\n", 1)[0]
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-190:]}"


class NotSaved(OSError):
    """A checkpoint could not be written."""


class _OtherStructure(Exception):
    """The checkpoint is whole but belongs to something else."""
