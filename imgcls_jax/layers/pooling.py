"""Pooling that flax.linen does not have, or has in a form that is slow on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.windows import Pair, gathered, is_narrow, windows


def max_pool(
    x: jax.Array, window_shape: Pair, strides: Pair, padding: Sequence[Pair] = ((0, 0), (0, 0))
) -> jax.Array:
    """Returns the largest value of each window, as flax.linen.max_pool does, by few passes on CPUs and GPUs.

    The gradient of a window goes to its largest value, of equal ones to the first by rows. On a CPU and a GPU
    each value gathers its gradient from the windows that hold it. XLA's own form scatters it, on a GPU by
    four numbers of 32 bits a window; every other platform uses that form.

    Args:
      x: float [B, H, W, C].
      window_shape: (kh, kw).
      strides: (vertical, horizontal).
      padding: ((top, bottom), (left, right)), of minus infinity.

    Returns:
      float [B, h, w, C].
    """
    native = functools.partial(nn.max_pool, window_shape=window_shape, strides=strides, padding=padding)

    def own(x: jax.Array) -> jax.Array:
        if is_narrow(x) and strides == window_shape:
            return native(x)  # on a CPU XLA's own is the faster one of windows apart in 16 bits
        return functools.reduce(jnp.maximum, windows(x, window_shape, strides, padding, -jnp.inf))

    def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        largest, *others = windows(x, window_shape, strides, padding, -jnp.inf)
        place = jnp.zeros(largest.shape, jnp.uint8 if len(others) < 2**8 else jnp.int32)
        for number, values in enumerate(others, start=1):
            place = jnp.where(values > largest, jnp.asarray(number, place.dtype), place)
            largest = jnp.maximum(largest, values)
        # One number a window: XLA would keep a truth value for each of its places.
        return largest, jax.lax.optimization_barrier(place)

    def backward(place: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
        def share(row: int, column: int, place: jax.Array, gradient: jax.Array) -> jax.Array:
            return jnp.where(place == row * window_shape[1] + column, gradient, 0)

        return (gathered((place, gradient), share, window_shape, strides, padding, x.shape[1:3]),)

    gathering = jax.custom_vjp(own)
    gathering.defvjp(forward, backward)
    return jax.lax.platform_dependent(x, cpu=gathering, cuda=gathering, default=native)


def ceil_max_pool(x: jax.Array, window: int = 3) -> jax.Array:
    """Max-pools square windows with stride 2 and rounds the size up: the last window may be partial.

    Args:
      x: float [B, H, W, C].
      window: side of the window, at least 2.

    Returns:
      float [B, ceil((H - window) / 2) + 1, ceil((W - window) / 2) + 1, C].
    """
    spare = [(0, (side - window) % 2) for side in x.shape[1:3]]
    return max_pool(x, window_shape=(window, window), strides=(2, 2), padding=spare)


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
