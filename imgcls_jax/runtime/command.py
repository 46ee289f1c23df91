"""How a command reads its arguments, starts and ends, and what of its errors is a user's mistake.

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
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from imgcls_jax.runtime import compiler, huge_pages
from imgcls_jax.runtime.names import printable

MISTAKE = 2  # the exit status
INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended
CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended

PACKAGE = Path(__file__).parents[1]
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
_THIRD_PARTY = {"site-packages", "dist-packages"}


# ---- what is a user's mistake


def user_mistake(error: BaseException) -> str | None:
    """Returns the line that tells a user of a mistake, None for any other error, whose traceback is needed.

    A mistake is what the machine refuses (a file, the disk, the memory), a package that is missing, and a
    ValueError or an ArithmeticError that this package raised itself, directly or by a call into the standard
    library. What jax or another package raises is a fault of the program, and so is every KeyError. A closed
    pipe is neither: see exit_with.
    """
    if isinstance(error, BrokenPipeError):
        return None
    if isinstance(error, OSError):
        return _of_the_machine(error)
    if isinstance(error, ModuleNotFoundError) and str(error) == f"No module named {error.name!r}":
        return f"the package {error.name} is missing"
    if isinstance(error, MemoryError):
        return f"not enough memory: {reason(error)}"
    if type(error).__name__ == "ScopeParamShapeError":  # flax's, which this module does not import
        return f"the weights do not fit the network: {str(error).split(' (https://')[0]}"
    if isinstance(error, (ValueError, ArithmeticError, ImportError)) and _is_ours(error):
        return reason(error)
    return None


def reason(error: BaseException) -> str:
    """Returns an error's text, never empty: the name of its type where it has none."""
    return str(error) or type(error).__name__


def _of_the_machine(error: OSError) -> str:
    """Returns what an OSError says, without its number, the file first."""
    if error.strerror is None:
        return reason(error)
    if isinstance(error.filename, (str, bytes, os.PathLike)):
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return f"{error.strerror}, while a file or standard output was read or written"


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised an error; what the standard library raises counts as its caller's."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    for name in reversed(files):
        file = Path(name)
        if PACKAGE in file.parents:
            return True
        standard = _STANDARD_LIBRARY in file.parents or name.startswith("<frozen ")
        if not standard or not _THIRD_PARTY.isdisjoint(file.parts):
            return False
    return False


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


# ---- arguments


def parser_of(name: str, doc: str, **options: Any) -> argparse.ArgumentParser:
    """Returns the parser of a tool, whose description is the first line of its docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m imgcls_jax.tools.{name}", description=doc.split("\n", 1)[0], **options
    )


def user_path(text: str) -> Path:
    """Parses a path, for argparse: `~` is the home folder; an empty one, as of `--workdir=`, is a mistake."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{printable(text)}: {error}") from error


def at_least_one(text: str) -> int:
    """Parses a whole number from 1 on, for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1; got {printable(text)!r}")
    return number


def add_workdir(parser: argparse.ArgumentParser, about: str = "of a training run") -> None:
    """Adds --workdir and --checkpoint, which name a trained network."""
    parser.add_argument("--workdir", type=user_path, required=True, help=about)
    add_checkpoint(parser)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint."""
    parser.add_argument("--checkpoint", default="latest", help="'latest' (default), 'best' or a step")


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
    compiler.configure()
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
