"""Residual networks: ResNet, ResNeXt, Wide ResNet, ResNet-D, and those with SE, BAM or CBAM.

Papers: He et al. 2015, arXiv 1512.03385 (ResNet); Xie et al. 2016, arXiv 1611.05431 (ResNeXt); Zagoruyko and
Komodakis 2016, arXiv 1605.07146 (wide); the attention modules in attention.py. Difference: a bottleneck that
halves the map does so in its 3x3 convolution, "v1.5", where the ResNet paper and the released SE-ResNets do
so in the first 1x1: `stride_in_3x3=False`, the same parameters. The released SE nets' stem is
`functools.partial(image_stem, ceil_mode=True)`. ResNet-D (He et al. 2018, arXiv 1812.01187, figure 2) has
three 3x3 convolutions for the stem's 7x7, and an average pool before a skip connection's convolution; its
names are timm's.

The stem, a block's residual branch and its skip connection are plain functions, which create their layers
inside the module that calls them; they and the norm can be exchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.attention import BAM, CBAM, SqueezeExcitation
from imgcls_jax.layers.convolution import Conv, he_fan_out
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.kept import kept
from imgcls_jax.layers.normalization import batch_norm, choose_norm
from imgcls_jax.layers.pooling import avg_pool, ceil_max_pool, max_pool
from imgcls_jax.layers.stochastic_depth import drop_branch, rising_rates
from imgcls_jax.layers.variants import choose_variant

BEGINNINGS = {"torchvision": he_fan_out, "tensorflow": nn.initializers.lecun_normal()}


def image_stem(x: jax.Array, conv: Any, norm: Any, *, ceil_mode: bool = False) -> jax.Array:
    """Returns float [B, H / 4, W / 4, 64]: convolution 7x7 of stride 2, norm, ReLU, max-pool 3x3 of stride 2.

    With `ceil_mode` the pool has no padding and a last partial window instead of a padding of one.
    """
    x = nn.relu(norm(name="bn1")(conv(64, (7, 7), strides=2, padding=3, name="conv1")(x)))
    if ceil_mode:
        return ceil_max_pool(x)
    return max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def deep_stem(x: jax.Array, conv: Any, norm: Any) -> jax.Array:
    """Returns float [B, H / 4, W / 4, 64]: ResNet-D's three 3x3 convolutions, the first of stride 2, then as
    `image_stem`."""
    for i, (width, strides) in enumerate(((32, 2), (32, 1), (64, 1))):
        x = conv(width, (3, 3), strides=strides, padding=1, name=f"conv1.{3 * i}")(x)
        x = nn.relu(norm(name=f"conv1.{3 * i + 1}" if i < 2 else "bn1")(x))
    return max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def cifar_stem(x: jax.Array, conv: Any, norm: Any) -> jax.Array:
    """Returns float [B, H, W, 64]: a convolution 3x3 of stride 1, norm, ReLU."""
    return nn.relu(norm(name="bn1")(conv(64, (3, 3), padding=1, name="conv1")(x)))


def iic_stem(x: jax.Array, conv: Any, norm: Any) -> jax.Array:
    """Returns float [B, H // 2 + 1, W // 2 + 1, 64]: `cifar_stem`, and a max-pool 2x2 of stride 2 and padding
    1, as in IIC's networks (arXiv:1807.06653)."""
    return max_pool(cifar_stem(x, conv, norm), window_shape=(2, 2), strides=(2, 2), padding=((1, 1), (1, 1)))


def basic(block: Block, x: jax.Array) -> jax.Array:
    """The branch of two 3x3 convolutions. Args: x float [B, H, W, C]. Returns: [B, h, w, block.features]."""
    x = block.conv(block.features, (3, 3), strides=block.stride, padding=1, name="conv1")(x)
    x = nn.relu(block.norm(name="bn1")(x))
    x = block.conv(block.features, (3, 3), padding=1, name="conv2")(x)
    return block.last_norm(name="bn2")(x)


def bottleneck(block: Block, x: jax.Array, *, groups: int = 1, base_width: int = 64) -> jax.Array:
    """The branch of convolutions 1x1, 3x3 and 1x1.

    Args:
      block: the residual block that it is the branch of.
      x: float [B, H, W, C].
      groups: of the 3x3 convolution, the cardinality.
      base_width: channels of a group in a first stage of 64 features.

    Returns:
      float [B, h, w, 4 * block.features].
    """
    width = block.features * base_width // 64 * groups
    strides = (1, block.stride) if block.stride_in_3x3 else (block.stride, 1)
    x = nn.relu(block.norm(name="bn1")(block.conv(width, (1, 1), strides=strides[0], name="conv1")(x)))
    x = block.conv(width, (3, 3), strides=strides[1], padding=1, feature_group_count=groups, name="conv2")(x)
    x = nn.relu(block.norm(name="bn2")(x))
    return block.last_norm(name="bn3")(block.conv(4 * block.features, (1, 1), name="conv3")(x))


def projection(block: Block, x: jax.Array, features: int) -> jax.Array:
    """The skip connection: the identity, or a 1x1 convolution and norm where the branch changes the shape.

    Args:
      block: the residual block that it is the skip of.
      x: float [B, H, W, C].
      features: D, channels of the branch's output.

    Returns:
      float [B, h, w, D].
    """
    if block.stride == 1 and x.shape[-1] == features:
        return x
    x = block.conv(features, (1, 1), strides=block.stride, name="downsample.0")(x)
    return block.norm(name="downsample.1")(x)


def pooled_projection(block: Block, x: jax.Array, features: int) -> jax.Array:
    """ResNet-D's skip connection: as `projection`, but an average pool 2x2 halves the map.

    Args:
      block: the residual block that it is the skip of.
      x: float [B, H, W, C].
      features: D, channels of the branch's output.

    Returns:
      float [B, h, w, D]; a last partial window is averaged over what it holds.
    """
    if block.stride == 1 and x.shape[-1] == features:
        return x
    if block.stride > 1:
        pads = [(0, side % block.stride) for side in x.shape[1:3]]
        strides = (block.stride, block.stride)
        x = avg_pool(x, strides, strides=strides, padding=pads, count_include_pad=False)
    x = block.conv(features, (1, 1), name="downsample.1")(x)
    return block.norm(name="downsample.2")(x)


class Block(nn.Module):
    """ReLU(skip(x) + attention(branch(x))).

    Attributes:
      features: width of the branch; a bottleneck puts out four times as many channels.
      stride: of the block.
      branch, skip, attention, stride_in_3x3: as in `ResNet`.
      conv: constructor of a convolution without bias.
      norm: constructor of a norm layer that takes a name.
      last_norm: the same for the last one of the branch.
      dtype: of the attention's computation; params stay float32.
      stochastic_depth: probability of dropping the branch for one image; 0 outside of training.
    """

    features: int
    stride: int
    branch: Callable[..., jax.Array]
    skip: Callable[..., jax.Array]
    attention: Callable[..., nn.Module] | None
    stride_in_3x3: bool
    conv: Any
    norm: Any
    last_norm: Any
    dtype: Any = None
    stochastic_depth: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [B, H, W, C]. Returns: float [B, ceil(H / stride), ceil(W / stride), D]."""
        y = self.branch(self, x)
        if self.attention is not None:
            y = self.attention(norm=self.norm, dtype=self.dtype)(y)
        y = drop_branch(y, self.stochastic_depth, train=True)
        return kept(nn.relu(self.skip(self, x, y.shape[-1]) + y))


class ResNet(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      stage_sizes: blocks of each stage; all but the first stage begin with stride 2.
      branch: the residual branch of a block, `basic` or `bottleneck`: (block, x) -> y.
      stem: what precedes the stages: (x, conv, norm) -> x.
      skip: the other path of a block: (block, x, features of the branch's output) -> x.
      attention: constructor, taking norm and dtype, of a module at the end of each branch.
      stage_attention: the same, of one after each stage but the last.
      stride_in_3x3: bottlenecks halve the map in their 3x3 convolution; else in the first 1x1.
      zero_init_gamma: the last norm of each branch starts with scale zero: a block starts as its skip.
      norm: constructor of a norm layer that takes use_running_average, dtype, name and scale_init.
      dtype: of the computation; params stay float32.
      remat: compute each block's activations again in the backward pass instead of keeping them.
      begins_as: whose initial convolutions: "torchvision" (He's normal distribution by fan-out) or
        "tensorflow" (a truncated normal one of variance 1 / fan-in, as in SimCLR's code).
      stochastic_depth: probability of dropping the last branch for one image; it rises linearly from 0.
    """

    stage_sizes: tuple[int, ...]
    branch: Callable[..., jax.Array]
    stem: Callable[..., jax.Array] = image_stem
    skip: Callable[..., jax.Array] = projection
    attention: Callable[..., nn.Module] | None = None
    stage_attention: Callable[..., nn.Module] | None = None
    stride_in_3x3: bool = True
    zero_init_gamma: bool = False
    norm: Any = batch_norm
    dtype: Any = None
    remat: bool = False
    begins_as: str = "torchvision"
    stochastic_depth: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized.
          train: the norm uses the batch's statistics and moves its running ones; stochastic depth is on.

        Returns:
          Features: map [B, ceil(H / 32), ceil(W / 32), D] (a CIFAR stem: / 8), embedding [B, D], its mean;
          D 512 with basic blocks and 2048 with bottlenecks.
        """
        if self.begins_as not in BEGINNINGS:
            raise ValueError(f"begins_as of ResNet is one of {tuple(BEGINNINGS)}; got {self.begins_as!r}")
        kernel_init = BEGINNINGS[self.begins_as]
        conv = functools.partial(Conv, use_bias=False, kernel_init=kernel_init, dtype=self.dtype)
        norm = functools.partial(choose_norm(self.norm), use_running_average=not train, dtype=self.dtype)
        gamma = nn.initializers.zeros_init() if self.zero_init_gamma else nn.initializers.ones_init()
        block = functools.partial(
            nn.remat(Block) if self.remat else Block,
            branch=self.branch,
            skip=self.skip,
            attention=self.attention,
            stride_in_3x3=self.stride_in_3x3,
            conv=conv,
            norm=norm,
            last_norm=functools.partial(norm, scale_init=gamma),
            dtype=self.dtype,
        )
        rates = iter(rising_rates(self.stochastic_depth if train else 0.0, sum(self.stage_sizes)))
        x = self.stem(images, conv, norm)
        for stage, size in enumerate(self.stage_sizes):
            for i in range(size):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}.{i}"
                x = block(64 * 2**stage, stride, stochastic_depth=next(rates), name=name)(x)
            if self.stage_attention is not None and stage < len(self.stage_sizes) - 1:
                x = self.stage_attention(norm=norm, dtype=self.dtype, name=f"bam{stage + 1}")(x)
        return Features(x, jnp.mean(x, axis=(1, 2)))


_LAYERS_18, _LAYERS_34, _LAYERS_50 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3)
_LAYERS_101, _LAYERS_152, _LAYERS_200 = (3, 4, 23, 3), (3, 8, 36, 3), (3, 24, 36, 3)
_bottleneck_32x4d = functools.partial(bottleneck, groups=32, base_width=4)
_bottleneck_32x8d = functools.partial(bottleneck, groups=32, base_width=8)
_bottleneck_64x4d = functools.partial(bottleneck, groups=64, base_width=4)
_se = functools.partial(SqueezeExcitation, name="se")
_D: dict[str, Any] = dict(stem=deep_stem, skip=pooled_projection)
_cbam = functools.partial(CBAM, name="cbam")

VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18": dict(stage_sizes=_LAYERS_18, branch=basic),
    "resnet34": dict(stage_sizes=_LAYERS_34, branch=basic),
    "resnet50": dict(stage_sizes=_LAYERS_50, branch=bottleneck),
    "resnet101": dict(stage_sizes=_LAYERS_101, branch=bottleneck),
    "resnet152": dict(stage_sizes=_LAYERS_152, branch=bottleneck),
    "resnext50_32x4d": dict(stage_sizes=_LAYERS_50, branch=_bottleneck_32x4d),
    "resnext101_32x4d": dict(stage_sizes=_LAYERS_101, branch=_bottleneck_32x4d),
    "resnext101_32x8d": dict(stage_sizes=_LAYERS_101, branch=_bottleneck_32x8d),
    "resnext101_64x4d": dict(stage_sizes=_LAYERS_101, branch=_bottleneck_64x4d),
    "wide_resnet50_2": dict(stage_sizes=_LAYERS_50, branch=functools.partial(bottleneck, base_width=128)),
    "se_resnet50": dict(stage_sizes=_LAYERS_50, branch=bottleneck, attention=_se),
    "se_resnet101": dict(stage_sizes=_LAYERS_101, branch=bottleneck, attention=_se),
    "se_resnet152": dict(stage_sizes=_LAYERS_152, branch=bottleneck, attention=_se),
    "se_resnext50_32x4d": dict(stage_sizes=_LAYERS_50, branch=_bottleneck_32x4d, attention=_se),
    "se_resnext101_32x4d": dict(stage_sizes=_LAYERS_101, branch=_bottleneck_32x4d, attention=_se),
    "resnet18_bam": dict(stage_sizes=_LAYERS_18, branch=basic, stage_attention=BAM),
    "resnet50_bam": dict(stage_sizes=_LAYERS_50, branch=bottleneck, stage_attention=BAM),
    "resnet18_cbam": dict(stage_sizes=_LAYERS_18, branch=basic, attention=_cbam),
    "resnet50_cbam": dict(stage_sizes=_LAYERS_50, branch=bottleneck, attention=_cbam),
    "resnet18_cifar": dict(stage_sizes=_LAYERS_18, branch=basic, stem=cifar_stem),
    "resnet18d": dict(stage_sizes=_LAYERS_18, branch=basic, **_D),
    "resnet34d": dict(stage_sizes=_LAYERS_34, branch=basic, **_D),
    "resnet26d": dict(stage_sizes=_LAYERS_18, branch=bottleneck, **_D),
    "resnet50d": dict(stage_sizes=_LAYERS_50, branch=bottleneck, **_D),
    "resnet101d": dict(stage_sizes=_LAYERS_101, branch=bottleneck, **_D),
    "resnet152d": dict(stage_sizes=_LAYERS_152, branch=bottleneck, **_D),
    "resnet200d": dict(stage_sizes=_LAYERS_200, branch=bottleneck, **_D),
    "resnet34_iic": dict(stage_sizes=_LAYERS_34, branch=basic, stem=iic_stem),
}


def build(variant: str, **fields: Any) -> ResNet:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `ResNet`, which take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return ResNet(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final linear layer."""
    del variant
    return "fc"
