"""Pooling that flax.linen lacks, or that is slow there on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.models.convolution import windows

Pair = tuple[int, int]


def max_pool(
    x: jax.Array, window_shape: Pair, strides: Pair, padding: Sequence[Pair] = ((0, 0), (0, 0))
) -> jax.Array:
    """Returns the largest value of each window, as flax.linen.max_pool does, with a gradient fast on a CPU.

    The gradient of a window goes to its largest value, of equal ones to the first by rows. On a CPU each
    value gathers it from the windows that it is in; XLA's own form, which any other platform gets, scatters
    it.

    Args:
      x: float [B, H, W, C].
      window_shape: (kh, kw).
      strides: (vertical, horizontal).
      padding: ((top, bottom), (left, right)), of minus infinity.

    Returns:
      float [B, h, w, C].
    """
    native = functools.partial(nn.max_pool, window_shape=window_shape, strides=strides, padding=padding)
    gathering = jax.custom_vjp(native)

    def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        largest, *others = windows(x, window_shape, strides, padding, -jnp.inf)
        place = jnp.zeros(largest.shape, jnp.uint8 if len(others) < 2**8 else jnp.int32)
        for number, values in enumerate(others, start=1):
            place = jnp.where(values > largest, jnp.asarray(number, place.dtype), place)
            largest = jnp.maximum(largest, values)
        return largest, place

    def backward(place: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
        spread = _gather(place, gradient, window_shape, strides, padding, x.shape[1:3])
        (top, _), (left, _) = padding
        return (spread[:, top : top + x.shape[1], left : left + x.shape[2]],)

    gathering.defvjp(forward, backward)
    return jax.lax.platform_dependent(x, cpu=gathering, default=native)


def _gather(
    place: jax.Array, gradient: jax.Array, size: Pair, strides: Pair, padding: Sequence[Pair], shape: Pair
) -> jax.Array:
    """Returns the gradient of the padded image.

    Padded row s q + r lies in window q - m at the window's row r + s m, for each m >= 0 with r + s m < k;
    columns likewise. So the rows of one remainder r are a sum of few shifted maps, and those of all r,
    interleaved, are the image.
    """
    counts = [-(-(n + sum(pads)) // s) for n, pads, s in zip(shape, padding, strides, strict=True)]
    before = [(k - 1) // s for k, s in zip(size, strides, strict=True)]
    after = [max(count - n, 0) for count, n in zip(counts, gradient.shape[1:3], strict=True)]
    spare = ((0, 0), *zip(before, after, strict=True), (0, 0))
    place, gradient = jnp.pad(place, spare), jnp.pad(gradient, spare)  # a padding's gradient is zero

    def rest(r: int, c: int) -> jax.Array:
        total = jnp.zeros((len(gradient), *counts, gradient.shape[3]), gradient.dtype)
        for row in range(r, size[0], strides[0]):
            for column in range(c, size[1], strides[1]):
                y, x = before[0] - row // strides[0], before[1] - column // strides[1]
                here = (slice(None), slice(y, y + counts[0]), slice(x, x + counts[1]))
                total += jnp.where(place[here] == row * size[1] + column, gradient[here], 0)
        return total

    rows = [jnp.stack([rest(r, c) for c in range(strides[1])], axis=3) for r in range(strides[0])]
    whole = jnp.stack([row.reshape(*row.shape[:2], -1, row.shape[4]) for row in rows], axis=2)
    return whole.reshape(len(whole), -1, *whole.shape[3:])


def adaptive_average_pool(x: jax.Array, size: Pair) -> jax.Array:
    """Averages a map into a fixed number of bins; bin i of n spans floor(i H / n) to ceil((i + 1) H / n).

    Args:
      x: float [B, H, W, C].
      size: (h, w).

    Returns:
      float [B, h, w, C]; x itself where it has that size.
    """
    for axis, count in enumerate(size, start=1):
        length = x.shape[axis]
        if length != count:
            bins = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
            means = [jax.lax.slice_in_dim(x, *span, axis=axis).mean(axis) for span in bins]
            x = jnp.stack(means, axis)
    return x
