"""What a run tells of itself: metrics.jsonl, and what the trackers of train.loggers receive.

The method names are those of clu's metric writers, which cannot be imported without TensorFlow.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from imgcls_jax.config.field_types import fits
from imgcls_jax.config.modules import find_module
from imgcls_jax.contracts.tracker import Entry, Facts, Outcome, Tracker
from imgcls_jax.runtime import buckets
from imgcls_jax.runtime.files import MAX_METRICS_BYTES, naming, open_own, parse_json, read_bytes, whole
from imgcls_jax.train import tracking

FLUSH_SECONDS = 10  # of an object store
OWN_PREFIXES = ("train", "plan")  # of the names of scalars; all others are those of evaluations


class MetricWriter:
    """Writes scalars to `<workdir>/metrics.jsonl`, and hands them and what else there is to show to trackers.

    A line of metrics.jsonl is {"step": 120, "train/loss": 0.31, ...}; numbers that are not finite become
    null. An object store takes no additions: there it is written anew, every FLUSH_SECONDS and at flush.

    Args:
      workdir: exists.
      resume_step: what an earlier run wrote beyond this step is taken out, since it will come again.
      again: so are the records of this very step whose names begin with one of these prefixes.
      active: False writes nothing (processes other than the first).
      loggers: the trackers, of files of trackers/. Where tensorboardX is not installed, TensorBoard is none.
      config_name, fields: of the configuration, as of Facts.

    Raises:
      OSError: here or in a method, naming the file: it cannot be written, or was removed meanwhile.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        resume_step: int = 0,
        again: Sequence[str] = (),
        active: bool = True,
        loggers: Sequence[str] = ("tensorboard",),
        config_name: str = "",
        fields: Mapping[str, Any] | None = None,
    ):
        self._file: IO[str] | buckets.Growing | None = None
        self._trackers: list[Tracker] = []
        self._path = workdir / "metrics.jsonl"
        if not active:
            return
        aside = [name for name in loggers if not tracking.of_workdir(find_module("trackers", name))]
        with naming(self._path):
            written = {entry.about: entry.step for entry in _entries(self._path)} if aside else {}
            _drop_after(self._path, resume_step, again)
            if buckets.is_bucket(workdir):
                self._file = buckets.Growing(self._path, MAX_METRICS_BYTES, FLUSH_SECONDS)
            else:
                self._file = open_own(self._path, "a")
        facts = Facts(workdir, config_name, fields or {}, resume_step)
        for name in loggers:
            if name not in aside:
                with contextlib.suppress(ModuleNotFoundError):
                    self._trackers.append(find_module("trackers", name).make(facts))
        if aside:
            kept = tracking.Kept(workdir)
            self._trackers += [
                tracking.Aside(name, facts, kept, written, _entries(self._path)) for name in aside
            ]

    @property
    def shows(self) -> bool:
        """Whether there is anything that shows more than scalars."""
        return not all(isinstance(own, tracking.Aside) and own.given_up for own in self._trackers)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes named scalars of one step."""
        if self._file is None:
            return
        record = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        with naming(self._path):
            if not isinstance(self._file, buckets.Growing):  # which looks where it is written
                self.require_file()
            self._file.write(json.dumps({"step": step} | record) + "\n")
            self._file.flush()
        for entry in _by_kind(step, scalars):
            self.show(entry)

    def show(self, entry: Entry) -> None:
        """Hands an entry to the trackers, and nothing to metrics.jsonl."""
        for tracker in self._trackers:
            tracker.write(entry)

    def require_file(self) -> None:
        """Raises OSError where metrics.jsonl, or the workdir, was removed or replaced since it was opened."""
        if self._file is None:
            return
        with naming(self._path):
            if isinstance(self._file, buckets.Growing):
                self._file.require_own()
            elif not os.path.samestat(os.fstat(self._file.fileno()), os.lstat(self._path)):
                raise OSError(errno.ESTALE, "another file has taken its place")

    def flush(self) -> None:
        """Writes what is held back, so that what came before a checkpoint outlives a kill."""
        if isinstance(self._file, buckets.Growing):
            with naming(self._path):
                self._file.save()
        for tracker in self._trackers:
            tracker.flush()

    def close(self, outcome: Outcome = "finished") -> None:
        """Flushes and closes."""
        with contextlib.ExitStack() as last:
            for tracker in self._trackers:
                last.callback(tracker.close, outcome)
            if self._file is not None:
                with naming(self._path):
                    self._file.close()


def _by_kind(step: int, scalars: Mapping[str, float]) -> list[Entry]:
    """Returns the scalars of a step as entries, one of each kind, in order."""
    kinds: dict[str, dict[str, float]] = {}
    for name, value in scalars.items():
        kinds.setdefault(name.partition("/")[0], {})[name] = value
    return [Entry(step, about, own) for about, own in kinds.items()]


def _entries(path: Path) -> Iterator[Entry]:
    """Yields what a metrics file holds, as it was told."""
    for _, record in _records(path) if path.exists() else ():
        step = record.pop("step")
        told = {name: math.nan if value is None else value for name, value in record.items()}
        yield from _by_kind(step, {name: value for name, value in told.items() if fits(value, float)})


def _drop_after(path: Path, step: int, again: Sequence[str]) -> None:
    """Takes out of a metrics file the records that will come again, and a last line that a kill cut short."""
    if not path.exists():
        return

    kept = []
    for line, record in _records(path):
        left = {name: value for name, value in record.items() if name.partition("/")[0] not in again}
        if record["step"] < step or left == record:
            kept += [line] if record["step"] <= step else []
        elif record["step"] == step and len(left) > 1:  # more than the step
            kept.append(json.dumps(left))
    with whole(path, "w") as file:
        file.writelines(f"{line}\n" for line in kept)


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the lines of a metrics file with the records they hold; no others."""
    for line in read_bytes(path, MAX_METRICS_BYTES).decode("utf-8", errors="replace").splitlines():
        try:
            record = parse_json(line)
            if isinstance(record["step"], int):
                yield line, record
        except (ValueError, KeyError, TypeError):
            continue


def evaluated_at(workdir: Path, step: int, evaluations: Iterable[str]) -> dict[str, float] | None:
    """Returns the scalars of the evaluations at a step, as metrics.jsonl has them; None where one is absent.

    Args:
      workdir: of a run.
      step: of the evaluation.
      evaluations: their names.
    """
    path = workdir / "metrics.jsonl"
    found: dict[str, float] = {}
    for _, record in _records(path) if path.exists() else ():
        if record["step"] == step:
            found |= {name: math.nan if value is None else value for name, value in record.items()}
    names = {name: name.partition("/")[0] for name in found if name != "step"}
    if set(evaluations) - set(names.values()):
        return None
    return {name: found[name] for name, prefix in names.items() if prefix not in OWN_PREFIXES}


def flatten(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Returns the numbers of an evaluation as {"<prefix>/<name>": value}; no lists, no None."""
    return {
        f"{prefix}/{name}": float(value) for name, value in metrics.items() if isinstance(value, numbers.Real)
    }
