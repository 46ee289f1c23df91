"""A convolution and its norm, as Inception networks and mobile networks repeat them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.dense import Initializer

# The two ways to pad that a network with weights from PyTorch or TensorFlow chooses from, as `conv_norm`
# names them.
PADDINGS = {"torch": "half", "tf": "same"}


def conv_norm(
    x: jax.Array,
    features: int,
    kernel: int | tuple[int, int] = 1,
    *,
    train: bool,
    norm: Any,
    names: tuple[str, str] = ("conv", "bn"),
    strides: int = 1,
    padding: str = "half",
    depthwise: bool = False,
    kernel_init: Initializer,
    bias_init: Initializer = nn.initializers.zeros,
    dtype: Any = None,
) -> jax.Array:
    """Applies a convolution, then its norm; without a norm the convolution has a bias.

    The two layers belong to the module that calls this.

    Args:
      x: float [B, h, w, C].
      features: D, output channels.
      kernel: side of the kernel, or (height, width).
      train: the norm uses the batch's statistics and moves its running ones.
      norm: constructor of a norm layer that takes use_running_average, dtype and name; None for a bias.
      names: of the convolution and of the norm.
      strides: of both axes.
      padding: zeros around the map. "half": half the kernel on each side; "same": as TensorFlow's SAME;
        "none".
      depthwise: one filter a channel; features is C.
      kernel_init, bias_init: initializers; the bias exists only without a norm.
      dtype: of the computation.

    Returns:
      float [B, h', w', D].
    """
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    pads: dict[str, str | list[tuple[int, int]]] = {
        "half": [(side // 2, side // 2) for side in size],
        "none": [(0, 0), (0, 0)],
        "same": "SAME",
    }
    x = Conv(
        features,
        size,
        strides=strides,
        padding=pads[padding],
        feature_group_count=features if depthwise else 1,
        use_bias=norm is None,
        dtype=dtype,
        kernel_init=kernel_init,
        bias_init=bias_init,
        name=names[0],
    )(x)
    return x if norm is None else norm(use_running_average=not train, dtype=dtype, name=names[1])(x)


class ConvUnit(nn.Module):
    """`conv_norm` and an activation as a module of its own.

    Attributes:
      features, kernel, strides, padding, depthwise, norm, names, kernel_init, bias_init, dtype: of
        `conv_norm`.
      activation: of the output; None for none.
    """

    features: int
    kernel: int | tuple[int, int] = 1
    strides: int = 1
    padding: str = "half"
    depthwise: bool = False
    norm: Any = None
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    names: tuple[str, str] = ("conv", "bn")
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]; train as the backbone's. Returns: float [B, h', w', features]."""
        x = conv_norm(
            x,
            self.features,
            self.kernel,
            train=train,
            norm=self.norm,
            names=self.names,
            strides=self.strides,
            padding=self.padding,
            depthwise=self.depthwise,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
        )
        return x if self.activation is None else self.activation(x)


def round_channels(channels: float, divisor: int = 8) -> int:
    """Returns the nearest multiple of `divisor` that is at least nine tenths of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
