"""Maps times a vector plus a vector, and their moments, with sums over a batch that are fast in bfloat16.

The sums are taken in float32. XLA's sums on a CPU take in the conversion of an array that nothing else reads;
else the array is written in float32 first, twice as large, for all that read it. So there each sum has its
array apart. Float32 and wider dtypes have nothing to convert, and their gradients are jax's own.

In narrower ones jax.jvp of a gradient goes through, and jax.jvp alone does not.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.layers.windows import is_narrow, widened


def affine(x: jax.Array, offset: jax.Array, factor: jax.Array | None = None, dtype: Any = None) -> jax.Array:
    """Returns x factor + offset, computed in float32 or wider.

    Args:
      x: float [..., C].
      offset: float [C].
      factor: float [C]; None for 1.
      dtype: of the result; x's own by default.

    Returns:
      float [..., C].
    """
    dtype = x.dtype if dtype is None else jnp.dtype(dtype)
    if dtype == x.dtype and is_narrow(x):
        return _affine(x, offset, factor)
    return _computed(x, offset, factor).astype(dtype)


def moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance over axes of a float array, which stay as 1; float32 or wider."""
    return _narrow_moments(x, axes) if is_narrow(x) else _moments(x, axes)


def apart(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the arrays; on a CPU XLA takes them for others than those that it got."""
    return jax.lax.platform_dependent(
        *arrays, cpu=lambda *arrays: jax.lax.optimization_barrier(arrays), default=lambda *arrays: arrays
    )


def _total(x: jax.Array) -> jax.Array:
    return x.sum(tuple(range(x.ndim - 1)))


def _computed(x: jax.Array, offset: jax.Array, factor: jax.Array | None) -> jax.Array:
    return (widened(x) if factor is None else widened(x) * factor) + offset


@jax.custom_vjp
def _affine(x: jax.Array, offset: jax.Array, factor: jax.Array | None) -> jax.Array:
    return _affine_forward(x, offset, factor)[0]


def _affine_forward(x: jax.Array, offset: jax.Array, factor: jax.Array | None) -> tuple[jax.Array, Any]:
    y = _computed(x, offset, factor).astype(x.dtype)
    return y, (None if factor is None else x, offset, factor)


def _affine_backward(kept: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    x, offset, factor = kept
    if factor is None:
        (of_offset,) = apart(gradient)
        return gradient, _total(widened(of_offset)).astype(offset.dtype), None
    of_factor, x = apart(gradient, x)
    to_factor = _total(widened(of_factor) * widened(x))
    of_offset, to_factor = apart(gradient, to_factor)
    to_offset = _total(widened(of_offset))
    to_x = (gradient * factor).astype(gradient.dtype)
    return to_x, to_offset.astype(offset.dtype), to_factor.astype(factor.dtype)


_affine.defvjp(_affine_forward, _affine_backward)


def _moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    mean = widened(x).mean(axes, keepdims=True)
    if is_narrow(x):
        x, mean = apart(x, mean)
    variance = jnp.square(widened(x)).mean(axes, keepdims=True) - jnp.square(mean)
    return mean, jnp.maximum(variance, 0)  # rounding may leave it below zero


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _narrow_moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    return _moments_forward(x, axes)[0]


def _moments_forward(x: jax.Array, axes: tuple[int, ...]) -> tuple[tuple[jax.Array, jax.Array], Any]:
    (alone,) = apart(x)
    mean, variance = _moments(alone, axes)
    return (mean, variance), (x, mean)


def _moments_backward(
    axes: tuple[int, ...], kept: Any, gradients: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array]:
    x, mean = kept
    count = math.prod(x.shape[axis] for axis in axes)
    of_mean, of_variance = (gradient / count for gradient in gradients)
    x, of_mean = apart(x, of_mean)
    return ((of_mean + 2 * (x - mean) * of_variance).astype(x.dtype),)


_narrow_moments.defvjp(_moments_forward, _moments_backward)
