"""What of all errors is a user's mistake, and errors told in one line."""

from __future__ import annotations

import errno
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
_THIRD_PARTY = {"site-packages", "dist-packages"}
MAX_LENGTH = 400
PIP_NAMES = {
    "PIL": "pillow",
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
    "prometheus_client": "prometheus-client",
    "sklearn": "scikit-learn",
}
TO_PREDICT = ("PIL", "flatbuffers", "numpy")  # all that an export needs beside jax
EXTRAS = {"starlette": "serve", "uvicorn": "serve", "prometheus_client": "serve", "gradio": "demo"}
# What may be over in a minute: rights, a disk or share that is gone, too many open files, too little memory.
_PASSING = tuple(
    getattr(errno, name)
    for name in "EACCES EPERM EIO EMFILE ENFILE ENOMEM ESTALE ETIMEDOUT EAGAIN EINTR ENOTCONN".split()
)
# tensorstore and jax tell them by text alone.
_PASSING_WORDS = (
    *map(os.strerror, _PASSING),
    *"RESOURCE_EXHAUSTED PERMISSION_DENIED UNAVAILABLE DEADLINE_EXCEEDED".split(),
)


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
        return _missing_package(str(error.name).partition(".")[0])
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


def is_passing(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is the machine's and says nothing of the file that was read."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _PASSING:
            return True
        if any(words in str(error) for words in _PASSING_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _of_the_machine(error: OSError) -> str:
    """Returns what an OSError says, without its number, the file first."""
    if error.strerror is None:
        return reason(error)
    if isinstance(error.filename, (str, bytes, os.PathLike)):
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return f"{error.strerror}, while a file or standard output was read or written"


def _missing_package(name: str) -> str | None:
    """Returns what to say of a package that cannot be imported; None for this one."""
    if name == PACKAGE.name:
        return None
    if name in sys.stdlib_module_names:  # as fcntl on Windows
        return f"Python's own module {name} is missing here: another system or build of Python has it"
    named = f"the package {PIP_NAMES.get(name, name)} is missing"
    if name in EXTRAS:
        return f"{named}: pip install 'imgcls-jax[{EXTRAS[name]}]'"
    if name in TO_PREDICT:
        named += "; prediction from an export needs pip install 'imgcls-jax[predict]'"
    return f"{named}; training needs pip install 'imgcls-jax[train]'"


def _is_ours(error: BaseException, *, directly: bool = False) -> bool:
    """Whether this package raised an error.

    Args:
      error: as caught.
      directly: else what the standard library raises counts as its caller's.
    """
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    for name in reversed(files):
        file = Path(name)
        if PACKAGE in file.parents:
            return True
        standard = _STANDARD_LIBRARY in file.parents or name.startswith("<frozen ")
        if directly or not standard or not _THIRD_PARTY.isdisjoint(file.parts):
            return False
    return False


# ---- errors of files that a user wrote


def is_told(error: BaseException) -> bool:
    """Returns whether the package itself raised an error to tell the user of a mistake: its text says all."""
    return isinstance(error, (ValueError, OSError)) and _is_ours(error, directly=True)


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
