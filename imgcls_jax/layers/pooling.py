"""Pooling that flax.linen does not have, or has in a form that is slow on a CPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.windows import Pair, gathered, total, widened, windows

NO_PADDING = ((0, 0), (0, 0))
NAN = 0x7FFF  # the largest integer of 16 bits, and a NaN of each float of 16 bits


def max_pool(
    x: jax.Array, window_shape: Pair, strides: Pair, padding: Sequence[Pair] = NO_PADDING
) -> jax.Array:
    """Returns the largest value of each window, as flax.linen.max_pool does, by few passes on CPUs and GPUs.

    The gradient of a window goes to its largest value, of equal ones to the first by rows. On a CPU and a GPU
    each value gathers its gradient from the windows that hold it. XLA's own form scatters it, on a GPU by
    four numbers of 32 bits a window; every other platform uses that form. A CPU compares floats of 16 bits as
    integers.

    Args:
      x: float [B, H, W, C].
      window_shape: (kh, kw).
      strides: (vertical, horizontal).
      padding: ((top, bottom), (left, right)), of minus infinity.

    Returns:
      float [B, h, w, C].
    """

    def backward(place: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
        def share(row: int, column: int, place: jax.Array, gradient: jax.Array) -> jax.Array:
            return jnp.where(place == row * window_shape[1] + column, gradient, 0)

        return (gathered((place, gradient), share, window_shape, strides, padding, x.shape[1:3]),)

    def gathering(number: Callable[..., jax.Array], value: Callable[..., jax.Array], least: float) -> Any:
        """Compares a number for each value."""

        def places(x: jax.Array) -> list[jax.Array]:
            return windows(number(x), window_shape, strides, padding, least)

        def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            largest, *others = places(x)
            place = jnp.zeros(largest.shape, jnp.uint8 if len(others) < 2**8 else jnp.int32)
            for index, values in enumerate(others, start=1):
                place = jnp.where(values > largest, jnp.asarray(index, place.dtype), place)
                largest = jnp.maximum(largest, values)
            # One number a window: XLA would keep a truth value for each of its places.
            return value(largest), jax.lax.optimization_barrier(place)

        form = jax.custom_vjp(lambda x: value(functools.reduce(jnp.maximum, places(x))))
        form.defvjp(forward, backward)
        return form

    native = functools.partial(nn.max_pool, window_shape=window_shape, strides=strides, padding=padding)
    floats = integers = gathering(lambda x: x, lambda x: x, -jnp.inf)
    if x.dtype in (jnp.bfloat16, jnp.float16):
        as_float = functools.partial(_as_float, dtype=x.dtype)
        integers = gathering(_as_integer, as_float, -_infinity(x.dtype))
    return jax.lax.platform_dependent(x, cpu=integers, cuda=floats, default=native)


def _as_integer(x: jax.Array) -> jax.Array:
    """Returns floats of 16 bits as integers of the same order; both zeros are 0, NaN is the largest.

    XLA rounds after each comparison of such floats on a CPU, and compares 32 such integers at once.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.int16)
    magnitude = bits & NAN
    return jnp.where(magnitude > _infinity(x.dtype), NAN, jnp.where(bits < 0, -magnitude, magnitude))


def _as_float(x: jax.Array, dtype: Any) -> jax.Array:
    """Returns the floats of `_as_integer`."""
    return jax.lax.bitcast_convert_type(jnp.where(x < 0, -x | -(2**15), x), dtype)


def _infinity(dtype: Any) -> int:
    """Returns the bits of infinity in a dtype of 16 bits."""
    form = jnp.finfo(dtype)
    return (2**form.nexp - 1) << form.nmant


def avg_pool(
    x: jax.Array,
    window_shape: Pair,
    strides: Pair,
    padding: Sequence[Pair] = NO_PADDING,
    count_include_pad: bool = True,
) -> jax.Array:
    """Returns the mean of each window, as flax.linen.avg_pool does, on a CPU by few passes.

    A CPU sums shifted maps in float32 or wider, forward and for the gradient. XLA's own form, of every other
    platform, is a loop over each window, which in 16 bits rounds after each number.

    Args:
      x: float [B, H, W, C].
      window_shape: (kh, kw).
      strides: (vertical, horizontal).
      padding: ((top, bottom), (left, right)), of zeros.
      count_include_pad: whether the padding is of a window's mean.

    Returns:
      float [B, h, w, C].
    """

    def native(x: jax.Array) -> jax.Array:
        return nn.avg_pool(x, window_shape, strides, padding, count_include_pad).astype(x.dtype)

    size = math.prod(window_shape)

    def means(x: jax.Array) -> jax.Array:
        count = size if count_include_pad else counts()
        return (total(windows(widened(x), window_shape, strides, padding)) / count).astype(x.dtype)

    def counts() -> jax.Array:
        return total(windows(jnp.ones((1, *x.shape[1:3], 1)), window_shape, strides, padding))

    def backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
        shares = widened(gradient) / (size if count_include_pad else counts())
        shape = x.shape[1:3]
        image = gathered((shares,), lambda row, column, values: values, window_shape, strides, padding, shape)
        return (image.astype(gradient.dtype),)

    own = jax.custom_vjp(means)
    own.defvjp(lambda x: (means(x), None), backward)
    return jax.lax.platform_dependent(x, cpu=own, default=native)


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
