"""A live bar on a terminal: what is done of how much, the rate, the time left.

    for image in tracked(images, "reading", len(images)):
        ...

    with bar("training", total_steps, "steps", done=first_step) as shown:
        shown.update(step, "epoch 1.20  loss 0.31  5,000 examples/s", seconds_left=61)
        if not shown.replaces_lines:
            print(line)

The bar goes to standard error, and only to a terminal that moves its cursor: standard output holds results
alone. Lines printed while a bar lives appear above it. Elsewhere (a pipe, a file, NO_COLOR, TERM=dumb, a
process other than the first, `rich` not installed) nothing is written. Bars may stand within bars: the
evaluation within the training.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.live import Live

Item = TypeVar("Item")

REFRESH_SECONDS = 0.2  # between two drawings of a bar
LEAST_BAR = 8  # columns; a narrower bar says nothing and is left out
BYTES = "bytes"  # the unit that is shown in KiB, MiB and GiB
_SIZES = ("bytes", "KiB", "MiB", "GiB", "TiB")


class Bar:
    """One task of a known length.

    Args:
      description: what is done, such as "embedding".
      total: how much there is to do; None where nobody knows.
      unit: of it, such as "images".
      done: how much of it an earlier start has done.
      screen: where it is drawn; None to draw nothing.

    Attributes:
      description, total, unit, done: as above; done as of now.
      text: numbers of the caller, shown after what is done.
      seconds_left: what the caller knows of it; None to go by the rate so far.
    """

    def __init__(
        self, description: str, total: int | None, unit: str, done: int = 0, screen: Screen | None = None
    ) -> None:
        self.description, self.total, self.unit, self.done = description, total, unit, done
        self.text = ""
        self.seconds_left: float | None = None
        self._screen = screen
        self._first: tuple[float, int] | None = None  # when and where the rate begins to count

    @property
    def live(self) -> bool:
        """Whether anybody sees it."""
        return self._screen is not None and self._screen.open

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
        self.done = done
        if self._screen is None:
            return
        if text is not None:
            self.text = text
        if seconds_left is not None:
            self.seconds_left = seconds_left
        if self._first is None:
            self._first = time.monotonic(), done  # after the first part, whose programs are compiled
        self._screen.draw()

    def advance(self, count: int = 1) -> None:
        """Says that `count` more are done."""
        self.update(self.done + count)

    def rate(self) -> float | None:
        """Returns how much is done a second; None where it is too early to say."""
        since, first = self._first or (0.0, self.done)
        return (self.done - first) / (time.monotonic() - since) if self.done > first else None

    def words(self) -> tuple[str, ...]:
        """Returns what stands after the bar: what is done, the caller's text or the rate, the time left."""
        words = [amount(self.done, self.total, self.unit)]
        rate = self.rate()
        if self.text:
            words.append(self.text)
        elif rate is not None:
            number = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
            words.append(f"{amount(rate, None, BYTES) if self.unit == BYTES else f'{number} {self.unit}'}/s")
        left = self.seconds_left
        if left is None and rate and self.total is not None:
            left = (self.total - self.done) / rate
        if left is not None and math.isfinite(left):
            words.append(f"{clock(left)} left")
        return tuple(words)


