"""What a run tells of itself: metrics.jsonl and TensorBoard events.

The method names are those of clu's metric writers, which cannot be imported without TensorFlow.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import numbers
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from imgcls_jax.runtime import buckets
from imgcls_jax.runtime.files import MAX_METRICS_BYTES, naming, open_own, parse_json, read_bytes, whole

FLUSH_SECONDS = 10  # a flush waits for the disk
OWN_PREFIXES = ("train", "plan")  # of the names of scalars; all others are those of evaluations


class MetricWriter:
    """Writes scalars to `<workdir>/metrics.jsonl` and, where tensorboardX is installed, to
    `<workdir>/tensorboard`.

    A line of metrics.jsonl is {"step": 120, "train/loss": 0.31, ...}; numbers that are not finite become
    null. An object store takes no additions: there both are written anew, every FLUSH_SECONDS and at flush.

    Args:
      workdir: exists.
      resume_step: what an earlier run wrote beyond this step is taken out, since it will come again.
      again: so are the records of this very step whose names begin with one of these prefixes.
      active: False writes nothing (processes other than the first).

    Raises:
      OSError: here or in a method, naming the file: it cannot be written, or was removed meanwhile.
    """

    def __init__(
        self, workdir: Path, *, resume_step: int = 0, again: Sequence[str] = (), active: bool = True
    ):
        self._file: IO[str] | buckets.Growing | None = None
        self._board: Board | None = None
        self._path = workdir / "metrics.jsonl"
        if not active:
            return
        with naming(self._path):
            _drop_after(self._path, resume_step, again)
            if buckets.is_bucket(workdir):
                self._file = buckets.Growing(self._path, MAX_METRICS_BYTES, FLUSH_SECONDS)
            else:
                self._file = open_own(self._path, "a")
        with contextlib.suppress(ModuleNotFoundError):
            self._board = Board(workdir / "tensorboard", resume_step)

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
        if self._board is not None:
            self._board.write(step, [self._board.summary.scalar(*pair) for pair in scalars.items()])

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
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Flushes and closes."""
        try:
            if self._file is not None:
                with naming(self._path):
                    self._file.close()
        finally:
            if self._board is not None:
                self._board.close()


class Board:
    """A file of TensorBoard's events, written where it is called.

    tensorboardX's SummaryWriter has a thread write, which a full disk ends with a traceback, and for which
    the caller then waits without end.

    Args:
      folder: of the files, one for each start of a run. That of an object store lies on this machine, too.
      resume_step: TensorBoard hides what earlier files hold beyond this step.

    Raises:
      ModuleNotFoundError: tensorboardX is not installed.
      OSError: here or in a method: the folder cannot be written.
    """

    def __init__(self, folder: Path, resume_step: int):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self.summary, self._event, self._folder = summary, event_pb2.Event, folder
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._pace, self._place, self._own = buckets.Pace(FLUSH_SECONDS), folder, None
        with naming(folder):
            if buckets.is_bucket(folder):
                self._own = tempfile.TemporaryDirectory()
                self._place = Path(self._own.name)
            else:
                folder.mkdir(exist_ok=True)
            if self._place.is_symlink():  # of a stranger's workdir, into any folder
                raise OSError(errno.ELOOP, "it is a symbolic link: remove it")
            # tensorboardX names a file by the second; the number sets two of one second apart, in order.
            number = len(list(folder.iterdir())) if folder.exists() else 0
            self._file = event_file_writer.EventsWriter(str(self._place / "events"), f".{number:06d}")
            self._file.write_event(
                self._event(wall_time=time.time(), step=resume_step + 1, session_log=session)
            )
        self.flush()

    def write(self, step: int, summaries: Sequence[Any]) -> None:
        """Writes summaries of one step; to the disk, with all before them, every FLUSH_SECONDS."""
        with naming(self._folder):
            for summary in summaries:
                self._file.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
        if self._pace.due():
            self.flush()

    def flush(self) -> None:
        """Writes what is held back to the disk."""
        with naming(self._folder), self._pace.writing():
            self._file.flush()
            self._copy()

    def _copy(self) -> None:
        """Copies the file where its folder lies in an object store."""
        if self._own is not None:
            for file in self._place.iterdir():
                buckets.write(self._folder / file.name, file.read_bytes())

    def close(self) -> None:
        """Flushes and closes."""
        with naming(self._folder):
            self._file.close()
            self._copy()
        if self._own is not None:
            self._own.cleanup()


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
