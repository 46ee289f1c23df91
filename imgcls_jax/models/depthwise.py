"""A convolution with one filter a channel in forms that are fast on a CPU, forward and backward.

All three are sums of shifted images times something, without loops or scatters, so that XLA makes vector
loops over the channels of them. Sums are taken in float32 or wider.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

Pair = tuple[int, int]
# Rows of the output that one expression of the weights' gradient adds up. XLA computes what precedes an
# expression again in it, unless it is read at more than 15 places; much longer ones only compile longer.
ROWS = 31


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_convolution(
    inputs: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]
) -> jax.Array:
    """Convolves each channel with its own filter.

    Args:
      inputs: float [B, H, W, C].
      kernel: float [kh, kw, 1, C].
      strides: (vertical, horizontal).
      padding: ((top, bottom), (left, right)), not negative.

    Returns:
      float [B, h, w, C].
    """
    padded = _widened(jnp.pad(inputs, ((0, 0), *padding, (0, 0))))
    size = kernel.shape[:2]
    rows, columns = [(n - k) // s * s + 1 for n, k, s in zip(padded.shape[1:3], size, strides, strict=True)]
    weights = _widened(kernel)
    total = sum(
        padded[:, i : i + rows : strides[0], j : j + columns : strides[1]] * weights[i, j, 0]
        for i, j in _places(size)
    )
    return total.astype(inputs.dtype)


def _forward(
    inputs: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the result and what the gradients need."""
    return depthwise_convolution(inputs, kernel, strides, padding), (inputs, kernel)


def _backward(
    strides: Pair, padding: tuple[Pair, Pair], kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of the inputs and of the kernel."""
    inputs, kernel = kept
    ours = _inputs_gradient(
        _widened(kernel)[:, :, 0], _widened(gradient), strides, padding, inputs.shape[1:3]
    )
    theirs = _kernel_gradient(_widened(inputs), _widened(gradient), kernel.shape[:2], strides, padding)
    return ours.astype(inputs.dtype), theirs.astype(kernel.dtype)


depthwise_convolution.defvjp(_forward, _backward)


def _inputs_gradient(
    filters: jax.Array, gradient: jax.Array, strides: Pair, padding: tuple[Pair, Pair], shape: Pair
) -> jax.Array:
    """Returns the gradient of the image, [B, H, W, C], from filters [kh, kw, C].

    Padded row s q + r lies in window q - m at the window's row r + s m, for each m >= 0 with r + s m < k;
    columns likewise. So the pixels of one remainder are a sum of few shifted maps, and those of all
    remainders, interleaved, are the image.
    """
    size, channels = filters.shape[:2], filters.shape[2]
    counts = [-(-(n + sum(pads)) // s) for n, pads, s in zip(shape, padding, strides, strict=True)]
    before = [(k - 1) // s for k, s in zip(size, strides, strict=True)]
    after = [max(count - n, 0) for count, n in zip(counts, gradient.shape[1:3], strict=True)]
    gradient = jnp.pad(gradient, ((0, 0), *zip(before, after, strict=True), (0, 0)))

    def rest(r: int, c: int) -> jax.Array:
        total = jnp.zeros((len(gradient), *counts, channels), gradient.dtype)
        for i, j in itertools.product(range(r, size[0], strides[0]), range(c, size[1], strides[1])):
            y, x = before[0] - i // strides[0], before[1] - j // strides[1]
            total += gradient[:, y : y + counts[0], x : x + counts[1]] * filters[i, j]
        return total

    rows = [jnp.stack([rest(r, c) for c in range(strides[1])], axis=3) for r in range(strides[0])]
    whole = jnp.stack([row.reshape(*row.shape[:2], -1, channels) for row in rows], axis=2)
    whole = whole.reshape(len(gradient), -1, whole.shape[3], channels)
    (top, _), (left, _) = padding
    return whole[:, top : top + shape[0], left : left + shape[1]]


def _kernel_gradient(
    inputs: jax.Array, gradient: jax.Array, size: Pair, strides: Pair, padding: tuple[Pair, Pair]
) -> jax.Array:
    """Returns the gradient of the filters, [kh, kw, 1, C].

    Of each place of the window first the sums over rows, written out, which leave [B, w, C]; XLA's own
    reductions of a product read both factors several times as slowly.
    """
    padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    height, width, channels = gradient.shape[1:]
    columns = (width - 1) * strides[1] + 1
    step = math.ceil(height / math.ceil(height / ROWS))

    def over_rows(i: int, j: int, first: int) -> jax.Array:
        return sum(
            padded[:, q * strides[0] + i, j : j + columns : strides[1]] * gradient[:, q]
            for q in range(first, min(first + step, height))
        )

    parts = [
        jnp.stack([over_rows(i, j, first) for i, j in _places(size)]) for first in range(0, height, step)
    ]  # [kh kw, B, w, C] each
    return sum(parts).sum(axis=(1, 2)).reshape(*size, 1, channels)


def _places(size: Pair) -> Iterator[Pair]:
    """Returns the places of a window, by rows."""
    return itertools.product(range(size[0]), range(size[1]))


def _widened(x: jax.Array) -> jax.Array:
    """Returns x in float32, or in its own dtype if that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