class Screen:
    """The terminal's last lines, a bar on each."""

    def __init__(self, live: Live) -> None:
        self._live, self._drawn = live, 0.0
        self.bars: list[Bar] = []
        self.open = True

    def draw(self, *, now: bool = False) -> None:
        """Draws the bars where REFRESH_SECONDS have passed, or now."""
        moment = time.monotonic()
        if self.open and (now or moment - self._drawn >= REFRESH_SECONDS):
            self._drawn = moment
            with self.guarded():
                self._live.update(_rows(self.bars, self._live.console.width), refresh=True)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Gives the bars up where the terminal has gone; work goes on without them."""
        try:
            yield
        except BrokenPipeError:
            self.open = False
            raise
        except (OSError, ValueError):  # the latter of a file that is closed
            self.open = False

    def start(self) -> None:
        """Takes the terminal."""
        with self.guarded():
            self._live.start()

    def stop(self) -> None:
        """Takes the bars away and gives the terminal back."""
        with self.guarded():
            self._live.stop()
        self.open = False


_screens: list[Screen] = []  # the one that is open: a process has one terminal


@contextlib.contextmanager
def bar(description: str, total: int | None, unit: str = "", *, done: int = 0) -> Iterator[Bar]:
    """Shows a bar for the time of the context; arguments as of Bar.

    Standard output and the handlers of logging write above it meanwhile.
    """
    outer = _screens[-1] if _screens else None
    screen = outer or _new_screen()
    shown = Bar(description, total, unit, done, screen)
    if screen is None:
        yield shown
        return
    with contextlib.ExitStack() as stack:
        if outer is None:
            stack.enter_context(_taken(screen))
        screen.bars.append(shown)
        try:
            screen.draw(now=True)
            yield shown
        finally:
            screen.bars.remove(shown)
            if screen.bars:
                screen.draw(now=True)


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
      description, unit: as of Bar.
      total: how much all items are together; None for their number, where they have one.
      count: how much of the total an item is.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total, unit) as shown:
        for item in items:
            yield item
            shown.advance(count(item))


def amount(done: float, total: float | None, unit: str) -> str:
    """Returns "1,234/5,000 images", sizes as "1.5/3.0 MiB"."""
    numbers = [done] if total is None else [done, total]
    if unit == BYTES:
        power = min(int(math.log2(max(1, *numbers)) // 10), len(_SIZES) - 1)
        parts = [f"{number / 1024**power:,.{1 if power else 0}f}" for number in numbers]
        return f"{'/'.join(parts)} {_SIZES[power]}"
    return f"{'/'.join(f'{number:,}' for number in numbers)} {unit}".rstrip()


def clock(seconds: float) -> str:
    """Returns "1:02:03"."""
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


# ---- the terminal


def has_terminal() -> bool:
    """Whether standard error is a terminal that takes escape codes."""
    unwanted = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown")
    return not unwanted and sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def _is_first_process() -> bool:
    """Whether this is the first of the run's processes; asked without starting jax's devices."""
    import jax

    return not jax.distributed.is_initialized() or jax.process_index() == 0


def _new_screen() -> Screen | None:
    """Returns a screen, None where bars are not to be shown."""
    if not has_terminal() or not _is_first_process():
        return None
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:  # of an installation that predicts from an export alone
        return None

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError; rich would end the process

        def show_cursor(self, show: bool = True) -> bool:
            return False  # a process that is killed could not show it again

    console = Terminal(file=sys.stderr, force_terminal=True)
    # Lines of standard output go through the console where both are the terminal, else they are left alone.
    together = sys.stdout is not None and sys.stdout.isatty()
    return Screen(Live(console=console, auto_refresh=False, transient=True, redirect_stdout=together))


@contextlib.contextmanager
def _taken(screen: Screen) -> Iterator[None]:
    """Opens a screen, through which the handlers of logging write too."""
    plain = sys.stderr
    screen.start()
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is plain
    ]
    for handler in handlers:
        handler.setStream(sys.stderr)
    _screens.append(screen)
    try:
        yield
    finally:
        _screens.remove(screen)
        for handler in handlers:
            handler.setStream(plain)
        screen.stop()


def _rows(bars: list[Bar], width: int) -> Any:
    """Returns the bars to draw, each on one line of a terminal of so many columns."""
    from rich.cells import cell_len
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from imgcls_jax.runtime.names import printable

    rows = Table.grid(expand=True)
    for shown in bars:
        description, parts = printable(shown.description), list(map(printable, shown.words()))
        if len(parts) == 3 and cell_len("  ".join([description, *parts])) > width:
            del parts[1]  # of a narrow terminal
        words = "  ".join(parts)
        room = width - cell_len(description) - cell_len(words) - 3
        row = Table.grid(padding=(0, 1))
        if shown.total and room >= LEAST_BAR:
            drawn = ProgressBar(total=shown.total, completed=shown.done, width=min(room, 40))
            row.add_row(Text(description, no_wrap=True), drawn, Text(words, no_wrap=True))
        else:
            row.add_row(Text(f"{description}  {words}", no_wrap=True, overflow="ellipsis"))
        rows.add_row(row)
    return rows
