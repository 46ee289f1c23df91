"""The thin residual networks for 32x32 images: ResNet-20, 32, 44, 56, 110.

Paper: He et al. 2015, arXiv 1512.03385, section 4.2: three stages of n basic blocks with 16, 32 and 64
channels, 6n + 2 layers. The shortcuts are the paper's option A, without parameters. The wide network that is
often called "ResNet-18 for CIFAR" is another: `resnet18_cifar` in resnet.py.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.kept import kept
from imgcls_jax.layers.normalization import batch_norm
from imgcls_jax.layers.variants import choose_variant

_he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def option_a(x: jax.Array, features: int, stride: int) -> jax.Array:
    """The shortcut without parameters: every stride-th position, zero channels added on both sides alike.

    Args:
      x: float [B, H, W, C].
      features: D, at least C.
      stride: of both axes.

    Returns:
      float [B, ceil(H / stride), ceil(W / stride), D].
    """
    missing = features - x.shape[-1]
    before = missing // 2
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (before, missing - before)))


class Block(nn.Module):
    """ReLU(shortcut(x) + two 3x3 convolutions, each with its norm, of x).

    Attributes:
      features: channels of the output.
      stride: of the first convolution.
      norm: constructor of a norm layer that takes use_running_average, dtype and name.
      dtype: of the computation; params stay float32.
    """

    features: int
    stride: int
    norm: Any = batch_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, H, W, C]; train switches the norm. Returns: [B, h, w, features]."""
        conv = functools.partial(
            Conv,
            self.features,
            (3, 3),
            padding=1,
            use_bias=False,
            kernel_init=_he_fan_in,
            dtype=self.dtype,
        )
        norm = functools.partial(self.norm, use_running_average=not train, dtype=self.dtype)
        y = nn.relu(norm(name="bn1")(conv(strides=self.stride, name="conv1")(x)))
        y = norm(name="bn2")(conv(name="conv2")(y))
        return kept(nn.relu(option_a(x, self.features, self.stride) + y))


class CifarResNet(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      blocks: n, of each of the three stages.
      channels: of the stages; those after the first begin with stride 2.
      norm: constructor of a norm layer that takes use_running_average, dtype and name.
      dtype: of the computation; params stay float32.
      remat: compute each block's activations again in the backward pass instead of keeping them.
    """

    blocks: int
    channels: tuple[int, ...] = (16, 32, 64)
    norm: Any = batch_norm
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized.
          train: BatchNorm uses the batch's statistics and moves its running ones.

        Returns:
          Features: map [B, ceil(H / 4), ceil(W / 4), 64], embedding [B, 64], its mean.
        """
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        x = Conv(
            self.channels[0],
            (3, 3),
            padding=1,
            use_bias=False,
            kernel_init=_he_fan_in,
            dtype=self.dtype,
            name="conv1",
        )(images)
        x = nn.relu(self.norm(use_running_average=not train, dtype=self.dtype, name="bn1")(x))
        for stage, features in enumerate(self.channels):
            for i in range(self.blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}.{i}"
                x = block(features, stride, self.norm, self.dtype, name=name)(x, train)
        return Features(x, jnp.mean(x, axis=(1, 2)))


VARIANTS: dict[str, dict[str, Any]] = {
    "resnet20": dict(blocks=3),
    "resnet32": dict(blocks=5),
    "resnet44": dict(blocks=7),
    "resnet56": dict(blocks=9),
    "resnet110": dict(blocks=18),
}


def build(variant: str, **fields: Any) -> CifarResNet:
    """Returns the backbone.

    Args:
      variant: "resnet20", "resnet32", "resnet44", "resnet56" or "resnet110".
      **fields: attributes of `CifarResNet`.

    Raises:
      ValueError: an unknown variant.
    """
    return CifarResNet(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns the name of the final linear layer in the common PyTorch checkpoints."""
    del variant
    return "linear"
