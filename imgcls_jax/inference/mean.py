"""The mean of what several networks say of image files; needs nothing of training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from imgcls_jax.data.image_files import FileOutput


def require_same_classes(names: Sequence[str], class_names: Sequence[Sequence[str]]) -> None:
    """Raises ValueError unless all networks know the same classes in the same order.

    Args:
      names: of the networks, for the message.
      class_names: of each.
    """
    for name, own in zip(names, class_names, strict=True):
        if tuple(own) != tuple(class_names[0]):
            raise ValueError(
                f"{name} knows {len(own)} classes and {names[0]} {len(class_names[0])}, or in another order: "
                "an ensemble is of networks of the same classes"
            )


def mean_of_files(found: Sequence[Iterable[FileOutput]]) -> Iterator[FileOutput]:
    """Yields the mean of what several networks say of each file; an error of one is that of all."""
    for outputs in zip(*found, strict=True):
        error = next((output.error for output in outputs if output.error), "")
        mean = None if error else np.mean([output.output for output in outputs], axis=0)
        yield FileOutput(outputs[0].path, mean, error)
