"""EfficientNet-B0 to -B7 and -Lite0 to -Lite4: mobile inverted bottlenecks, scaled in width and depth.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv 1905.11946
(2019); the coefficients are those of the released code. B0 to B7 are meant for images of 224, 240, 260, 300,
380, 456, 528 and 600 pixels.

Two families of weights exist and neither runs in the other's form. The default is PyTorch's: symmetric
padding; BatchNorm with epsilon 1e-5 and momentum 0.9 for B0 to B4, 1e-3 and 0.99 for B5 to B7. For
TensorFlow's there are "tf_efficientnet_b0" to "tf_efficientnet_b7", as timm calls them; Hugging Face's
"google/efficientnet-b0" is one of them. The dropout before the final classifier (0.2 for B0 and B1, 0.3 for
B2 and B3, 0.4 for B4 and B5, 0.5 for B6 and B7) belongs to the head.

EfficientNet-Lite (efficientnet/lite in TensorFlow's tpu repository, 2020; no paper) has ReLU6 for swish and
no squeeze-and-excitation, and scales neither the stem and the last convolution nor the repeats of the first
and the last stage. Lite0 to Lite4 are meant for images of 224, 240, 260, 280 and 300 pixels, normalized by
(pixel - 127) / 128. Their weights are TensorFlow's, so padding="tf" and norm=tf_norm are their defaults. The
dropout is 0.2 for Lite0 and Lite1, 0.3 for the others.

State dicts of efficientnet_pytorch and efficientnet_lite_pytorch (`_conv_stem`, `_blocks.0`) and of timm
(`conv_stem`, `blocks.0.0`) are read too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.attention import SqueezeExcitation
from imgcls_jax.layers.conv_unit import PADDINGS, ConvUnit, round_channels
from imgcls_jax.layers.convolution import he_fan_out
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import batch_norm
from imgcls_jax.layers.renaming import with_modules_renamed
from imgcls_jax.layers.stochastic_depth import drop_branch
from imgcls_jax.layers.variants import choose_variant

# Expansion, kernel size, stride of the first repeat, output channels and repeats of B0 (table 1).
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM_CHANNELS = 32
LAST_CHANNELS = 1280
SQUEEZE_RATIO = 0.25  # of a block's input channels
# A depthwise kernel [k, k, 1, C] has k * k outputs a filter, which is its fan-in to JAX.
DEPTHWISE_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# The layers of a block: a convolution and its norm each, or the gate's two layers.
EFFICIENTNET_PYTORCH_NAMES = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "gate": ("_se_reduce", "_se_expand"),
    "project": ("_project_conv", "_bn2"),
}
TIMM_NAMES = {
    "expand": ("conv_pw", "bn1"),
    "depthwise": ("conv_dw", "bn2"),
    "gate": ("se.conv_reduce", "se.conv_expand"),
    "project": ("conv_pwl", "bn3"),
}
TIMM_FIRST_NAMES = {
    "depthwise": ("conv_dw", "bn1"),
    "gate": ("se.conv_reduce", "se.conv_expand"),
    "project": ("conv_pw", "bn2"),
}
tf_norm = functools.partial(batch_norm, momentum=0.99, epsilon=1e-3)


def _unit(padding: str, norm: Any, dtype: Any) -> Callable[..., ConvUnit]:
    """Returns the constructor of a convolution without bias and its norm, named "0" and "1"."""
    return functools.partial(
        ConvUnit,
        padding=PADDINGS[padding],
        norm=norm,
        activation=None,
        names=("0", "1"),
        kernel_init=he_fan_out,
        dtype=dtype,
    )


class MBConv(nn.Module):
    """Expansion, depthwise convolution, gate, linear projection; a shortcut where shapes allow it.

    Attributes:
      channels: of the output.
      expansion: width inside over width of the input; 1 leaves the expansion out.
      size, strides: of the depthwise convolution.
      stochastic_depth: probability of dropping the branch for one image, where there is a shortcut.
      lite: ReLU6 for swish, and no gate.
      padding: "torch" or "tf".
      norm: constructor of a norm layer.
      dtype: of the computation.
    """

    channels: int
    expansion: int
    size: int
    strides: int
    stochastic_depth: float = 0.0
    lite: bool = False
    padding: str = "torch"
    norm: Any = batch_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h', w', channels], h' = ceil(h / strides)."""
        unit = _unit(self.padding, self.norm, self.dtype)
        activation = nn.relu6 if self.lite else nn.swish
        wide = self.expansion * x.shape[-1]
        y, layer = x, 0
        if self.expansion != 1:
            y, layer = activation(unit(wide, name="block.0")(y, train)), 1
        depthwise = unit(
            wide,
            self.size,
            self.strides,
            depthwise=True,
            kernel_init=DEPTHWISE_INIT,
            name=f"block.{layer}",
        )
        y, layer = activation(depthwise(y, train)), layer + 1  # [B, h', w', wide]
        if not self.lite:
            squeeze = max(1, int(SQUEEZE_RATIO * x.shape[-1]))
            gate = SqueezeExcitation(
                width=squeeze, activation=activation, dtype=self.dtype, name=f"block.{layer}"
            )
            y, layer = gate(y), layer + 1
        y = unit(self.channels, name=f"block.{layer}")(y, train)
        if x.shape != y.shape or self.strides != 1:
            return y
        return x + drop_branch(y, self.stochastic_depth, train=train)


