"""The multilayer perceptron between a backbone's embedding and a loss that compares embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.dense import Linear
from imgcls_jax.layers.gelu import gelu


class Projector(nn.Module):
    """Linear layers, each but the last followed by BatchNorm and ReLU.

    A linear layer that BatchNorm follows has no bias, since BatchNorm has an offset.

    Attributes:
      widths: outputs of each linear layer; 0 for as many as the embedding has.
      norm: whether BatchNorm follows the hidden layers.
      last_norm: whether BatchNorm, without an offset, follows the last one.
      last_bias: whether the last linear layer has a bias, where no BatchNorm follows it.
      gelu: whether GELU takes ReLU's place.
      kernel_std: of the normal distribution that kernels are drawn from; 0 for LeCun's.
    """

    widths: Sequence[int]
    norm: bool = True
    last_norm: bool = False
    last_bias: bool = True
    gelu: bool = False
    kernel_std: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Args: x float [B, D]; train: BatchNorm uses the batch. Returns: float32 [B, widths[-1]]."""
        x, dim = x.astype(jnp.float32), x.shape[-1]
        kernel_init = (
            nn.initializers.normal(self.kernel_std) if self.kernel_std else nn.initializers.lecun_normal()
        )
        for layer, width in enumerate(self.widths, 1):
            last = layer == len(self.widths)
            norm = self.last_norm if last else self.norm
            bias = not norm and (self.last_bias or not last)
            x = Linear(width or dim, use_bias=bias, kernel_init=kernel_init, name=f"fc{layer}")(x)
            if norm:
                x = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    epsilon=1e-5,
                    use_bias=not last,
                    name=f"bn{layer}",
                )(x)
            if not last:
                x = (gelu if self.gelu else nn.relu)(x)
        return x
