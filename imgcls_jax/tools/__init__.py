"""Commands, a file each: python -m imgcls_jax.tools.NAME."""

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


def exit_with(main: Callable[[], Any]) -> NoReturn:
    """Ends the process with main's status, or quietly where the reader of its output has gone (`| head`)."""
    try:
        try:
            status = main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        status = CLOSED_PIPE
    sys.exit(status)
