"""How a command starts and ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from imgcls_jax.runtime import compiler, huge_pages

CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


def exit_with(main: Callable[[], Any]) -> NoReturn:
    """Runs a command and ends the process with its status, quietly where its reader has gone (`| head`)."""
    huge_pages.ask_for_them()
    compiler.configure()
    try:
        try:
            status = main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        status = CLOSED_PIPE
    sys.exit(status)
