"""A live bar on a terminal: what is done of how much, the rate, the time left.

    for image in tracked(images, "reading", len(images)):
        ...

    with bar("training", total_steps, "steps", done=first_step) as shown:
        shown.update(step, "epoch 1.20  loss 0.31  5,000 examples/s", seconds_left=61)
        if not shown.replaces_lines:
            print(line)

The bar is drawn by `rich`. It goes to standard error, and only to a terminal: standard output holds results
alone. Lines printed while a bar lives appear above it. Elsewhere (a pipe, a file, NO_COLOR, TERM=dumb, a
process other than the first, a cell of a notebook, `rich` not installed) nothing is written. Bars may stand
within bars: the evaluation within the training.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar

from imgcls_jax.runtime.names import printable

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")

REFRESH_SECONDS = 0.2  # between two drawings
KERNEL = "JPY_PARENT_PID"  # in the environment of a Jupyter kernel, and of what it starts
BYTES = "bytes"  # the unit that is shown in kB, MB and GB


class Bar:
    """One task on the terminal, or on none.

    Args:
      progress: where it is drawn; None to draw nothing.
      task: its number there.
    """

    def __init__(self, progress: Progress | None = None, task: Any = None) -> None:
        self._progress, self._task, self._drawn = progress, task, 0.0

    @property
    def live(self) -> bool:
        """Whether anybody sees it."""
        return self._progress is not None

    @property
    def replaces_lines(self) -> bool:
        """Whether the reader of standard output sees the bar, which lines of progress would repeat."""
        return self.live and sys.stdout is not None and sys.stdout.isatty()

    def update(self, done: int, text: str | None = None, *, seconds_left: float | None = None) -> None:
        """Says how much is done; costs less than a microsecond where nobody sees it.

        Args:
          done: of the total.
          text: numbers to show in place of the rate; None leaves those of before.
          seconds_left: where the caller knows better than the rate so far; None leaves that of before.
        """
        if self._progress is not None:
            said = {"text": text and printable(text), "seconds_left": seconds_left}
            fields: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
            self._progress.update(self._task, completed=done, **fields)
            self._draw()

    def advance(self, count: int = 1) -> None:
        """Says that `count` more are done."""
        if self._progress is not None:
            self._progress.advance(self._task, count)
            self._draw()

    def end(self) -> None:
        """Takes the bar away."""
        if self._progress is not None:
            self._progress.remove_task(self._task)
        self._progress = None

    def _draw(self) -> None:
        moment = time.monotonic()
        if self._progress is not None and moment - self._drawn >= REFRESH_SECONDS:
            self._drawn = moment
            try:
                self._progress.refresh()
            except BrokenPipeError:
                raise
            except (OSError, ValueError):  # the terminal has gone, or its file is closed: work goes on
                self._progress = None


_open: list[Progress] = []  # a process has one terminal: bars within bars share it


@contextlib.contextmanager
def bar(description: str, total: int | None, unit: str = "", *, done: int = 0) -> Iterator[Bar]:
    """Shows a bar for the time of the context.

    Args:
      description: what is done, such as "embedding".
      total: how much there is to do; None where nobody knows.
      unit: of it, such as "images".
      done: how much of it an earlier start has done.
    """
    with contextlib.ExitStack() as stack:
        progress = _open[-1] if _open else _new_progress()
        if progress is None:
            yield Bar()
            return
        if not _open:
            stack.enter_context(_on_terminal(progress))
        task = progress.add_task(
            printable(description), total=total, completed=done, unit=unit, text="", seconds_left=None
        )
        shown = Bar(progress, task)
        stack.callback(shown.end)
        yield shown


def tracked(
    items: Iterable[Item],
    description: str,
    total: int | None = None,
    unit: str = "images",
    *,
    count: Callable[[Item], int] = lambda item: 1,
) -> Iterator[Item]:
    """Yields the items, and shows how many of them have been taken care of.

    Args:
      items: of any kind.
      description, unit: as of bar.
      total: how much all items are together; None for their number, where they have one.
      count: how much of the total an item is.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total, unit) as shown:
        for item in items:
            yield item
            shown.advance(count(item))


# ---- the terminal


def has_terminal() -> bool:
    """Whether standard error is a terminal that takes escape codes.

    What `!` starts in a notebook has a terminal, too, but a cell keeps each drawing of the bar.
    """
    unwanted = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown")
    unwanted = unwanted or KERNEL in os.environ
    return not unwanted and sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def _is_first_process() -> bool:
    """Whether this is the first of the run's processes; asked without starting jax's devices."""
    import jax

    return not jax.distributed.is_initialized() or jax.process_index() == 0


def _new_progress() -> Progress | None:
    """Returns what draws the bars, None where they are not to be shown."""
    if not has_terminal() or not _is_first_process():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:  # of an installation that predicts from an export alone
        return None

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError; rich would end the process

        def show_cursor(self, show: bool = True) -> bool:
            return False  # a process that is killed could not show it again

    # Lines of standard output go through the console where both are the terminal, else they are left alone.
    together = sys.stdout is not None and sys.stdout.isatty()
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        _words_column(),
        console=Terminal(file=sys.stderr, force_terminal=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=together,
    )


def _words_column() -> Any:
    from rich.filesize import decimal
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    def amount(number: float, unit: str) -> str:
        if unit == BYTES:
            return decimal(int(number))
        return f"{number:,.3g}" if number < 100 and number % 1 else f"{number:,.0f}"

    class Words(ProgressColumn):
        """What is done, the caller's text or the rate, the time left."""

        def render(self, task: Task) -> Text:
            unit = task.fields["unit"]
            numbers = [task.completed] if task.total is None else [task.completed, task.total]
            words = ["/".join(amount(number, unit) for number in numbers)]
            shown_unit = "" if unit == BYTES else f" {unit}"
            words[0] = f"{words[0]}{shown_unit}".rstrip()
            left = task.fields["seconds_left"]
            if left is None:
                left = task.time_remaining
            if left is not None and left < 1e9:
                words.append(f"{clock(left)} left")
            if task.fields["text"]:
                words.append(task.fields["text"])
            elif task.speed:
                words.append(f"{amount(task.speed, unit)}{shown_unit}/s")
            return Text("  ".join(words), no_wrap=True, overflow="ellipsis")

    return Words()


def clock(seconds: float) -> str:
    """Returns "1:02:03"."""
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


@contextlib.contextmanager
def _on_terminal(progress: Progress) -> Iterator[None]:
    """Opens the bars' lines, above which standard error and the handlers of logging write."""
    plain = sys.stderr
    with contextlib.suppress(OSError, ValueError):
        progress.start()
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is plain
    ]
    for handler in handlers:
        handler.setStream(sys.stderr)
    _open.append(progress)
    try:
        yield
    finally:
        _open.remove(progress)
        for handler in handlers:
            handler.setStream(plain)
        with contextlib.suppress(OSError, ValueError):
            progress.stop()
