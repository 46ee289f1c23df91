"""Runs a network on image files, through its evaluation transforms: for the tools that take files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.data import transforms
from imgcls_jax.data.listing import describe_left_out, list_images
from imgcls_jax.data.source import read_regular

logger = logging.getLogger(__name__)


class FileOutput(NamedTuple):
    """The result for one file.

    Attributes:
      path: of the file.
      output: the network's, an array; None where the file could not be read.
      error: why not, "" where it could.
    """

    path: Path
    output: Any
    error: str


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Returns the files named, and the image files below the folders named, sorted.

    A folder that is named twice, or lies in another, is listed once. What is left out of folders is told.

    Raises:
      OSError: a folder, or one below it, cannot be listed.
    """
    paths: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for argument in map(Path, arguments):
        if not os.path.isdir(argument):
            paths.append(argument)
            continue
        listing = list_images(argument, seen)
        paths += [argument / path for path in listing.paths]
        left_out = {kind: count for kind, count in listing.left_out.items() if kind != "hidden"}
        if left_out:
            logger.warning("left out of %s: %s", argument, describe_left_out(left_out))
    return paths


def operations_for_files(line: str, shape: Sequence[int]) -> tuple[Any, ...]:
    """Returns the host side of an evaluation line, adapted to files where the run read arrays.

    Such a run (digits, MNIST, CIFAR) has no host operations. Files are then decoded, converted to the arrays'
    number of channels and resized to their size.

    Args:
      line: of transforms.
      shape: (H, W, C) of the images between the host and the device side.
    """
    ops = transforms.parse(line)[0]
    if ops:
        return ops
    height, width, channels = shape
    color = "gray()" if channels == 1 else "rgb()"
    return transforms.parse(f"decode | {color} | resize({height}, {width})")[0]


def decoded(content: bytes, ops: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Returns an encoded image as a network takes it, uint8 [H, W, C].

    Args:
      content: of an image file.
      ops: of `operations_for_files`.
      shape: (H, W, C).

    Raises:
      ValueError: it cannot be decoded, or has another shape then.
    """
    image = transforms.apply(ops, content, np.random.default_rng(0))
    if image.shape != shape:
        raise ValueError(f"data.eval_transforms made {image.shape}, the network expects {shape}")
    return image


def outputs_of_files(
    paths: Sequence[Path],
    line: str,
    shape: Sequence[int],
    outputs: Callable[[np.ndarray], Any],
    *,
    batch_size: int,
    watch: Callable[[np.ndarray], None] = lambda images: None,
) -> Iterator[FileOutput]:
    """Yields the network's output for each file, in order.

    Args:
      paths: of image files.
      line, shape: as in `operations_for_files`.
      outputs: uint8 [batch_size, H, W, C] -> array [batch_size, ...].
      batch_size: files at a time.
      watch: is shown the readable images, uint8 [n, H, W, C].
    """
    ops = operations_for_files(line, shape)
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        images, errors = _read(batch, ops, tuple(shape))
        watch(images)
        padded = np.zeros((batch_size, *shape), np.uint8)
        padded[: len(images)] = images
        rows = iter(np.asarray(outputs(padded)))
        for path in batch:
            row = None if path in errors else next(rows)
            if row is not None and not np.isfinite(row).all():
                row, errors[path] = None, "the network gives no number for it (NaN or infinity)"
            yield FileOutput(path, row, errors.get(path, ""))


def _read(
    paths: Sequence[Path], ops: Sequence[Any], shape: tuple[int, ...]
) -> tuple[np.ndarray, dict[Path, str]]:
    """Returns the readable images, uint8 [n, H, W, C], and why the others are not."""
    images, errors = [], {}
    for path in paths:
        try:
            images.append(decoded(read_regular(path), ops, shape))
        except (OSError, ValueError) as error:
            errors[path] = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return np.array(images, np.uint8).reshape(-1, *shape), errors
