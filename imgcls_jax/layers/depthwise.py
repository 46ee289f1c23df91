"""A depthwise convolution (one filter a channel) in forms that are fast on a CPU, forward and backward.

The result, and with strides of 1 the gradient of the inputs, is oneDNN's, or where that is not at hand a sum
of shifted images times weights: XLA turns it into vector loops over the channels, without scatters. The
gradient of the weights is a short loop of such sums. Sums are taken in float32 or wider.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from imgcls_jax.layers import direct
from imgcls_jax.layers.windows import Pair, gathered, total, widened

# Rows of the output that the weights' gradient adds up at a time: more leave a core's cache, and each sum is
# written out, so that it compiles longer.
ROWS = 7


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
    options = {"dimension_numbers": direct.NUMBERS, "feature_group_count": inputs.shape[3]}
    return direct.convolution(inputs, kernel, strides, padding, **options)


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
    (top, bottom), (left, right) = padding
    rows, columns = (size - 1 for size in kernel.shape[:2])
    rest = ((rows - top, rows - bottom), (columns - left, columns - right))
    if strides == (1, 1) and min(itertools.chain(*rest)) >= 0:
        ours = depthwise_convolution(gradient, jnp.flip(kernel, (0, 1)), strides, rest)
    else:
        filters = widened(kernel)[:, :, 0]
        ours = gathered(
            (widened(gradient),),
            lambda row, column, shifted: shifted * filters[row, column],
            filters.shape[:2],
            strides,
            padding,
            inputs.shape[1:3],
        )
    theirs = _kernel_gradient(widened(inputs), widened(gradient), kernel.shape[:2], strides, padding)
    return ours.astype(inputs.dtype), theirs.astype(kernel.dtype)


depthwise_convolution.defvjp(_forward, _backward)


def _kernel_gradient(
    inputs: jax.Array, gradient: jax.Array, size: Sequence[int], strides: Pair, padding: tuple[Pair, Pair]
) -> jax.Array:
    """Returns the gradient of the filters, [kh, kw, 1, C].

    A loop over few rows of the output, which a core's cache holds, and the rows of the window. Of each place
    in such a row first the sums over the rows, written out, which leave [B, w, C]; XLA's own reductions of a
    product read both factors several times as slowly.
    """
    height, width, channels = gradient.shape[1:]
    count = math.ceil(height / ROWS)
    rows = math.ceil(height / count)
    spare = rows * count - height  # rows of zeros, which add nothing
    gradient = jnp.pad(gradient, ((0, 0), (0, spare), (0, 0), (0, 0)))
    top, bottom = padding[0]
    padded = jnp.pad(inputs, ((0, 0), (top, bottom + spare * strides[0]), padding[1], (0, 0)))
    seen = (rows - 1) * strides[0] + 1
    columns = (width - 1) * strides[1] + 1

    def of_window_row(number: jax.Array) -> jax.Array:
        part, i = number // size[0], number % size[0]
        x = jax.lax.dynamic_slice_in_dim(padded, part * rows * strides[0] + i, seen, axis=1)
        g = jax.lax.dynamic_slice_in_dim(gradient, part * rows, rows, axis=1)
        products = (
            total(x[:, q * strides[0], j : j + columns : strides[1]] * g[:, q] for q in range(rows))
            for j in range(size[1])
        )
        return jnp.stack([*products]).sum(axis=(1, 2))  # [kw, C]

    parts = jax.lax.map(of_window_row, jnp.arange(count * size[0]))
    return parts.reshape(count, *size, 1, channels).sum(axis=0)
