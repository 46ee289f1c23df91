"""Attention modules for convolutional networks: squeeze-and-excitation, BAM, CBAM.

Papers: Hu et al. 2018, arXiv 1709.01507 (SE); Park et al. 2018, arXiv 1807.06514 (BAM); Woo et al. 2018,
arXiv 1807.06521 (CBAM). Differences: BAM multiplies its two branches as the authors' released code does,
where the paper adds them (`combine`); CBAM's one BatchNorm has the momentum of all the others (released code:
0.99). Parameters carry the names of the released checkpoints, SE's those of timm.

All three have the fields `reduction`, `norm` and `dtype` and map float [B, H, W, C] to the same shape, so
that they can stand in for one another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.convolution import Conv, he_fan_out
from imgcls_jax.layers.dense import Dense, Initializer


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate computed from the averages of all channels.

    Attributes:
      reduction: r; the hidden layer has C // r channels.
      width: channels of the hidden layer; 0 for C // r.
      activation: of the hidden layer.
      gate: of the output.
      kernel_init: initializer of both layers.
      norm: not used; there is none inside.
      dtype: of the computation; params stay float32.
    """

    reduction: int = 16
    width: int = 0
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
    kernel_init: Initializer = he_fan_out
    norm: Any = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [B, H, W, C]. Returns: x times its gate, the same shape."""
        channels = x.shape[-1]
        conv = functools.partial(Conv, kernel_size=(1, 1), kernel_init=self.kernel_init, dtype=self.dtype)
        means = jnp.mean(x, axis=(1, 2), keepdims=True)  # [B, 1, 1, C]
        hidden = self.activation(conv(self.width or channels // self.reduction, name="fc1")(means))
        return x * self.gate(conv(channels, name="fc2")(hidden))


class BAM(nn.Module):
    """Bottleneck attention: x (1 + M(x)), M from a channel branch and a dilated spatial one.

    Attributes:
      reduction: r; both branches work on C // r channels.
      combine: "mul" for sigmoid(channel * spatial), the released code; "add" for the paper's sum.
      dilation: of the two 3x3 convolutions.
      norm: constructor of a norm layer that takes dtype and name.
      dtype: of the computation; params stay float32.
    """

    reduction: int = 16
    combine: str = "mul"
    dilation: int = 4
    norm: Any = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the attention and applies it.

        Args:
          x: float [B, H, W, C].

        Returns:
          float [B, H, W, C].

        Raises:
          ValueError: `combine` is neither "mul" nor "add".
        """
        if self.combine not in ("mul", "add"):
            raise ValueError(f"BAM's combine is 'mul' or 'add'; got {self.combine!r}")
        channel, spatial = self._channel(x), self._spatial(x)
        return x * (1 + nn.sigmoid(channel * spatial if self.combine == "mul" else channel + spatial))

    def _channel(self, x: jax.Array) -> jax.Array:
        path, channels = "channel_att.gate_c.gate_c", x.shape[-1]
        y = Dense(channels // self.reduction, dtype=self.dtype, name=f"{path}_fc_0")(jnp.mean(x, axis=(1, 2)))
        y = nn.relu(self.norm(dtype=self.dtype, name=f"{path}_bn_1")(y))
        y = Dense(channels, dtype=self.dtype, name=f"{path}_fc_final")(y)
        return y[:, None, None]  # [B, 1, 1, C]

    def _spatial(self, x: jax.Array) -> jax.Array:
        path, width = "spatial_att.gate_s.gate_s", x.shape[-1] // self.reduction
        conv = functools.partial(Conv, kernel_init=he_fan_out, dtype=self.dtype)
        y = conv(width, (1, 1), name=f"{path}_conv_reduce0")(x)
        y = nn.relu(self.norm(dtype=self.dtype, name=f"{path}_bn_reduce0")(y))
        for layer in range(2):
            y = conv(
                width,
                (3, 3),
                padding=self.dilation,
                kernel_dilation=self.dilation,
                name=f"{path}_conv_di_{layer}",
            )(y)
            y = nn.relu(self.norm(dtype=self.dtype, name=f"{path}_bn_di_{layer}")(y))
        return conv(1, (1, 1), name=f"{path}_conv_final")(y)  # [B, H, W, 1]


class CBAM(nn.Module):
    """A channel gate from average and maximum over space, then a spatial gate from those over channels.

    Attributes:
      reduction: r; the hidden layer of the channel gate has C // r units.
      norm: constructor of a norm layer that takes dtype, name and scale_init. The spatial gate's starts with
        scale zero: a constant gate of one half.
      dtype: of the computation; params stay float32.
    """

    reduction: int = 16
    norm: Any = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [B, H, W, C]. Returns: x times both gates, the same shape."""
        channels = x.shape[-1]
        hidden = Dense(channels // self.reduction, dtype=self.dtype, name="ChannelGate.mlp.1")
        output = Dense(channels, dtype=self.dtype, name="ChannelGate.mlp.3")
        pooled = jnp.mean(x, axis=(1, 2)), jnp.max(x, axis=(1, 2))  # [B, C] each
        gate = sum(output(nn.relu(hidden(y))) for y in pooled)
        x = x * nn.sigmoid(gate)[:, None, None]

        pooled = jnp.max(x, axis=-1, keepdims=True), jnp.mean(x, axis=-1, keepdims=True)
        gate = Conv(
            1,
            (7, 7),
            padding=3,
            use_bias=False,
            kernel_init=he_fan_out,
            dtype=self.dtype,
            name="SpatialGate.spatial.conv",
        )(jnp.concatenate(pooled, axis=-1))  # [B, H, W, 1]
        norm = self.norm(
            dtype=self.dtype, scale_init=nn.initializers.zeros_init(), name="SpatialGate.spatial.bn"
        )
        return x * nn.sigmoid(norm(gate))
