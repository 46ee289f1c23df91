"""What worker processes ask of the script that starts them.

Python starts a worker by importing the script once more. What stands in it outside
`if __name__ == "__main__":` runs there too, and would train in every worker.
"""

from __future__ import annotations

import ast
import multiprocessing
import sys
from pathlib import Path
from types import FrameType

WAY_OUT = 'put what the script does under `if __name__ == "__main__":`, or set data.num_workers=0'


def refuse_in_worker() -> None:
    """Ends a worker process that is about to train; says what the script lacks."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as in multiprocessing.spawn
        raise SystemExit(
            f"error: a worker process (data.num_workers) ran the script from its beginning; {WAY_OUT}"
        )


def require_guard() -> None:
    """Ends a process that is about to start workers which would run its script from the beginning.

    Raises:
      SystemExit: with a line, also where the script is no file, as one from standard input.
    """
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if (
        spec is not None and spec.name.rpartition(".")[2] == "__main__"
    ):  # workers do not import a package's own
        return
    file = getattr(main, "__file__", None) if spec is None else spec.origin
    if file is None:  # a notebook, or `python -c`: workers import nothing of it
        return
    if not Path(file).is_file():
        raise SystemExit(
            f"error: worker processes (data.num_workers) import the script, and {file} is none: save it as "
            "a file, or set data.num_workers=0"
        )
    frame = _running(vars(main))
    if frame is None:
        return
    try:
        statements = ast.parse(Path(frame.f_code.co_filename).read_bytes()).body
    except (OSError, SyntaxError):
        return
    if not _is_guarded(statements, frame.f_lineno):
        raise SystemExit(
            f"error: {frame.f_code.co_filename}, line {frame.f_lineno}: worker processes (data.num_workers) "
            f"would run the script from its beginning; {WAY_OUT}"
        )


def _running(names: dict[str, object]) -> FrameType | None:
    """Returns the frame of a module's own statements, None where they do not call us."""
    frame: FrameType | None = sys._getframe()
    while frame and not (frame.f_globals is names and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    return frame


def _is_guarded(statements: list[ast.stmt], line: int) -> bool:
    """Whether a line runs only where the module's `__name__` allows it."""
    for statement in statements:
        asks = any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement))
        if statement.lineno <= line <= (statement.end_lineno or line):
            return asks
        if asks and isinstance(statement, ast.If) and isinstance(statement.test, ast.Compare):
            if isinstance(statement.test.ops[0], ast.NotEq):  # it may have ended the others
                return True
    return True
