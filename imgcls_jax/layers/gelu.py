"""GELU in its forms: by the error function, by a sigmoid and by tanh."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.windows import widened


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """Computes x Phi(x), Phi being the standard normal distribution: Hendrycks and Gimpel, arXiv:1606.08415.

    jax.nn.gelu(x, approximate=False) is the same but for rounding. Its backward pass keeps and reads several
    arrays of x's size; here a compiled program keeps x and computes the slope anew.

    Args:
      x: float, any shape.

    Returns:
      float, of x's shape and dtype.
    """
    wide = widened(x)
    return (0.5 * wide * (1 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    wide = widened(x)
    # Of -x: XLA would keep an erf that the value shares in memory.
    phi = 0.5 * (1 - jax.lax.erf(wide * -math.sqrt(0.5)))
    slope = phi + wide * jnp.exp(-0.5 * wide**2) / math.sqrt(2 * math.pi)
    return gelu(x), tangent * slope.astype(x.dtype)


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * nn.sigmoid(1.702 * x)


# By the fields (quick_gelu, tanh_gelu).
_FORMS: dict[tuple[bool, bool], Callable[[jax.Array], jax.Array]] = {
    (False, False): gelu,
    (True, False): _quick_gelu,
    (False, True): functools.partial(nn.gelu, approximate=True),
}


def gelu_of(*, quick_gelu: bool, tanh_gelu: bool) -> Callable[[jax.Array], jax.Array]:
    """Returns the GELU, x * sigmoid(1.702 * x) or the GELU's approximation by tanh.

    Raises:
      ValueError: both are asked for.
    """
    if quick_gelu and tanh_gelu:
        raise ValueError("quick_gelu and tanh_gelu are two functions: set one of them")
    return _FORMS[quick_gelu, tanh_gelu]
