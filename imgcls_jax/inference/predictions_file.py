"""What was predicted of a split, for runs whose model is not kept: WORKDIR/predictions_SPLIT.npz."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgcls_jax.inference.array_file import read_arrays, write_arrays
from imgcls_jax.runtime.mistakes import reason


class KeptPredictions(NamedTuple):
    """Predictions of a split, in its order, without the examples that could not be read.

    Attributes:
      example: int64 [N], positions in the split, rising.
      label: int64 [N].
      log_probabilities: float32 [N, K], natural logarithms.
    """

    example: np.ndarray
    label: np.ndarray
    log_probabilities: np.ndarray


def path(workdir: Path, split: str) -> Path:
    """Returns the file of a split; what cannot stand in a file's name becomes "_"."""
    return workdir / f"predictions_{''.join(c if c.isalnum() or c in '-_.' else '_' for c in split)}.npz"


def write(workdir: Path, split: str, found: KeptPredictions) -> Path:
    """Writes the file of a split, and returns its path.

    Raises:
      OSError: it cannot be written; names it.
    """
    return write_arrays(path(workdir, split), found._asdict())


def read(workdir: Path, split: str) -> KeptPredictions:
    """Reads the file of a split.

    Raises:
      ValueError: it is absent or damaged.
    """
    file = path(workdir, split)
    try:
        found = KeptPredictions(**read_arrays(file))
    except FileNotFoundError as error:
        raise ValueError(f"{file} is absent: this run predicted no split {split!r}") from error
    except Exception as error:  # whatever a damaged file makes its readers raise
        raise ValueError(f"{file} is damaged: {reason(error)}") from error
    rows, classes = found.log_probabilities.shape if found.log_probabilities.ndim == 2 else (0, 0)
    sound = [array.dtype.kind for array in found] == ["i", "i", "f"] and rows > 0
    sound = sound and found.example.shape == found.label.shape == (rows,) and found.label.min() >= 0
    sound = sound and found.example[0] >= 0 and bool((np.diff(found.example) > 0).all())
    if not sound or found.label.max() >= classes or not np.isfinite(found.log_probabilities).all():
        raise ValueError(f"{file} is damaged: its arrays do not go together")
    return found
