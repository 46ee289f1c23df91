"""EfficientNetV2-S, -M, -L and -XL: EfficientNet's blocks, with fused convolutions in the first stages.

Tan and Le, "EfficientNetV2: Smaller Models and Faster Training", arXiv 2104.00298 (2021), table 4; M, L and
XL as in the released code. They are trained on small images and meant for larger ones: S 300 then 384 pixels,
the others 384 then 480. BatchNorm has epsilon 1e-3. The dropout before the final classifier (0.2 for S, 0.3
for M, 0.4 for L and XL) belongs to the head.

"efficientnet_v2_s" and so on have PyTorch's symmetric padding; "tf_efficientnetv2_s" and so on, the names of
timm, have TensorFlow's, in which the released weights were trained. Files may have the names of torchvision
or timm. timm's efficientnetv2_rw_... are other networks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.conv_unit import PADDINGS, ConvUnit
from imgcls_jax.layers.convolution import he_fan_out
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import inception_norm
from imgcls_jax.layers.renaming import with_modules_renamed
from imgcls_jax.layers.stochastic_depth import drop_branch
from imgcls_jax.layers.variants import choose_variant
from imgcls_jax.models.efficientnet import MBConv

FUSED, GATED = "fused", "gated"
# Kind, expansion, stride of the first repeat, output channels and repeats of each stage.
Stage = tuple[str, int, int, int, int]
LAST_CHANNELS = 1280
# The layers of a block in timm: a convolution and its norm each, or the gate's two layers.
TIMM_NAMES = {
    (FUSED, 1): (("conv", "bn1"),),
    (FUSED, 4): (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
    (GATED, 4): (
        ("conv_pw", "bn1"),
        ("conv_dw", "bn2"),
        ("se.conv_reduce", "se.conv_expand"),
        ("conv_pwl", "bn3"),
    ),
}
TIMM_NAMES[GATED, 6] = TIMM_NAMES[GATED, 4]


class FusedMBConv(nn.Module):
    """A 3x3 convolution that expands, a linear projection; a shortcut where shapes allow it.

    Attributes:
      channels: of the output.
      expansion: width inside over width of the input; with 1 the 3x3 convolution is all there is.
      strides: of the 3x3 convolution.
      stochastic_depth: probability of dropping the branch for one image, where there is a shortcut.
      padding: "torch" or "tf".
      norm: constructor of a norm layer.
      dtype: of the computation.
    """

    channels: int
    expansion: int
    strides: int
    stochastic_depth: float = 0.0
    padding: str = "torch"
    norm: Any = inception_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h', w', channels], h' = ceil(h / strides)."""
        unit = _unit(self.padding, self.norm, self.dtype)
        wide = self.channels if self.expansion == 1 else self.expansion * x.shape[-1]
        y = unit(wide, 3, self.strides, activation=nn.swish, name="block.0")(x, train)
        if self.expansion != 1:
            y = unit(self.channels, name="block.1")(y, train)
        if x.shape != y.shape or self.strides != 1:
            return y
        return x + drop_branch(y, self.stochastic_depth, train=train)


