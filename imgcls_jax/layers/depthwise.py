"""A depthwise convolution (one filter a channel) in forms that are fast on a CPU, forward and backward.

The result and both gradients are sums of shifted images times weights, without loops or scatters: XLA turns
them into vector loops over the channels. Sums are taken in float32 or wider.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from imgcls_jax.layers.windows import Pair, gathered, windows

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
    seen = windows(_widened(inputs), kernel.shape[:2], strides, padding)
    weights = _widened(kernel).reshape(-1, kernel.shape[3])
    return _sum(x * w for x, w in zip(seen, weights, strict=True)).astype(inputs.dtype)


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
    filters = _widened(kernel)[:, :, 0]
    ours = gathered(
        (_widened(gradient),),
        lambda row, column, shifted: shifted * filters[row, column],
        filters.shape[:2],
        strides,
        padding,
        inputs.shape[1:3],
    )
    theirs = _kernel_gradient(_widened(inputs), _widened(gradient), kernel.shape[:2], strides, padding)
    return ours.astype(inputs.dtype), theirs.astype(kernel.dtype)


depthwise_convolution.defvjp(_forward, _backward)


def _kernel_gradient(
    inputs: jax.Array, gradient: jax.Array, size: Sequence[int], strides: Pair, padding: tuple[Pair, Pair]
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
        return _sum(
            padded[:, q * strides[0] + i, j : j + columns : strides[1]] * gradient[:, q]
            for q in range(first, min(first + step, height))
        )

    parts = [
        jnp.stack([over_rows(i, j, first) for i, j in itertools.product(*map(range, size))])
        for first in range(0, height, step)
    ]  # [kh kw, B, w, C] each
    return _sum(parts).sum(axis=(1, 2)).reshape(*size, 1, channels)


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(operator.add, terms)


def _widened(x: jax.Array) -> jax.Array:
    """Returns x in float32, or in its own dtype if that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
