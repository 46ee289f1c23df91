"""MobileNetV2: inverted residual blocks, narrow between and wide inside, with linear bottlenecks.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv 1801.04381 (2018), table 2.

"mobilenet_v2" has PyTorch's symmetric padding and BatchNorm. "mobilenet_v2_tf" is TensorFlow's network, with
SAME padding and epsilon 1e-3, which Hugging Face calls "google/mobilenet_v2_1.0_224". "mobilenet_v2_folded"
is the form of the weights that TensorFlow published, with every BatchNorm folded into the convolution before
it (so convolutions have biases and there is no norm), SAME padding, and images in [-1, 1]; files with
TensorFlow's names and layouts are read too. The dropout (0.2) before the classifier belongs to the head.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.conv_unit import PADDINGS, conv_norm, round_channels
from imgcls_jax.layers.convolution import he_fan_out
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import batch_norm
from imgcls_jax.layers.renaming import with_modules_renamed
from imgcls_jax.layers.variants import choose_variant

# Expansion, output channels, repeats and stride of the first repeat (table 2).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
LAST_CHANNELS = 1280
TF_SCOPE = "MobilenetV2/"


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, 1x1 linear projection; a shortcut where shapes allow it.

    Attributes:
      channels: of the output.
      expansion: width inside over width of the input; 1 leaves the expansion out.
      strides: of the depthwise convolution.
      padding: "torch" or "tf".
      norm: constructor of a norm layer, or None: biases instead.
      dtype: of the computation.
    """

    channels: int
    expansion: int
    strides: int
    padding: str = "torch"
    norm: Any = batch_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h', w', channels], h' = ceil(h / strides)."""
        unit = functools.partial(
            conv_norm, train=train, norm=self.norm, kernel_init=he_fan_out, dtype=self.dtype
        )
        wide = self.expansion * x.shape[-1]
        y, layer = x, 0
        if self.expansion != 1:
            y = unit(y, wide, names=("conv.0.0", "conv.0.1"))
            y, layer = nn.relu6(y), 1
        y = unit(
            y,
            wide,
            names=(f"conv.{layer}.0", f"conv.{layer}.1"),
            kernel=3,
            strides=self.strides,
            depthwise=True,
            padding=PADDINGS[self.padding],
        )
        y = nn.relu6(y)  # [B, h', w', wide]
        names = (f"conv.{layer + 1}", f"conv.{layer + 2}")
        y = unit(y, self.channels, names=names)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      width: multiplier of the channels; below 1 the last convolution keeps its 1280.
      padding: "torch" pads both sides equally, "tf" as TensorFlow's SAME does.
      norm: constructor of a norm layer that takes use_running_average, dtype and name; None for convolutions
        with biases and no norm.
      dtype: of the computation; params stay float32.
    """

    width: float = 1.0
    padding: str = "torch"
    norm: Any = batch_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized.
          train: BatchNorm uses the batch's statistics and moves its running ones.

        Returns:
          Features: map [B, ceil(H / 32), ceil(W / 32), 1280], embedding [B, 1280], its mean over positions.

        Raises:
          ValueError: an unknown padding.
        """
        if self.padding not in PADDINGS:
            raise ValueError(f"padding of MobileNetV2 is one of {', '.join(PADDINGS)}; got {self.padding!r}")
        unit = functools.partial(
            conv_norm, train=train, norm=self.norm, kernel_init=he_fan_out, dtype=self.dtype
        )
        x = unit(
            images,
            round_channels(self.width * STEM_CHANNELS),
            names=("features.0.0", "features.0.1"),
            kernel=3,
            strides=2,
            padding=PADDINGS[self.padding],
        )
        x, index = nn.relu6(x), 1  # [B, H / 2, W / 2, 32]
        for expansion, channels, repeats, strides in STAGES:
            for repeat in range(repeats):
                x = InvertedResidual(
                    round_channels(self.width * channels),
                    expansion,
                    strides if repeat == 0 else 1,
                    self.padding,
                    self.norm,
                    self.dtype,
                    name=f"features.{index}",
                )(x, train)
                index += 1
        names = (f"features.{index}.0", f"features.{index}.1")
        last = round_channels(max(1.0, self.width) * LAST_CHANNELS)
        x = nn.relu6(unit(x, last, names=names))  # [B, h, w, 1280]
        return Features(x, jnp.mean(x, axis=(1, 2)))


