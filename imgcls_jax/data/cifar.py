"""The binary files of CIFAR-10 and CIFAR-100. The pickled version is refused: unpickling can run any code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imgcls_jax.data.folders import Origin, expanded, locate
from imgcls_jax.data.source import Root, check_labels

MAX_CIFAR_BYTES = 2**28  # the largest, train.bin of CIFAR-100, has 0.15 GB


def read_cifar(path: Path, label_counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Reads one binary batch; `label_counts` holds the number of classes behind each label byte of a record.

    Returns:
        (images uint8 [N, 32, 32, 3], label bytes uint8 [N, len(label_counts)]).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; unpack the official binary archive again")
    content = np.fromfile(path, np.uint8, count=MAX_CIFAR_BYTES)
    record = len(label_counts) + 3 * 32 * 32
    if not len(content) or len(content) % record:
        raise ValueError(
            f"{path}: expected records of {record} bytes, got {len(content)} bytes in all; it is cut short "
            f"or no binary CIFAR batch, so unpack the official binary archive again"
        )
    records = content.reshape(-1, record)
    for column, num_classes in enumerate(label_counts):
        check_labels(records[:, column], num_classes, path)
    planes = records[:, len(label_counts) :].reshape(-1, 3, 32, 32)  # [N, C, H, W]
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, : len(label_counts)].copy()


def locate_cifar(root: Root, folder: str, marker: str, pickled: Sequence[str], origin: Origin) -> Path:
    """Returns root or root/folder, whichever holds the file `marker`.

    Raises:
      FileNotFoundError: neither does.
      ValueError: one of the files `pickled` is there instead.
    """
    try:
        return locate(root, folder, marker, origin.remedy)
    except FileNotFoundError:
        for found in (expanded(root) / name for name in pickled):
            if found.exists():
                reason = "the pickled Python version, which is not read because unpickling can run any code"
                raise ValueError(f"{found} is {reason}. {origin.remedy}") from None
        raise
