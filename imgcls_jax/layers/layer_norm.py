"""Layer normalization: Ba, Kiros and Hinton, arXiv 1607.06450 (2016). On a CPU its gradient has few passes.

There XLA's sums write a vector that multiplies their terms as an array of all terms' size. So the sums over
channels that have such a vector, the scale, are products of a matrix and that vector.

jax.jvp of a gradient goes through the layer, and jax.jvp alone does not.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax

from imgcls_jax.layers.affine import apart, moments
from imgcls_jax.layers.windows import widened


class LayerNorm(nn.Module):
    """y = (x - mean) / sqrt(variance + epsilon) * scale + bias, over the last axis, as flax.linen.LayerNorm.

    Params: scale and bias, float32 [C].

    Attributes:
      epsilon: added to the variance.
      dtype: of the result; of x and the params by default. Computed in float32 or wider.
    """

    epsilon: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [..., C]. Returns: float [..., C]."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        dtype = nn.dtypes.canonicalize_dtype(x, scale, bias, dtype=self.dtype)
        forward = functools.partial(_forward, epsilon=self.epsilon, dtype=dtype)

        def native(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
            return forward(x, scale, bias)[0]

        form = jax.custom_vjp(native)
        form.defvjp(forward, _backward)
        return jax.lax.platform_dependent(x, scale, bias, cpu=form, default=native)


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float, dtype: Any
) -> tuple[jax.Array, Any]:
    mean, variance = moments(x, (x.ndim - 1,))
    factor = jax.lax.rsqrt(variance + epsilon)
    return ((x - mean) * (factor * scale) + bias).astype(dtype), (x, scale, bias, mean, factor)


def _backward(kept: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, bias, mean, factor = kept
    normal = (x - mean) * factor
    (product,) = apart(gradient * normal)
    # Means over channels of the gradient at `normal`, and of it times `normal`.
    count = x.shape[-1]
    first, second = ((widened(terms) @ scale)[..., None] / count for terms in (gradient, product))
    to_x = factor * (gradient * scale - first - normal * second)
    of_bias, of_scale = apart(gradient, product)
    axes = tuple(range(x.ndim - 1))
    to_scale, to_bias = of_scale.sum(axes), widened(of_bias).sum(axes)
    return to_x.astype(x.dtype), to_scale.astype(scale.dtype), to_bias.astype(bias.dtype)
