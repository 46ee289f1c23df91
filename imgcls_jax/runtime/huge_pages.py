"""Huge pages for a command's arrays, where Linux gives them to those alone who ask."""

import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
FIRST_GLIBC = (2, 35)  # the first with the setting, by the GNU C Library's manual
POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PACKAGE = Path(__file__).parents[1]
SCRIPTS = ("imgcls",)  # of pyproject.toml
FLAGS = "[bBdEhiIOPqRsSuvVx]*"  # of the interpreter, one letter each, which may precede -m in one word


def ask_for_them(script: str | None = None) -> None:
    """Starts the process again with glibc's setting for huge pages; a command's first act, before jax.

    On a CPU every step takes the memory of its temporaries from the system and gives it back, and the system
    clears it page by page. In pages of 2 MiB instead of 4 KiB these are far fewer: 1.2 times
    the speed of ResNet-18, 2.4 times that of EfficientNet-B0 (benchmarks/README.md). glibc reads the setting
    at the start of a process only, hence the second start, with the same process id and arguments.

    Nothing happens where GLIBC_TUNABLES is set (empty to have no huge pages), where the kernel gives huge
    pages to all or to none, and where there is no glibc of 2.35 or later. Nor does anything where the process
    is another program, such as a notebook, a debugger or a script, which only calls a command.

    Args:
      script: a file that may replace its process too, `__file__` of a program outside the package.
    """
    if VARIABLE in os.environ or not sys.executable or not _may_be_asked_for():
        return
    if not _is_own_process(sys.orig_argv, script):
        return
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, os.environ | {VARIABLE: SETTING})


def _is_own_process(arguments: Sequence[str], script: str | None) -> bool:
    """Whether Python was started with a module of this package, a console script of it, or the given script.

    Args:
      arguments: of the process, the interpreter first.
      script: path.
    """
    words = iter(arguments[1:])
    for word in words:
        if module := re.fullmatch(rf"-{FLAGS}m(.*)", word):
            return (module[1] or next(words, "")).partition(".")[0] == PACKAGE.name
        if word in ("-W", "-X", "--check-hash-based-pycs"):
            next(words, None)
        elif word.startswith("-c") or word == "-":
            return False
        elif not word.startswith("-"):
            file = Path(word)
            own = file.name in SCRIPTS or PACKAGE in file.resolve().parents
            return own or (script is not None and file.resolve() == Path(script).resolve())
    return False


def _may_be_asked_for() -> bool:
    try:
        policy = POLICY.read_text()
    except OSError:
        return False
    library, version = platform.libc_ver()
    return (
        "[madvise]" in policy
        and library == "glibc"
        and tuple(map(int, version.split(".")[:2])) >= FIRST_GLIBC
    )