VARIANTS: dict[str, dict[str, Any]] = {
    "mobilenet_v2": {},
    "mobilenet_v2_tf": dict(padding="tf", norm=functools.partial(batch_norm, epsilon=1e-3)),
    "mobilenet_v2_folded": dict(padding="tf", norm=None),
}


def build(variant: str, **fields: Any) -> MobileNetV2:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `MobileNetV2`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return MobileNetV2(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final linear layer."""
    return "classifier.1"


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings TensorFlow's names and layouts, and timm's names, to torchvision's; others pass as they are.

    Of 1001 outputs the first, TensorFlow's class "background", is left out, so that class k is output k + 1
    of the file and the number of classes is ImageNet's 1000.

    Args:
      arrays: {"MobilenetV2/expanded_conv_1/expand/w": [O, h, w, I], depthwise [1, h, w, C], ".../b": [O]}.
      variant: a key of `VARIANTS`.

    Returns:
      {"features.2.conv.0.0.weight": [O, I, h, w], ...}.

    Raises:
      ValueError: such arrays for a variant with BatchNorm, which they are without.
    """
    if not all(name.startswith(TF_SCOPE) for name in arrays):
        return with_modules_renamed(arrays, dict(_timm_names()))
    if variant != "mobilenet_v2_folded":
        raise ValueError(
            f"TensorFlow's folded weights have no BatchNorm and {variant!r} has; take 'mobilenet_v2_folded'"
        )
    return dict(_from_tensorflow(name.removeprefix(TF_SCOPE), array) for name, array in arrays.items())


def timm_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings torchvision's names to timm's, the inverse of `import_weights` for its names."""
    del variant
    names = dict(_timm_names())
    return with_modules_renamed(arrays, {ours: theirs for theirs, ours in names.items()})


def _timm_names() -> Iterator[tuple[str, str]]:
    """Yields a module's name in timm, and torchvision's."""
    last = 1 + sum(repeats for _, _, repeats, _ in STAGES)
    ends = ("features.0.0", "features.0.1", f"features.{last}.0", f"features.{last}.1", "classifier.1")
    yield from zip(("conv_stem", "bn1", "conv_head", "bn2", "classifier"), ends, strict=True)
    index = 1
    for stage, (expansion, _, repeats, _) in enumerate(STAGES):
        layers: tuple[str, ...] = ("conv_dw", "bn1", "conv_pw", "bn2")
        ours: tuple[str, ...] = ("0.0", "0.1", "1", "2")
        if expansion != 1:
            layers = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
            ours = ("0.0", "0.1", "1.0", "1.1", "2", "3")
        for repeat in range(repeats):
            for layer, own in zip(layers, ours, strict=True):
                yield f"blocks.{stage}.{repeat}.{layer}", f"features.{index}.conv.{own}"
            index += 1


def _from_tensorflow(name: str, array: Any) -> tuple[str, Any]:
    """Returns PyTorch's name and layout of one of TensorFlow's arrays."""
    module, leaf = name.rsplit("/", 1)
    block = re.fullmatch(r"expanded_conv(?:_(\d+))?/(expand|depthwise|project)", module)
    if block:
        number = int(block[1] or 0)  # block 0 has no expansion, so its layers count from one less
        layer = ("expand", "depthwise", "project").index(block[2]) - (number == 0)
        module = f"features.{number + 1}.conv.{layer}{'' if block[2] == 'project' else '.0'}"
    else:
        named = {"Conv": "features.0.0", "Conv_1": "features.18.0", "Logits/Conv2d_1c_1x1": "classifier.1"}
        module = named.get(module, module)
    if module == "classifier.1":
        array = array[1:] if len(array) == 1001 else array
        array = array.reshape(array.shape[0], -1) if leaf == "w" else array
    elif leaf == "w":
        array = array.transpose(3, 0, 1, 2) if "depthwise" in name else array.transpose(0, 3, 1, 2)
    return f"{module}.{'weight' if leaf == 'w' else 'bias'}", array
