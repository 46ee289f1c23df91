"""Image files through a trained network, by the run's own evaluation line: for the tools that take files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from imgcls_jax.data import sources, transforms
from imgcls_jax.train.trained import Trained


class FileOutput(NamedTuple):
    """What became of a file.

    Attributes:
      path: of the file.
      output: what was asked for, a tree of arrays; None where the file could not be read.
      error: why not, "" where it could.
    """

    path: Path
    output: Any
    error: str


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Returns the files named, and those below the folders named that have an image's suffix, sorted."""
    paths: list[Path] = []
    for argument in map(Path, arguments):
        if argument.is_dir():
            paths += sorted(
                path
                for path in argument.rglob("*")
                if path.suffix.lower() in sources.IMAGE_SUFFIXES and path.is_file()
            )
        else:
            paths.append(argument)
    return paths


def host_operations(trained: Trained) -> tuple[Any, ...]:
    """Returns the host side of the evaluation line, made fit for files where the run read arrays.

    Such a run (digits, MNIST, CIFAR) has no line for decoding: its images are brought to the arrays' size and
    colours.
    """
    ops = trained.data.eval_host
    if ops:
        return ops
    height, width, channels = trained.source_shape
    colours = "grey()" if channels == 1 else "rgb()"
    return transforms.parse(f"decode | {colours} | resize({height}, {width})")[0]


def outputs_of_files(
    trained: Trained,
    paths: Sequence[Path],
    wanted: Callable[[dict[str, jax.Array]], Any],
    *,
    batch_size: int,
) -> Iterator[FileOutput]:
    """Yields what a network says of each file, in order.

    Args:
      trained: the network.
      paths: of image files.
      wanted: from what the objective predicts of a batch to a tree of arrays [B, ...], traced.
      batch_size: files at a time.
    """
    ops = host_operations(trained)

    @jax.jit
    def outputs(params: Any, carry: Any, images: jax.Array) -> Any:
        return wanted(trained.predict(params, carry, {"image": images}))

    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        images, errors = _read(batch, ops, trained.source_shape)
        padded = np.zeros((batch_size, *trained.source_shape), np.uint8)
        padded[: len(images)] = images
        found = jax.device_get(outputs(trained.params, trained.carry, padded))
        row = 0
        for path in batch:
            if path in errors:
                yield FileOutput(path, None, errors[path])
                continue
            yield FileOutput(path, jax.tree.map(lambda column, row=row: column[row], found), "")
            row += 1


def _read(
    paths: Sequence[Path], ops: Sequence[Any], shape: tuple[int, ...]
) -> tuple[np.ndarray, dict[Path, str]]:
    """Returns the readable images, uint8 [n, H, W, C], and why the others are not."""
    images, errors = [], {}
    for path in paths:
        try:
            image = transforms.apply(ops, path.read_bytes(), np.random.default_rng(0))
            if image.shape != shape:
                raise ValueError(f"became {image.shape} by data.eval_transforms, the network expects {shape}")
            images.append(image)
        except (OSError, ValueError) as error:
            errors[path] = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return np.array(images, np.uint8).reshape(-1, *shape), errors