class EfficientNet(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      width: multiplier of B0's channels.
      depth: multiplier of B0's repeats, rounded up.
      stochastic_depth: block i of N is dropped with probability stochastic_depth * i / N, i from 0.
      lite: EfficientNet-Lite's blocks and rule of scaling.
      padding: "torch" pads both sides equally, "tf" as TensorFlow's SAME does.
      remat: recompute each block in the backward pass instead of keeping what is inside it.
      norm: constructor of a norm layer that takes use_running_average, dtype and name.
      dtype: of the computation; params stay float32.
    """

    width: float = 1.0
    depth: float = 1.0
    stochastic_depth: float = 0.2
    lite: bool = False
    padding: str = "torch"
    remat: bool = False
    norm: Any = batch_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized.
          train: BatchNorm uses the batch's statistics and moves its running ones; stochastic depth is on.

        Returns:
          Features: map [B, ceil(H / 32), ceil(W / 32), D] and embedding [B, D], its mean over positions; D is
          1280 times the width multiplier, and 1280 for Lite.

        Raises:
          ValueError: an unknown padding.
        """
        if self.padding not in PADDINGS:
            raise ValueError(f"padding of EfficientNet is one of {', '.join(PADDINGS)}; got {self.padding!r}")
        unit = _unit(self.padding, self.norm, self.dtype)
        activation = nn.relu6 if self.lite else nn.swish
        end_width = 1.0 if self.lite else self.width
        block_type = nn.remat(MBConv, static_argnums=(2,)) if self.remat else MBConv
        stem = unit(round_channels(end_width * STEM_CHANNELS), 3, 2, name="features.0")
        x, index = activation(stem(images, train)), 0  # [B, H / 2, W / 2, 32]
        drop_rates = self.drop_rates()
        for stage, (expansion, size, strides, channels, _) in enumerate(STAGES, start=1):
            for repeat in range(repeats_of(stage, self.depth, self.lite)):
                x = block_type(
                    round_channels(self.width * channels),
                    expansion,
                    size,
                    strides if repeat == 0 else 1,
                    drop_rates[index],
                    self.lite,
                    self.padding,
                    self.norm,
                    self.dtype,
                    name=f"features.{stage}.{repeat}",
                )(x, train)
                index += 1
        last = unit(round_channels(end_width * LAST_CHANNELS), name=f"features.{len(STAGES) + 1}")
        x = activation(last(x, train))  # [B, h, w, D]
        return Features(x, jnp.mean(x, axis=(1, 2)))

    def drop_rates(self) -> tuple[float, ...]:
        """Returns the probability of dropping each block's branch, in [0, stochastic_depth)."""
        blocks = sum(repeats_of(stage, self.depth, self.lite) for stage in range(1, len(STAGES) + 1))
        return tuple(self.stochastic_depth * index / blocks for index in range(blocks))


def repeats_of(stage: int, depth: float, lite: bool) -> int:
    """Returns how many blocks a stage has, stages counted from 1."""
    repeats = STAGES[stage - 1][-1]
    return repeats if lite and stage in (1, len(STAGES)) else math.ceil(depth * repeats)


_LITE: dict[str, Any] = dict(lite=True, padding="tf", norm=tf_norm)
# Width and depth multipliers.
VARIANTS: dict[str, dict[str, Any]] = {
    "efficientnet_b0": dict(width=1.0, depth=1.0),
    "efficientnet_b1": dict(width=1.0, depth=1.1),
    "efficientnet_b2": dict(width=1.1, depth=1.2),
    "efficientnet_b3": dict(width=1.2, depth=1.4),
    "efficientnet_b4": dict(width=1.4, depth=1.8),
    "efficientnet_b5": dict(width=1.6, depth=2.2, norm=tf_norm),
    "efficientnet_b6": dict(width=1.8, depth=2.6, norm=tf_norm),
    "efficientnet_b7": dict(width=2.0, depth=3.1, norm=tf_norm),
    "efficientnet_lite0": _LITE | dict(width=1.0, depth=1.0),
    "efficientnet_lite1": _LITE | dict(width=1.0, depth=1.1),
    "efficientnet_lite2": _LITE | dict(width=1.1, depth=1.2),
    "efficientnet_lite3": _LITE | dict(width=1.2, depth=1.4),
    "efficientnet_lite4": _LITE | dict(width=1.4, depth=1.8),
}
_OF_TENSORFLOW = {f"efficientnet_b{i}": dict(padding="tf", norm=tf_norm) for i in range(8)}
VARIANTS |= {f"tf_{name}": VARIANTS[name] | fields for name, fields in _OF_TENSORFLOW.items()}


def build(variant: str, **fields: Any) -> EfficientNet:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `EfficientNet`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return EfficientNet(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final linear layer."""
    return "classifier.1"


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings the names of efficientnet_pytorch, efficientnet_lite_pytorch and timm to torchvision's.

    Args:
      arrays: {"_blocks.0._depthwise_conv.weight": [C, 1, h, w], ...} or {"blocks.0.0.conv_dw.weight": ...};
        arrays of other names pass as they are.
      variant: a key of `VARIANTS`.

    Returns:
      {"features.1.0.block.0.0.weight": [C, 1, h, w], ...}.
    """
    known = {theirs: ours for others, ours in _other_names(variant) for theirs in others}
    return with_modules_renamed(arrays, known)


def timm_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings torchvision's names to timm's, the inverse of `import_weights` for its names."""
    return with_modules_renamed(arrays, {ours: timm for (_, timm), ours in _other_names(variant)})


def _other_names(variant: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yields a module's names in efficientnet_pytorch and timm, and torchvision's."""
    depth, lite = VARIANTS[variant]["depth"], VARIANTS[variant].get("lite", False)
    last = f"features.{len(STAGES) + 1}"
    yield from (
        (("_conv_stem", "conv_stem"), "features.0.0"),
        (("_bn0", "bn1"), "features.0.1"),
        (("_conv_head", "conv_head"), f"{last}.0"),
        (("_bn1", "bn2"), f"{last}.1"),
        (("_fc", "classifier"), torch_head("")),
    )
    index = 0
    for stage, (expansion, *_) in enumerate(STAGES, start=1):
        timm = TIMM_NAMES if expansion != 1 else TIMM_FIRST_NAMES
        layers = [layer for layer in timm if not (lite and layer == "gate")]
        for repeat in range(repeats_of(stage, depth, lite)):
            for place, layer in enumerate(layers):
                for part, name in enumerate(("fc1", "fc2") if layer == "gate" else ("0", "1")):
                    yield (
                        (
                            f"_blocks.{index}.{EFFICIENTNET_PYTORCH_NAMES[layer][part]}",
                            f"blocks.{stage - 1}.{repeat}.{timm[layer][part]}",
                        ),
                        f"features.{stage}.{repeat}.block.{place}.{name}",
                    )
            index += 1
