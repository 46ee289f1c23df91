"""What a run says of a file that it cannot write."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in what its writing raises, which a full disk does not."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {error.strerror or error}. With room and permission to write, the "
            "same command goes on from the newest checkpoint"
        ) from error