class EfficientNetV2(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      stages: kind of the blocks ("fused" or "gated"), expansion, stride of the first, channels and number, of
        each stage.
      stochastic_depth: block i of N is dropped with probability stochastic_depth * i / N, i from 0.
      padding: "torch" pads both sides equally, "tf" as TensorFlow's SAME does.
      remat: recompute each block in the backward pass instead of keeping what is inside it.
      norm: constructor of a norm layer that takes use_running_average, dtype and name.
      dtype: of the computation; params stay float32.
    """

    stages: tuple[Stage, ...]
    stochastic_depth: float = 0.2
    padding: str = "torch"
    remat: bool = False
    norm: Any = inception_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized.
          train: BatchNorm uses the batch's statistics and moves its running ones; stochastic depth is on.

        Returns:
          Features: map [B, ceil(H / 32), ceil(W / 32), 1280] and embedding [B, 1280], its mean.

        Raises:
          ValueError: an unknown padding.
        """
        if self.padding not in PADDINGS:
            raise ValueError(
                f"padding of EfficientNetV2 is one of {', '.join(PADDINGS)}; got {self.padding!r}"
            )
        unit = functools.partial(_unit(self.padding, self.norm, self.dtype), activation=nn.swish)
        again = (
            functools.partial(nn.remat, static_argnums=(2,)) if self.remat else lambda block_type: block_type
        )
        kinds: dict[str, Any] = {FUSED: again(FusedMBConv), GATED: functools.partial(again(MBConv), size=3)}
        x = unit(self.stages[0][3], 3, 2, name="features.0")(images, train)  # [B, H / 2, W / 2, C]
        blocks, index = sum(stage[-1] for stage in self.stages), 0
        for number, (kind, expansion, strides, channels, repeats) in enumerate(self.stages, start=1):
            for repeat in range(repeats):
                x = kinds[kind](
                    channels=channels,
                    expansion=expansion,
                    strides=strides if repeat == 0 else 1,
                    stochastic_depth=self.stochastic_depth * index / blocks,
                    padding=self.padding,
                    norm=self.norm,
                    dtype=self.dtype,
                    name=f"features.{number}.{repeat}",
                )(x, train)
                index += 1
        x = unit(LAST_CHANNELS, name=f"features.{len(self.stages) + 1}")(x, train)
        return Features(x, jnp.mean(x, axis=(1, 2)))


def _unit(padding: str, norm: Any, dtype: Any) -> Any:
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


def _stages(channels: tuple[int, ...], repeats: tuple[int, ...]) -> dict[str, Any]:
    """Returns the field `stages`; all networks differ in channels and repeats alone."""
    kinds = (
        (FUSED, 1, 1),
        (FUSED, 4, 2),
        (FUSED, 4, 2),
        (GATED, 4, 2),
        (GATED, 6, 1),
        (GATED, 6, 2),
        (GATED, 6, 1),
    )
    return {"stages": tuple((*kind, c, n) for kind, c, n in zip(kinds, channels, repeats, strict=False))}


_SIZES = {
    "s": _stages((24, 48, 64, 128, 160, 256), (2, 4, 4, 6, 9, 15)),
    "m": _stages((24, 48, 80, 160, 176, 304, 512), (3, 5, 5, 7, 14, 18, 5)),
    "l": _stages((32, 64, 96, 192, 224, 384, 640), (4, 7, 7, 10, 19, 25, 7)),
    "xl": _stages((32, 64, 96, 192, 256, 512, 640), (4, 8, 8, 16, 24, 32, 8)),
}
VARIANTS: dict[str, dict[str, Any]] = {f"efficientnet_v2_{size}": fields for size, fields in _SIZES.items()}
VARIANTS |= {f"tf_efficientnetv2_{size}": fields | {"padding": "tf"} for size, fields in _SIZES.items()}


def build(variant: str, **fields: Any) -> EfficientNetV2:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `EfficientNetV2`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return EfficientNetV2(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final linear layer."""
    return "classifier.1"


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings the names of timm to torchvision's.

    Args:
      arrays: {"blocks.0.0.conv.weight": [O, I, h, w], ...}; arrays of other names pass as they are.
      variant: a key of `VARIANTS`.

    Returns:
      {"features.1.0.block.0.0.weight": [O, I, h, w], ...}.
    """
    return with_modules_renamed(arrays, dict(_timm_names(VARIANTS[variant]["stages"])))


def timm_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings torchvision's names to timm's, the inverse of `import_weights` for its names."""
    names = dict(_timm_names(VARIANTS[variant]["stages"]))
    return with_modules_renamed(arrays, {ours: theirs for theirs, ours in names.items()})


def _timm_names(stages: tuple[Stage, ...]) -> Iterator[tuple[str, str]]:
    """Yields a module's name in timm, and torchvision's."""
    last = f"features.{len(stages) + 1}"
    ends = ("features.0.0", "features.0.1", f"{last}.0", f"{last}.1", torch_head(""))
    yield from zip(("conv_stem", "bn1", "conv_head", "bn2", "classifier"), ends, strict=True)
    for number, (kind, expansion, _, _, repeats) in enumerate(stages, start=1):
        for repeat in range(repeats):
            for place, pair in enumerate(TIMM_NAMES[kind, expansion]):
                for theirs, ours in zip(
                    pair, ("fc1", "fc2") if "se." in pair[0] else ("0", "1"), strict=True
                ):
                    yield (
                        f"blocks.{number - 1}.{repeat}.{theirs}",
                        f"features.{number}.{repeat}.block.{place}.{ours}",
                    )
