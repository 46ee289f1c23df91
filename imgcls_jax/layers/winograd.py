"""Convolutions of 3x3 by Winograd's minimal filtering along the width: half of the multiplications.

F(4, 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308), eq. 5: four
neighboring outputs of a filter of three taps come from six products instead of twelve,

  y = A^T [(G w) * (B^T x)],   six inputs x, three weights w, four outputs y.

Here rows of an image go through it and its columns do not: each of the six products is a convolution of 3x1
over all channels, which oneDNN or Eigen computes near a core's peak. The gradient of the inputs is such a
filter too; that of the weights goes through the transpose along both axes, as products of matrices. The
points of interpolation are 0, +-sqrt(2), +-1/sqrt(2) and infinity, of the kind {-1/c, -c, c, 1/c} (Alam et
al., arXiv:2201.10369), with two thirds of the rounding error of the paper's 0, +-1, +-2: 2.6 times that of
the direct sum in float32.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.layers import direct

TAPS, OUTPUTS, INPUTS = 3, 4, 6
ROOT = math.sqrt(2)
POINTS = (ROOT, -ROOT, 1 / ROOT, -1 / ROOT)
# B^T, G and A^T by rows, a row for each of the six products; A^T's are columns in the paper.
OF_INPUTS = (
    (1, 0, -2.5, 0, 1, 0),
    *((0, -1 / p, -1 / p**2, p, 1, 0) for p in POINTS),
    (0, 1, 0, -2.5, 0, 1),
)
OF_WEIGHTS = (
    (1, 0, 0),
    *(tuple(p**power / (2 * (p**4 - 1)) for power in range(TAPS)) for p in POINTS),
    (0, 0, 1),
)
OF_OUTPUTS = ((1, 0, 0, 0), *(tuple(p**power for power in range(OUTPUTS)) for p in POINTS), (0, 0, 0, 1))

Padding = Sequence[tuple[int, int]]


def convolution_3x3(inputs: jax.Array, kernel: jax.Array, padding: Padding, **options: Any) -> jax.Array:
    """Returns jax.lax.conv_general_dilated of stride 1, its sums taken in Winograd's order.

    Args:
      inputs: float [B, H, W, C].
      kernel: float [3, 3, C, D].
      padding: ((top, bottom), (left, right)), each 0 to 2.
      **options: of jax.lax.conv_general_dilated.

    Returns:
      float [B, h, w, D].
    """
    forward = functools.partial(_filter, padding=padding, **options)
    function = jax.custom_vjp(forward)

    def backward(read: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs, kernel = read
        rest = [(TAPS - 1 - before, TAPS - 1 - after) for before, after in padding]
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        of_inputs = _filter(gradient, turned, padding=rest, **options)
        return of_inputs, _gradient_of_weights(inputs, gradient, padding)

    function.defvjp(lambda *read: (forward(*read), read), backward)
    return function(inputs, kernel)


def _filter(inputs: jax.Array, kernel: jax.Array, *, padding: Padding, **options: Any) -> jax.Array:
    above, (left, right) = padding
    width = inputs.shape[2] + left + right - TAPS + 1
    transformed = _combined(OF_INPUTS, _tiles(_padded(inputs, 2, left, width), 2))
    # A product, and no sums of taps, which XLA would fuse with a transpose before them, and be slow.
    weights = jnp.einsum("jw,hwcd->jhcd", jnp.asarray(OF_WEIGHTS, kernel.dtype), kernel)
    products = [
        direct.convolution(x, w[:, None], (1, 1), (above, (0, 0)), **options)
        for x, w in zip(transformed, weights, strict=True)
    ]
    # A column of coefficients a product, in place of four sums side by side: XLA is slow to interleave those.
    columns = [jnp.asarray(row, inputs.dtype)[:, None] for row in OF_OUTPUTS]
    tiles = functools.reduce(
        operator.add, (x[:, :, :, None] * column for x, column in zip(products, columns, strict=True))
    )
    return tiles.reshape(*tiles.shape[:2], -1, tiles.shape[4])[:, :, :width]  # of [B, h, tiles, 4, D]


def _gradient_of_weights(inputs: jax.Array, gradient: jax.Array, padding: Padding) -> jax.Array:
    """Returns [3, 3, C, D]: the transpose of the filter along both axes."""
    (top, _), (left, _) = padding
    height, width = gradient.shape[1:3]
    taps = tuple(zip(*OF_WEIGHTS, strict=True))
    inputs = _padded(_padded(inputs, 1, top, height), 2, left, width)
    gradient = jnp.pad(gradient, ((0, 0), (0, -height % OUTPUTS), (0, -width % OUTPUTS), (0, 0)))
    rows = _combined(OF_INPUTS, _tiles(inputs, 1))
    gradient_rows = _combined(OF_OUTPUTS, _blocks(gradient, 1))
    by_rows = []
    for row, gradient_row in zip(rows, gradient_rows, strict=True):
        transformed = _combined(OF_INPUTS, _tiles(row, 2))
        gradients = _combined(OF_OUTPUTS, _blocks(gradient_row, 2))
        products = [
            x.reshape(-1, x.shape[3]).T @ g.reshape(-1, g.shape[3])  # [C, D]
            for x, g in zip(transformed, gradients, strict=True)
        ]
        by_rows.append(jnp.stack(_combined(taps, products)))
    return jnp.stack(_combined(taps, by_rows))


def _padded(x: jax.Array, axis: int, before: int, outputs: int) -> jax.Array:
    """Returns `x` with zeros on both sides of an axis, as long as whole tiles of the outputs read it."""
    padding = [(0, 0)] * x.ndim
    length = OUTPUTS * -(-outputs // OUTPUTS) + TAPS - 1
    padding[axis] = (before, length - before - x.shape[axis])
    return jnp.pad(x, padding)


def _tiles(x: jax.Array, axis: int) -> list[jax.Array]:
    """Returns the first to sixth inputs of all tiles along an axis."""
    span = x.shape[axis] - INPUTS + 1
    return [jax.lax.slice_in_dim(x, start, start + span, OUTPUTS, axis) for start in range(INPUTS)]


def _blocks(x: jax.Array, axis: int) -> list[jax.Array]:
    """Returns the first to fourth of each four values along an axis."""
    return [jax.lax.slice_in_dim(x, start, None, OUTPUTS, axis) for start in range(OUTPUTS)]


def _combined(rows: Sequence[Sequence[float]], arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns the sums of the arrays with the coefficients of each row."""

    def combined(row: Sequence[float]) -> jax.Array:
        terms = (array * coefficient for coefficient, array in zip(row, arrays, strict=True) if coefficient)
        return functools.reduce(operator.add, terms)

    return [combined(row) for row in rows]
