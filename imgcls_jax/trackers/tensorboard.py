"""TensorBoard: files of events in <workdir>/tensorboard, one for each start of the run."""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.contracts.tracker import Entry, Facts, Outcome, Table
from imgcls_jax.runtime import buckets
from imgcls_jax.runtime.files import naming

PACKAGE, EXTRA = "tensorboardX", "train"
OF_WORKDIR = True
FLUSH_SECONDS = 10  # a flush waits for the disk


def make(facts: Facts) -> Board:
    """Returns the tracker.

    Raises:
      ModuleNotFoundError: tensorboardX is not installed.
      OSError: here or in a method: the folder cannot be written.
    """
    return Board(facts)


class Board:
    """A file of events, written where it is called.

    tensorboardX's SummaryWriter has a thread write, which a full disk ends with a traceback, and for which
    the caller then waits without end.

    Args:
      facts: of the run. A workdir of an object store has its files on this machine, too. TensorBoard hides
        what earlier files hold beyond the step of a resume.
    """

    def __init__(self, facts: Facts):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        folder = facts.workdir / "tensorboard"
        self._summary, self._event, self._folder = summary, event_pb2.Event, folder
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
            started = self._event(wall_time=time.time(), step=facts.resume_step + 1, session_log=session)
            self._file.write_event(started)
        if facts.fields:
            fields = Table(("field", "value"), [(name, str(value)) for name, value in facts.fields.items()])
            self._write(facts.resume_step, [summary.text("configuration", _markdown(fields))])
        self.flush()

    def write(self, entry: Entry) -> None:
        """Writes an entry; to the disk, with all before it, every FLUSH_SECONDS."""
        summaries = [self._summary.scalar(*pair) for pair in entry.scalars.items()]
        summaries += [self._summary.text(name, _markdown(table)) for name, table in entry.tables.items()]
        summaries += [
            self._summary.image(name, np.asarray(picture.convert("RGB")), dataformats="HWC")
            for name, picture in entry.pictures.items()
        ]
        self._write(entry.step, summaries)
        if self._pace.due():
            self.flush()

    def _write(self, step: int, summaries: Sequence[Any]) -> None:
        with naming(self._folder):
            for summary in summaries:
                self._file.write_event(self._event(wall_time=time.time(), step=step, summary=summary))

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

    def close(self, outcome: Outcome) -> None:
        """Flushes and closes."""
        with naming(self._folder):
            self._file.close()
            self._copy()
        if self._own is not None:
            self._own.cleanup()


def _markdown(table: Table) -> str:
    """Returns a table as Markdown, which TensorBoard shows."""
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)


def _cell(value: str | float | None) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", r"\|").replace("\n", " ")
