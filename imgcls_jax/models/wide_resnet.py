"""Wide residual networks as MixMatch and FixMatch use them: WRN-28-2 and its wider and longer kin.

Papers: Zagoruyko and Komodakis 2016, arXiv 1605.07146; in this form Berthelot et al. 2019, arXiv 1905.02249
(MixMatch), and Sohn et al. 2020, arXiv 2001.07685 (FixMatch). Against the first: leaky ReLU of slope 0.1,
biased convolutions, projection shortcuts without norm, the very first block's shortcut from the activated
input and all others from the raw one, BatchNorm of epsilon 0.001 and momentum 0.999, no dropout. With that
momentum the running statistics still hold 37 % of their initial values after 1000 steps: evaluate them late.

Born in TensorFlow: SAME padding, images in [-1, 1]. There the classifier starts Glorot normal; here it is a
head with its own initializer.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.convolution import Conv, he_fan_out
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.kept import kept
from imgcls_jax.layers.normalization import batch_norm
from imgcls_jax.layers.variants import choose_variant

_leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.1)
# N(0, sqrt(2 / (k k D))) and zero biases.
_conv = functools.partial(Conv, padding="SAME", kernel_init=he_fan_out)
slow_batch_norm = functools.partial(batch_norm, momentum=0.999, epsilon=1e-3)


class Block(nn.Module):
    """Pre-activation block: shortcut(x) + two 3x3 convolutions, each after norm and leaky ReLU, of x.

    Attributes:
      features: channels of the output.
      stride: of the first convolution and of the shortcut.
      activate_before_residual: the shortcut too starts from the activated input.
      norm: constructor of a norm layer that takes use_running_average, dtype and name.
      dtype: of the computation; params stay float32.
    """

    features: int
    stride: int
    activate_before_residual: bool = False
    norm: Any = slow_batch_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, H, W, C]; train switches the norm. Returns: [B, h, w, features]."""
        conv = functools.partial(_conv, self.features, dtype=self.dtype)
        norm = functools.partial(self.norm, use_running_average=not train, dtype=self.dtype)
        y = _leaky_relu(norm(name="bn1")(x))
        if self.activate_before_residual:
            x = y
        y = conv((3, 3), strides=self.stride, name="conv1")(y)
        y = conv((3, 3), name="conv2")(_leaky_relu(norm(name="bn2")(y)))
        if x.shape[-1] != self.features:
            x = conv((1, 1), strides=self.stride, name="convShortcut")(x)
        return kept(x + y)


class WideResNet(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      filters: channels of the first scale, doubled at each further one.
      scales: number of scales; those after the first begin with stride 2.
      blocks: of each scale.
      norm: constructor of a norm layer that takes use_running_average, dtype and name.
      dtype: of the computation; params stay float32.
      remat: compute each block's activations again in the backward pass instead of keeping them.
    """

    filters: int = 32
    scales: int = 3
    blocks: int = 4
    norm: Any = slow_batch_norm
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C] in [-1, 1].
          train: BatchNorm uses the batch's statistics and moves its running ones.

        Returns:
          Features: map [B, ceil(H / 4), ceil(W / 4), 4 * filters] with three scales, after the last norm and
          leaky ReLU; embedding [B, 4 * filters], its mean.
        """
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        x = _conv(16, (3, 3), dtype=self.dtype, name="conv1")(images)
        for scale in range(self.scales):
            for i in range(self.blocks):
                x = block(
                    self.filters * 2**scale,
                    stride=2 if scale > 0 and i == 0 else 1,
                    activate_before_residual=scale == i == 0,
                    norm=self.norm,
                    dtype=self.dtype,
                    name=f"block{scale + 1}.layer.{i}",
                )(x, train)
        x = _leaky_relu(self.norm(use_running_average=not train, dtype=self.dtype, name="bn1")(x))
        return Features(x, jnp.mean(x, axis=(1, 2)))


VARIANTS: dict[str, dict[str, int]] = {
    "wrn_28_2": dict(filters=32),  # CIFAR-10, SVHN
    "wrn_28_8": dict(filters=128),  # CIFAR-100 of FixMatch
    "wrn_28_2_large": dict(filters=135),  # CIFAR-100 of MixMatch: 26 million parameters
    "wrn_37_2": dict(filters=32, scales=4),  # STL-10
}


def build(variant: str, **fields: Any) -> WideResNet:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `WideResNet`, which take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return WideResNet(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns the name of the final linear layer in the PyTorch ports."""
    del variant
    return "fc"
