"""What a run tells of itself: metrics.jsonl, TensorBoard events and lines on the terminal.

The method names are those of clu's metric writers, which cannot be imported without TensorFlow.
"""

from __future__ import annotations

import contextlib
import json
import math
import numbers
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.files import naming

FLUSH_SECONDS = 10  # a flush waits for the disk


class MetricWriter:
    """Writes scalars to `<workdir>/metrics.jsonl` and, where tensorboardX is installed, to
    `<workdir>/tensorboard`.

    A line of metrics.jsonl is {"step": 120, "train/loss": 0.31, ...}; numbers that are not finite become
    null.

    Args:
      workdir: exists.
      resume_step: what an earlier run wrote beyond this step is taken out, since it will come again.
      active: False writes nothing (processes other than the first).

    Raises:
      OSError: here or in a method, naming the file: it cannot be written.
    """

    def __init__(self, workdir: Path, *, resume_step: int = 0, active: bool = True):
        self._file, self._board = None, None
        self._path = workdir / "metrics.jsonl"
        if not active:
            return
        with naming(self._path):
            _drop_after(self._path, resume_step)
            self._file = self._path.open("a", encoding="utf-8")
        with contextlib.suppress(ModuleNotFoundError):
            self._board = Board(workdir / "tensorboard", resume_step)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes named scalars of one step."""
        if self._file is None:
            return
        record = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        with naming(self._path):
            self._file.write(json.dumps({"step": step} | record) + "\n")
            self._file.flush()
        if self._board is not None:
            self._board.write(step, [self._board.summary.scalar(*pair) for pair in scalars.items()])

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes named texts of one step, to TensorBoard alone."""
        if self._board is not None:
            self._board.write(step, [self._board.summary.text(*pair) for pair in texts.items()])

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
      folder: of the files, one for each start of a run.
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
        with naming(folder):
            folder.mkdir(exist_ok=True)
            self._file = event_file_writer.EventsWriter(str(folder / "events"))
            self._file.write_event(
                self._event(wall_time=time.time(), step=resume_step + 1, session_log=session)
            )
            self._file.flush()
        self._flushed = time.monotonic()

    def write(self, step: int, summaries: Sequence[Any]) -> None:
        """Writes summaries of one step; to the disk, with all before them, every FLUSH_SECONDS."""
        with naming(self._folder):
            for summary in summaries:
                self._file.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._file.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes."""
        with naming(self._folder):
            self._file.close()


def _drop_after(path: Path, step: int) -> None:
    """Takes out of a metrics file the records beyond a step, and a last line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    replacement = path.with_suffix(".tmp")
    replacement.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    replacement.replace(path)


class Clock:
    """A stopwatch, standing at first: it runs while the training steps do."""

    def __init__(self) -> None:
        self._since, self._total, self._running = 0.0, 0.0, False

    def seconds(self) -> float:
        """Returns the seconds that have run so far."""
        return self._total + (time.monotonic() - self._since if self._running else 0.0)

    def pause(self) -> None:
        """Stops the clock."""
        self._total, self._running = self.seconds(), False

    def resume(self) -> None:
        """Lets the clock run on."""
        self._since, self._running = time.monotonic(), True


def progress_line(
    step: int,
    total_steps: int,
    epoch: float,
    metrics: Mapping[str, float],
    *,
    examples_per_second: float,
    seconds_left: float,
) -> str:
    """Returns one line: step of total, epoch, metrics, examples/s and time left."""
    shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    left = f"{int(seconds_left // 3600)}:{int(seconds_left // 60) % 60:02d}:{int(seconds_left) % 60:02d}"
    speed = f"{examples_per_second:,.0f} examples/s"
    return f"step {step}/{total_steps}  epoch {epoch:.2f}  {shown}  {speed}  {left} left"


def flatten(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Returns the numbers of an evaluation as {"<prefix>/<name>": value}; no lists, no None."""
    return {
        f"{prefix}/{name}": float(value) for name, value in metrics.items() if isinstance(value, numbers.Real)
    }
