"""RegNetX and RegNetY: residual networks whose widths follow a quantized line; Y has squeeze-and-excitation.

Radosavovic et al., "Designing Network Design Spaces", arXiv 2003.13678 (2020), eq. 2 to 4 and appendix B.

Of the widths that their groups do not divide, torchvision rounds none down by more than a tenth, the paper's
code to the nearest. The names "regnet_x_400mf" and so on are torchvision's networks, "regnetx_004" and so on
the paper's and timm's, of the sizes where the two differ or torchvision has none.
Files may have the names of torchvision or timm.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.attention import SqueezeExcitation
from imgcls_jax.layers.conv_unit import round_channels
from imgcls_jax.layers.convolution import Conv, he_fan_out
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import batch_norm, choose_norm
from imgcls_jax.layers.renaming import inside, renamed
from imgcls_jax.layers.variants import choose_variant

STEM_CHANNELS = 32
QUANTUM = 8  # widths are multiples of it
SQUEEZE_RATIO = 0.25  # of a block's input channels


class Block(nn.Module):
    """ReLU(skip(x) + branch(x)): convolutions 1x1, 3x3 of groups and 1x1.

    Attributes:
      channels: of the output, and inside.
      group: channels of a group.
      strides: of the 3x3 convolution.
      gated: with squeeze-and-excitation.
      conv: constructor of a convolution without bias.
      norm: constructor of a norm layer that takes a name.
      dtype: of the computation; params stay float32.
    """

    channels: int
    group: int
    strides: int
    gated: bool
    conv: Any
    norm: Any
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h', w', channels], h' = ceil(h / strides)."""

        def unit(x: jax.Array, name: str, size: int = 1, **options: Any) -> jax.Array:
            conv = self.conv(self.channels, (size, size), padding=size // 2, name=f"{name}.0", **options)
            return self.norm(name=f"{name}.1")(conv(x))

        groups = self.channels // self.group
        y = nn.relu(unit(x, "f.a"))
        y = nn.relu(unit(y, "f.b", 3, strides=self.strides, feature_group_count=groups))
        if self.gated:
            squeeze = round(SQUEEZE_RATIO * x.shape[-1])
            y = SqueezeExcitation(width=squeeze, dtype=self.dtype, name="f.se")(y)
        y = unit(y, "f.c")
        return nn.relu((x if x.shape == y.shape else unit(x, "proj", strides=self.strides)) + y)


class RegNet(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      depth: number of blocks.
      first_width: w_0, of the line's begin.
      slope: w_a, by how much each block is wider.
      step: w_m, the ratio of the widths of neighboring stages.
      group: channels of a group.
      gated: with squeeze-and-excitation: RegNetY.
      nearest: widths that the groups do not divide are rounded to the nearest; else torchvision's way.
      norm: constructor of a norm layer that takes use_running_average, dtype and name, or a name.
      dtype: of the computation; params stay float32.
      remat: compute each block's activations again in the backward pass instead of keeping them.
    """

    depth: int
    first_width: int
    slope: float
    step: float
    group: int
    gated: bool = False
    nearest: bool = False
    norm: Any = batch_norm
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized.
          train: the norm uses the batch's statistics and moves its running ones.

        Returns:
          Features: map [B, ceil(H / 32), ceil(W / 32), D], embedding [B, D], its mean; D the last width.
        """
        conv = functools.partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        norm = functools.partial(choose_norm(self.norm), use_running_average=not train, dtype=self.dtype)
        block_type = nn.remat(Block) if self.remat else Block
        x = conv(STEM_CHANNELS, (3, 3), strides=2, padding=1, name="stem.0")(images)
        x = nn.relu(norm(name="stem.1")(x))
        for stage, (channels, group, depth) in enumerate(self.stages(), start=1):
            for i in range(depth):
                name = f"trunk_output.block{stage}.block{stage}-{i}"
                strides = 2 if i == 0 else 1
                block = block_type(channels, group, strides, self.gated, conv, norm, self.dtype, name=name)
                x = block(x)
        return Features(x, jnp.mean(x, axis=(1, 2)))

    def stages(self) -> list[tuple[int, int, int]]:
        """Returns channels, channels of a group, and number of blocks, of each stage."""
        widths = []
        for block in range(self.depth):
            power = round(math.log(1 + self.slope * block / self.first_width) / math.log(self.step))
            widths.append(round(self.first_width * self.step**power / QUANTUM) * QUANTUM)
        stages = []
        for width in sorted(set(widths)):
            group = min(self.group, width)
            even = round(width / group) * group if self.nearest else round_channels(width, group)
            stages.append((even, group, widths.count(width)))
        return stages


def _line(depth: int, first_width: int, slope: float, step: float, group: int) -> dict[str, Any]:
    return dict(depth=depth, first_width=first_width, slope=slope, step=step, group=group)


_X400, _Y800, _Y8000 = (22, 24, 24.48, 2.54, 16), (14, 56, 38.84, 2.4, 16), (17, 192, 76.82, 2.19, 56)
_Y, _NEAREST = {"gated": True}, {"nearest": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "regnet_x_400mf": _line(*_X400),
    "regnet_x_800mf": _line(16, 56, 35.73, 2.28, 16),
    "regnet_x_1_6gf": _line(18, 80, 34.01, 2.25, 24),
    "regnet_x_3_2gf": _line(25, 88, 26.31, 2.25, 48),
    "regnet_x_8gf": _line(23, 80, 49.56, 2.88, 120),
    "regnet_x_16gf": _line(22, 216, 55.59, 2.1, 128),
    "regnet_x_32gf": _line(23, 320, 69.86, 2.0, 168),
    "regnet_y_400mf": _line(16, 48, 27.89, 2.09, 8) | _Y,
    "regnet_y_800mf": _line(*_Y800) | _Y,
    "regnet_y_1_6gf": _line(27, 48, 20.71, 2.65, 24) | _Y,
    "regnet_y_3_2gf": _line(21, 80, 42.63, 2.66, 24) | _Y,
    "regnet_y_8gf": _line(*_Y8000) | _Y,
    "regnet_y_16gf": _line(18, 200, 106.23, 2.48, 112) | _Y,
    "regnet_y_32gf": _line(20, 232, 115.89, 2.53, 232) | _Y,
    "regnet_y_128gf": _line(27, 456, 160.83, 2.52, 264) | _Y,
    "regnetx_002": _line(13, 24, 36.44, 2.49, 8) | _NEAREST,
    "regnetx_004": _line(*_X400) | _NEAREST,
    "regnetx_006": _line(16, 48, 36.97, 2.24, 24) | _NEAREST,
    "regnetx_040": _line(23, 96, 38.65, 2.43, 40) | _NEAREST,
    "regnetx_064": _line(17, 184, 60.83, 2.07, 56) | _NEAREST,
    "regnetx_120": _line(19, 168, 73.36, 2.37, 112) | _NEAREST,
    "regnety_002": _line(13, 24, 36.44, 2.49, 8) | _Y | _NEAREST,
    "regnety_006": _line(15, 48, 32.54, 2.32, 16) | _Y | _NEAREST,
    "regnety_008": _line(*_Y800) | _Y | _NEAREST,
    "regnety_040": _line(22, 96, 31.41, 2.24, 64) | _Y | _NEAREST,
    "regnety_064": _line(25, 112, 33.22, 2.27, 72) | _Y | _NEAREST,
    "regnety_080": _line(*_Y8000) | _Y | _NEAREST,
    "regnety_120": _line(19, 168, 73.36, 2.37, 112) | _Y | _NEAREST,
}


def build(variant: str, **fields: Any) -> RegNet:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `RegNet`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return RegNet(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final linear layer."""
    return "fc"


_UNIT = (("conv.", "0."), ("bn.", "1."))
_BLOCK = (
    *inside("conv1.", "f.a.", _UNIT),
    *inside("conv2.", "f.b.", _UNIT),
    *inside("conv3.", "f.c.", _UNIT),
    *inside("downsample.", "proj.", _UNIT),
    ("se.", "f.se."),
)
NAMES = (  # of timm
    *inside("stem.", "stem.", _UNIT),
    *inside("s{s}.b{b+1}.", "trunk_output.block{s}.block{s}-{b}.", _BLOCK),
    ("head.fc.", "fc."),
)


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings the names of timm to torchvision's.

    Args:
      arrays: {"s1.b1.conv1.conv.weight": [O, I, h, w], ...}; arrays of other names pass as they are.
      variant: a key of `VARIANTS`.

    Returns:
      {"trunk_output.block1.block1-0.f.a.0.weight": [O, I, h, w], ...}.
    """
    del variant
    return {renamed(name, NAMES): array for name, array in arrays.items()}


def timm_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings torchvision's names to timm's, the inverse of `import_weights`."""
    del variant
    return {renamed(name, NAMES, back=True): array for name, array in arrays.items()}
