"""Pieces that several families share: what a backbone returns, the norm layer, initialisers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.models.normalization import BatchNorm

Initializer = Callable[..., jax.Array]

# Flax's momentum is one minus that of PyTorch: 0.9 here is the usual 0.1 there. The running variance is the
# biased one.
batch_norm = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-5)


class Features(NamedTuple):
    """What every backbone returns.

    Attributes:
      map: float [B, h, w, D'], the last feature map.
      embedding: float [B, D], what a final linear layer reads.
      aux: side outputs for auxiliary classifiers, float [B, D''] each; () where the network has none.
    """

    map: jax.Array
    embedding: jax.Array
    aux: tuple[jax.Array, ...] = ()


# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the variance is a third of lecun_uniform's.
fan_in_uniform: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def fan_in_uniform_bias(fan_in: int) -> Initializer:
    """Returns the bias initialiser that goes with `fan_in_uniform`: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Dense(nn.Module):
    """A linear layer with the fan-in uniform initialiser for kernel and bias.

    Attributes:
      features: size of the output.
      dtype: of the computation; params stay float32.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [..., D]. Returns: float [..., features]."""
        init_bias = fan_in_uniform_bias(x.shape[-1])
        kernel = self.param("kernel", fan_in_uniform, (x.shape[-1], self.features))
        bias = self.param("bias", init_bias, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + bias
