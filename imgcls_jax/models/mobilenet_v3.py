"""MobileNetV3-Large and -Small: inverted residual blocks found by search, with hard activations.

Howard et al., "Searching for MobileNetV3", arXiv 1905.02244 (2019), tables 1 and 2. The layer of 1280 or 1024
channels after the mean belongs to the backbone, the dropout (0.2) before the final classifier to the head.

The variants differ in BatchNorm's epsilon and in padding, and weights run in their own form alone:
"mobilenet_v3_large" is torchvision's (epsilon 1e-3, symmetric), "mobilenetv3_large_100" timm's (1e-5,
symmetric), "tf_mobilenetv3_large_100" TensorFlow's (1e-3, SAME); the small ones likewise. Files may have the
names of torchvision or timm.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.attention import SqueezeExcitation
from imgcls_jax.layers.conv_unit import PADDINGS, conv_norm, round_channels
from imgcls_jax.layers.convolution import he_fan_out
from imgcls_jax.layers.dense import Linear
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import batch_norm
from imgcls_jax.layers.renaming import with_modules_renamed
from imgcls_jax.layers.variants import choose_variant

STEM_CHANNELS = 16
SQUEEZE_REDUCTION = 4  # of a block's inner channels
LAST_EXPANSION = 6  # of the last block's output
torch_norm = functools.partial(batch_norm, momentum=0.99, epsilon=1e-3)  # torchvision's and TensorFlow's


class Row(NamedTuple):
    """A block: a row of the paper's tables.

    Attributes:
      stage: which of timm's stages it belongs to.
      size, strides: of the depthwise convolution.
      expanded: channels inside.
      channels: of the output.
      gated: with squeeze-and-excitation.
      hard: hard swish; else ReLU.
    """

    stage: int
    size: int
    strides: int
    expanded: int
    channels: int
    gated: bool
    hard: bool


LARGE = (
    Row(0, 3, 1, 16, 16, False, False),
    Row(1, 3, 2, 64, 24, False, False),
    Row(1, 3, 1, 72, 24, False, False),
    Row(2, 5, 2, 72, 40, True, False),
    Row(2, 5, 1, 120, 40, True, False),
    Row(2, 5, 1, 120, 40, True, False),
    Row(3, 3, 2, 240, 80, False, True),
    Row(3, 3, 1, 200, 80, False, True),
    Row(3, 3, 1, 184, 80, False, True),
    Row(3, 3, 1, 184, 80, False, True),
    Row(4, 3, 1, 480, 112, True, True),
    Row(4, 3, 1, 672, 112, True, True),
    Row(5, 5, 2, 672, 160, True, True),
    Row(5, 5, 1, 960, 160, True, True),
    Row(5, 5, 1, 960, 160, True, True),
)
SMALL = (
    Row(0, 3, 2, 16, 16, True, False),
    Row(1, 3, 2, 72, 24, False, False),
    Row(1, 3, 1, 88, 24, False, False),
    Row(2, 5, 2, 96, 40, True, True),
    Row(2, 5, 1, 240, 40, True, True),
    Row(2, 5, 1, 240, 40, True, True),
    Row(3, 5, 1, 120, 48, True, True),
    Row(3, 5, 1, 144, 48, True, True),
    Row(4, 5, 2, 288, 96, True, True),
    Row(4, 5, 1, 576, 96, True, True),
    Row(4, 5, 1, 576, 96, True, True),
)


class Block(nn.Module):
    """1x1 expansion, depthwise convolution, gate, 1x1 linear projection; a shortcut where shapes allow it.

    Attributes:
      row: what it is; channels are those of width 1.
      width: multiplier of the channels.
      padding: "torch" or "tf".
      norm: constructor of a norm layer.
      dtype: of the computation.
    """

    row: Row
    width: float
    padding: str
    norm: Any
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h', w', D], h' = ceil(h / strides)."""
        row = self.row
        unit = functools.partial(
            conv_norm,
            train=train,
            norm=self.norm,
            padding=PADDINGS[self.padding],
            kernel_init=he_fan_out,
            dtype=self.dtype,
        )
        activation = nn.hard_swish if row.hard else nn.relu
        expanded, channels = (round_channels(self.width * c) for c in (row.expanded, row.channels))
        y, layer = x, 0
        if expanded != x.shape[-1]:
            y, layer = activation(unit(y, expanded, names=("block.0.0", "block.0.1"))), 1
        names = (f"block.{layer}.0", f"block.{layer}.1")
        y = unit(y, expanded, row.size, strides=row.strides, depthwise=True, names=names)
        y, layer = activation(y), layer + 1  # [B, h', w', expanded]
        if row.gated:
            gate = SqueezeExcitation(
                width=round_channels(expanded // SQUEEZE_REDUCTION),
                gate=nn.hard_sigmoid,
                dtype=self.dtype,
                name=f"block.{layer}",
            )
            y, layer = gate(y), layer + 1
        y = unit(y, channels, names=(f"block.{layer}.0", f"block.{layer}.1"))
        return x + y if x.shape == y.shape else y


class MobileNetV3(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      rows: the blocks.
      last_channels: D, of the layer after the mean.
      width: multiplier of the channels.
      padding: "torch" pads both sides equally, "tf" as TensorFlow's SAME does.
      remat: recompute each block in the backward pass instead of keeping what is inside it.
      norm: constructor of a norm layer that takes use_running_average, dtype and name.
      dtype: of the computation; params stay float32.
    """

    rows: tuple[Row, ...]
    last_channels: int
    width: float = 1.0
    padding: str = "torch"
    remat: bool = False
    norm: Any = torch_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized.
          train: BatchNorm uses the batch's statistics and moves its running ones.

        Returns:
          Features: map [B, ceil(H / 32), ceil(W / 32), C'], C' 960 or 576, and embedding [B, D], D 1280 or
          1024, of a layer that reads the map's mean.

        Raises:
          ValueError: an unknown padding.
        """
        if self.padding not in PADDINGS:
            raise ValueError(f"padding of MobileNetV3 is one of {', '.join(PADDINGS)}; got {self.padding!r}")
        unit = functools.partial(
            conv_norm,
            train=train,
            norm=self.norm,
            padding=PADDINGS[self.padding],
            kernel_init=he_fan_out,
            dtype=self.dtype,
        )
        block_type = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        stem = round_channels(self.width * STEM_CHANNELS)
        x = nn.hard_swish(unit(images, stem, 3, strides=2, names=("features.0.0", "features.0.1")))
        for index, row in enumerate(self.rows, start=1):
            block = block_type(row, self.width, self.padding, self.norm, self.dtype, name=f"features.{index}")
            x = block(x, train)
        name = f"features.{len(self.rows) + 1}"
        x = nn.hard_swish(unit(x, LAST_EXPANSION * x.shape[-1], names=(f"{name}.0", f"{name}.1")))
        last = Linear(
            round_channels(self.width * self.last_channels),
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(0.01),
            name="classifier.0",
        )
        return Features(x, nn.hard_swish(last(jnp.mean(x, axis=(1, 2)))))


_SIZES: dict[str, dict[str, Any]] = {
    "large": dict(rows=LARGE, last_channels=1280),
    "small": dict(rows=SMALL, last_channels=1024),
}
VARIANTS: dict[str, dict[str, Any]] = {f"mobilenet_v3_{size}": fields for size, fields in _SIZES.items()}
VARIANTS |= {f"mobilenetv3_{size}_100": fields | {"norm": batch_norm} for size, fields in _SIZES.items()}
VARIANTS |= {f"tf_mobilenetv3_{size}_100": fields | {"padding": "tf"} for size, fields in _SIZES.items()}


def build(variant: str, **fields: Any) -> MobileNetV3:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `MobileNetV3`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return MobileNetV3(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final linear layer."""
    return "classifier.3"


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings the names of timm to torchvision's, and its layer after the mean from a 1x1 convolution's shape.

    Args:
      arrays: {"blocks.0.0.conv_dw.weight": [C, 1, h, w], ...}; arrays of other names pass as they are.
      variant: a key of `VARIANTS`.

    Returns:
      {"features.1.block.0.0.weight": [C, 1, h, w], ...}.
    """
    known = dict(_timm_names(VARIANTS[variant]["rows"]))
    found = {}
    for name, array in arrays.items():
        module, dot, leaf = name.rpartition(".")
        module = known.get(module, module)
        is_convolution = module == "classifier.0" and getattr(array, "ndim", 0) == 4
        found[f"{module}{dot}{leaf}"] = array[:, :, 0, 0] if is_convolution else array
    return found


def timm_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings torchvision's names and shapes to timm's, the inverse of `import_weights` for its names."""
    weight = "classifier.0.weight"
    shaped = {name: a[:, :, None, None] if name == weight else a for name, a in arrays.items()}
    names = dict(_timm_names(VARIANTS[variant]["rows"]))
    return with_modules_renamed(shaped, {ours: theirs for theirs, ours in names.items()})


def _timm_names(rows: tuple[Row, ...]) -> Iterator[tuple[str, str]]:
    """Yields a module's name in timm, and torchvision's."""
    yield from (("conv_stem", "features.0.0"), ("bn1", "features.0.1"))
    repeat = 0
    for index, row in enumerate(rows):
        repeat = repeat + 1 if index and rows[index - 1].stage == row.stage else 0
        theirs, ours = f"blocks.{row.stage}.{repeat}", f"features.{index + 1}.block"
        convolutions = ("conv_pw", "conv_dw", "conv_pwl") if index else ("conv_dw", "conv_pw")  # no expansion
        place = 0
        for number, convolution in enumerate(convolutions, start=1):
            if row.gated and number == len(convolutions):
                yield from (
                    (f"{theirs}.se.conv_{end}", f"{ours}.{place}.fc{i}")
                    for i, end in ((1, "reduce"), (2, "expand"))
                )
                place += 1
            yield from (
                (f"{theirs}.{convolution}", f"{ours}.{place}.0"),
                (f"{theirs}.bn{number}", f"{ours}.{place}.1"),
            )
            place += 1
    last = f"blocks.{rows[-1].stage + 1}.0", f"features.{len(rows) + 1}"
    yield from ((f"{last[0]}.conv", f"{last[1]}.0"), (f"{last[0]}.bn1", f"{last[1]}.1"))
    yield from (("conv_head", "classifier.0"), ("classifier", torch_head("")))
