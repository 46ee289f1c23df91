"""The linear layer and its initializers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers import products
from imgcls_jax.layers.affine import affine

Initializer = Callable[..., jax.Array]

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the variance is a third of lecun_uniform's.
fan_in_uniform: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def fan_in_uniform_bias(fan_in: int) -> Initializer:
    """Returns the bias initializer that goes with `fan_in_uniform`: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Dense):
    """flax.linen.Dense, with its attributes and params; on a CPU large products may be oneDNN's.

    The bias is added, and its gradient summed, in float32 or wider, as in `convolution.Conv`.
    """

    dot_general: Any = products.dot_general

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Args: inputs float [..., D]. Returns: float [..., features]."""
        shape = (inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        x, kernel = nn.dtypes.promote_dtype(inputs, kernel, dtype=self.dtype)
        y = self.dot_general(x, kernel, _last_with_first(x), precision=self.precision)
        if not self.use_bias:
            return y
        return affine(y, self.param("bias", self.bias_init, (self.features,), self.param_dtype))


class Dense(nn.Module):
    """A linear layer with the fan-in uniform initializer for kernel and bias.

    Attributes:
      features: size of the output.
      dtype: of the computation; params stay float32.
      zero_init: kernel and bias start at 0.
    """

    features: int
    dtype: Any = None
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [..., D]. Returns: float [..., features]."""
        zeros = nn.initializers.zeros
        init, init_bias = (
            (zeros, zeros) if self.zero_init else (fan_in_uniform, fan_in_uniform_bias(x.shape[-1]))
        )
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", init_bias, (self.features,))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return affine(products.dot_general(x, kernel, _last_with_first(x)), bias)


def _last_with_first(x: jax.Array) -> Any:
    return ((x.ndim - 1,), (0,)), ((), ())
