"""BiT's residual networks: pre-activation, GroupNorm, and convolutions of standardized weights.

Kolesnikov et al., "Big Transfer (BiT)", arXiv 1912.11370 (2019); He et al., "Identity Mappings in Deep
Residual Networks", arXiv 1603.05027 (2016); Qiao et al., "Micro-Batch Training with Batch-Channel
Normalization and Weight Standardization", arXiv 1903.10520 (2019), eq. 7. Images are in [-1, 1].

Differences from the second: a bottleneck halves the map in its 3x3 convolution, and the stem's max-pool is
padded with zeros. The final classifier, which BiT starts at 0, is a head.

Names are timm's; the authors' files (BiT-M-R50x1.npz) are read too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.convolution import Conv, convolution, he_fan_out
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.pooling import max_pool
from imgcls_jax.layers.variants import choose_variant

WIDTHS = (256, 512, 1024, 2048)  # of the stages' outputs; a bottleneck is a quarter of it inside
STEM_CHANNELS = 64
GROUPS = 32
EPSILON = 1e-8  # of the standardization; timm's


def standardized(kernel: jax.Array) -> jax.Array:
    """Returns a kernel [kh, kw, C, D] of which each filter has mean 0 and variance 1; in its dtype."""
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    mean = jnp.mean(wide, axis=(0, 1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axis=(0, 1, 2), keepdims=True)
    return ((wide - mean) * jax.lax.rsqrt(variance + EPSILON)).astype(kernel.dtype)


def _convolution_of_standardized(
    inputs: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any
) -> jax.Array:
    return convolution(inputs, standardized(kernel), *arguments, **options)


StdConv = functools.partial(
    Conv, use_bias=False, kernel_init=he_fan_out, conv_general_dilated=_convolution_of_standardized
)


class Block(nn.Module):
    """skip(x) + branch(ReLU(norm(x))): convolutions 1x1, 3x3 and 1x1, each after a norm and ReLU.

    Attributes:
      channels: of the output.
      stride: of the 3x3 convolution.
      projects: the skip connection is a 1x1 convolution of the normalized input; else the identity.
      dtype: of the computation.
    """

    channels: int
    stride: int
    projects: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h', w', channels], h' = ceil(h / stride)."""
        conv = functools.partial(StdConv, dtype=self.dtype)
        inner = self.channels // 4
        y = _norm_relu(x, self.dtype, "norm1")
        if self.projects:
            x = conv(self.channels, (1, 1), strides=self.stride, name="downsample.conv")(y)
        y = conv(inner, (1, 1), name="conv1")(y)
        y = _norm_relu(y, self.dtype, "norm2")
        y = conv(inner, (3, 3), strides=self.stride, padding=1, name="conv2")(y)
        y = _norm_relu(y, self.dtype, "norm3")
        return x + conv(self.channels, (1, 1), name="conv3")(y)


def _norm_relu(x: jax.Array, dtype: Any, name: str) -> jax.Array:
    return nn.relu(nn.GroupNorm(GROUPS, epsilon=1e-5, dtype=dtype, name=name)(x))


class ResNetV2(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      depths: blocks of each stage.
      width: multiplier of the channels.
      remat: compute each block's activations again in the backward pass instead of keeping them.
      dtype: of the computation; params stay float32.
    """

    depths: tuple[int, ...]
    width: int = 1
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features; there is nothing in which training differs.

        Args:
          images: float [B, H, W, C], in [-1, 1].
          train: not read.

        Returns:
          Features: map [B, ceil(H / 32), ceil(W / 32), D] and embedding [B, D], its mean over positions; D is
          2048 times the width.
        """
        del train
        block_type = nn.remat(Block) if self.remat else Block
        stem = StdConv(
            self.width * STEM_CHANNELS, (7, 7), strides=2, padding=3, dtype=self.dtype, name="stem.conv"
        )
        x = jnp.pad(stem(images), ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = max_pool(x, (3, 3), (2, 2))
        for stage, (depth, channels) in enumerate(zip(self.depths, WIDTHS, strict=True)):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"stages.{stage}.blocks.{i}"
                x = block_type(self.width * channels, stride, i == 0, self.dtype, name=name)(x)
        x = _norm_relu(x, self.dtype, "norm")
        return Features(x, jnp.mean(x, axis=(1, 2)))


VARIANTS: dict[str, dict[str, Any]] = {
    f"resnetv2_{layers}x{width}_bit": dict(depths=depths, width=width)
    for layers, depths, widths in (
        (50, (3, 4, 6, 3), (1, 3)),
        (101, (3, 4, 23, 3), (1, 3)),
        (152, (3, 8, 36, 3), (2, 4)),
    )
    for width in widths
}


def build(variant: str, **fields: Any) -> ResNetV2:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `ResNetV2`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return ResNetV2(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final linear layer."""
    return "head.fc"


# Of the authors' files.
UNIT = re.compile(r"block(\d+)/unit(\d+)/([abc])/(proj/)?(group_norm|standardized_conv2d)")
OUTSIDE = {
    "root_block/standardized_conv2d": "stem.conv",
    "group_norm": "norm",
    "head/conv2d": "head.fc",
}
LEAVES = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings the authors' names and layouts to timm's, and the classifier from a 1x1 convolution's shape.

    Args:
      arrays: {"resnet/block1/unit01/a/standardized_conv2d/kernel": [h, w, I, O], ...}, or timm's
        {"head.fc.weight": [K, D, 1, 1], ...}.
      variant: a key of `VARIANTS`.

    Returns:
      {"stages.0.blocks.0.conv1.weight": [O, I, h, w], ..., "head.fc.weight": [K, D]}.
    """
    del variant
    found = {}
    for name, array in arrays.items():
        if "/" in name:
            name, array = _from_authors(name.removeprefix("resnet/"), array)
        if name == "head.fc.weight" and getattr(array, "ndim", 0) == 4:
            array = array[:, :, 0, 0]
        found[name] = array
    return found


def _from_authors(name: str, array: Any) -> tuple[str, Any]:
    """Returns timm's name and layout of one of the authors' arrays."""
    module, _, leaf = name.rpartition("/")
    module = OUTSIDE.get(module, module)
    if unit := UNIT.fullmatch(module):
        stage, block, layer, projects, kind = unit.groups()
        number = "abc".index(layer) + 1
        inside = "downsample.conv" if projects else f"{'norm' if kind == 'group_norm' else 'conv'}{number}"
        module = f"stages.{int(stage) - 1}.blocks.{int(block) - 1}.{inside}"
    array = array.transpose(3, 2, 0, 1) if getattr(array, "ndim", 0) == 4 else array
    return f"{module}.{LEAVES.get(leaf, leaf)}", array


def export_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings the classifier to the shape of timm's 1x1 convolution; the names and layouts stay."""
    del variant
    return {
        name: array[:, :, None, None] if name == "head.fc.weight" else array for name, array in arrays.items()
    }
