"""What a host operation is: one image at a time, on the CPU, with Pillow.

Host operations pickle, since worker processes receive them. They draw from the numpy Generator that they are
given alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

Example = bytes | np.ndarray | Image.Image


@dataclasses.dataclass(frozen=True)
class HostOp:
    """One operation on an example. Two are equal if they have the same name and arguments.

    Attributes:
      name: of the operation in a line.
      function: (image, rng, **arguments) -> image.
      random: whether it draws from `rng`.
      arguments: (name, value) pairs.
    """

    name: str
    function: Callable[..., Image.Image]
    random: bool
    arguments: tuple[tuple[str, Any], ...] = ()

    def __call__(self, image: Example, rng: np.random.Generator) -> Image.Image:
        return self.function(image, rng, **dict(self.arguments))
