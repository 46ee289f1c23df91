"""Files of a workdir: written whole or not at all, and named in every error."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GOES_ON = ". With room and permission to write, the same command goes on from the newest checkpoint"


@contextlib.contextmanager
def naming(path: Path, way_out: str = GOES_ON) -> Iterator[None]:
    """Names the file in what its writing raises, which a full disk does not; `way_out` ends the message."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}{way_out}") from error


def write_json(path: Path, content: Any, way_out: str = GOES_ON) -> None:
    """Writes JSON so that a reader finds the old file or the new one; `way_out` as of naming."""
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    with naming(path, way_out):
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)


def read_json(path: Path) -> Any:
    """Reads a JSON file of a workdir, each of which holds an object.

    Raises:
      ValueError: it is absent, unreadable or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is absent: {path.parent} is not the workdir of a run") from error
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a JSON object")
    return content
