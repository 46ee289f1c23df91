"""What a device operation is: a batch of images at a time, inside the jitted train step.

A factory such as `flip(p=0.5)` returns a `DeviceOp`, called as `op(rng, images)`: images float32 [B, H, W, C]
to the same, in [0, 1] until `normalize`. Every random operation draws for each image separately. The draw of
image i depends on (rng, i) alone: not on the other images, not on the batch size, and not on how the batch is
split over devices. An operation may read other entries of the batch, one value an image: its index in the
split and the epoch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax


@dataclasses.dataclass(frozen=True)
class DeviceOp:
    """One operation on a batch.

    Attributes:
      name: of its factory.
      function: (rng, images, *entries) -> images.
      random: whether an image comes out differently from time to time.
      reads: the names of the entries of the batch that it takes, int32 [B] each: "index", "epoch".
    """

    name: str
    function: Callable[..., jax.Array]
    random: bool
    reads: tuple[str, ...] = ()

    def __call__(self, rng: jax.Array, images: jax.Array, *entries: jax.Array) -> jax.Array:
        return self.function(rng, images, *entries)


def per_image(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]


def chance(rng: jax.Array, images: jax.Array, p: float) -> jax.Array:
    """Returns bool [B, 1, 1, 1], true with probability p, one draw for each image."""
    return per_image(jax.random.uniform(rng, (len(images),)) < p)


def check_rgb(name: str, images: jax.Array) -> None:
    if images.shape[-1] != 3:
        raise ValueError(
            f"{name} needs RGB images [B, H, W, 3], got {images.shape}: remove it from the line, or add "
            "the host operation rgb"
        )


def check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p is a probability, in [0, 1], got {p!r}")


def check_choice(name: str, argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: {argument} must be one of {', '.join(choices)}, got {value!r}")


def check_range(name: str, argument: str, bounds: tuple[float, float]) -> tuple[float, float]:
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] < math.inf:
        raise ValueError(f"{name}: {argument} must be (low, high) with 0 < low <= high, got {bounds!r}")
    return bounds[0], bounds[1]
