"""Errors told in one line: what the package says of a mistake, and where any other error was raised."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
MAX_LENGTH = 400


def is_told(error: BaseException) -> bool:
    """Returns whether the package itself raised an error to tell the user of a mistake: its text says all."""
    if not isinstance(error, (ValueError, OSError)):
        return False
    return PACKAGE in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parents


def in_one_line(error: BaseException, file: str | Path = "") -> str:
    """Returns what to say of an error.

    Args:
      error: as caught.
      file: of the user; where the traceback passes through it, its innermost line there is named.

    Returns:
      The error's own text where the package raised it; else "objectives/my.py, line 37: TypeError: ...".
    """
    text = next((line for line in str(error).splitlines() if line.strip()), "").strip()[:MAX_LENGTH]
    if is_told(error):
        return text or type(error).__name__
    kind = type(error).__name__
    said = f"{kind}: {text}" if text else kind
    frames = traceback.extract_tb(error.__traceback__)
    for wanted in (lambda path: path == str(file), _is_of_a_user):
        lines = [frame for frame in frames if wanted(frame.filename)]
        if lines:
            return f"{shown(lines[-1].filename)}, line {lines[-1].lineno}: {said}"
    return said


def _is_of_a_user(path: str) -> bool:
    """Whether a file is the package's or the user's own, not one of a library or of Python."""
    return not any(part in path for part in ("site-packages", "dist-packages", "/lib/python", "<"))


def file_of(function: Callable[..., Any]) -> str:
    """Returns the path of the file in which a function stands; "" where that is not known."""
    while not hasattr(function, "__code__") and hasattr(function, "func"):
        function = function.func
    code = getattr(function, "__code__", None)
    return code.co_filename if code else ""


def shown(path: str | Path) -> str:
    """Returns a path as messages name it: its folder and itself, as in "objectives/my.py"."""
    return "/".join(Path(path).parts[-2:])
