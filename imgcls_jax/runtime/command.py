"""How a command reads its arguments, starts and ends, and tells a user's mistake.

with importing(__name__):
    import numpy as np

@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    ...

if __name__ == "__main__":
    exit_with(main)
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from imgcls_jax.runtime import buckets, compiler, huge_pages
from imgcls_jax.runtime.mistakes import reason, user_mistake
from imgcls_jax.runtime.names import printable

DATA_ROOT_HELP = "where the run's data lie; needed for data on which you did not train here"
TRUST_DATA_HELP = "open whatever data the workdir's configuration names"

MISTAKE = 2  # the exit status
INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended
CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


# ---- what is said beside the results


def tell(message: Any) -> None:
    """Prints one line on standard error, free of escape codes; where that is closed or full, nothing."""
    if sys.stderr is not None:  # print would take standard output in its place
        with contextlib.suppress(OSError):
            print(printable(message), file=sys.stderr, flush=True)


def tell_mistake(message: Any) -> int:
    """Prints `error: message` on one line of standard error, and returns the exit status of a mistake."""
    tell(f"error: {' '.join(str(message).splitlines())}")
    return MISTAKE


def command(main: Callable[..., int]) -> Callable[..., int]:
    """Makes a user's mistake in a tool's `main` one line on standard error and the exit status 2."""

    @functools.wraps(main)
    def told(*args: Any, **options: Any) -> int:
        try:
            return main(*args, **options)
        except Exception as error:
            line = user_mistake(error)
            if line is None:
                raise
            return tell_mistake(line)

    return told


@contextlib.contextmanager
def importing(name: str) -> Iterator[None]:
    """Makes the lack of a package that a tool imports one line, and the exit status 2.

    Args:
      name: the tool's `__name__`; where it is imported and not run, its importer is told.

    Raises:
      ImportError: with that line, where the tool is imported.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        line = user_mistake(error)
        if line is None:
            raise
        if name == "__main__":
            sys.exit(tell_mistake(line))
        raise ImportError(line) from error


# ---- arguments


def parser_of(name: str, doc: str, **options: Any) -> argparse.ArgumentParser:
    """Returns the parser of a tool, whose description is the first line of its docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m imgcls_jax.tools.{name}", description=doc.split("\n", 1)[0], **options
    )


def user_path(text: str) -> Path:
    """Parses a path, for argparse: `~` is the home folder; an empty one, as of `--workdir=`, is a mistake."""
    if "://" in text:
        way_out = f", where `{buckets.copying(text)}` copies it" if buckets.is_bucket(text) else ""
        raise argparse.ArgumentTypeError(
            f"{printable(text)} is an address; name a folder or file of this machine{way_out}"
        )
    return workdir_path(text)


def workdir_path(text: str) -> Path:
    """Parses a path as user_path does, or that of a folder in an object store: gs://BUCKET/FOLDER."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        return buckets.as_path(text).expanduser()
    except (RuntimeError, ValueError) as error:
        raise argparse.ArgumentTypeError(printable(str(error))) from error


def at_least_one(text: str) -> int:
    """Parses a whole number from 1 on, for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1; got {printable(text)!r}")
    return number


def share(text: str) -> float:
    """Parses a number from 0 to 1, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1; got {printable(text)!r}")
    return number


def add_workdir(parser: argparse.ArgumentParser, about: str = "of a training run") -> None:
    """Adds --workdir and --checkpoint, which name a trained network."""
    parser.add_argument("--workdir", type=workdir_path, required=True, help=about)
    add_checkpoint(parser)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint."""
    parser.add_argument("--checkpoint", default="latest", help="'latest' (default), 'best' or a step")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Adds --data_root and --trust_data, by which a user vouches for the data that a workdir names."""
    parser.add_argument("--data_root", type=workdir_path, metavar="FOLDER", help=DATA_ROOT_HELP)
    parser.add_argument("--trust_data", action="store_true", help=TRUST_DATA_HELP)


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """Adds --batch_size."""
    parser.add_argument("--batch_size", type=at_least_one, default=32, help="images at a time (default 32)")


# ---- the process


def exit_with(main: Callable[[], Any]) -> NoReturn:
    """Runs a command and ends the process with its status.

    It ends quietly where the reader has gone (`| head`), with a line where standard output cannot be written
    (a full disk), and with a line on Ctrl-C.
    """
    huge_pages.ask_for_them()
    if note := compiler.configure():
        tell(f"warning: {note}")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter ends no command
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    except BrokenPipeError:
        status = CLOSED_PIPE
    except KeyboardInterrupt:
        tell("interrupted")
        status = INTERRUPTED
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # Python would write what is left once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            status = CLOSED_PIPE
        else:
            status = tell_mistake(f"standard output cannot be written: {error.strerror or reason(error)}")
    sys.exit(status)
