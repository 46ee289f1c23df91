"""ConvNeXt and ConvNeXt V2: convolutional networks with the form of a Transformer.

Liu et al., "A ConvNet for the 2020s", arXiv 2201.03545 (2022): patches of 4 x 4, depthwise convolutions of
7x7, an MLP at each position, LayerNorm, and a learned scale of each branch. Woo et al., "ConvNeXt V2",
arXiv 2301.00808 (2023): global response normalization inside the MLP in place of that scale.

The rates of stochastic depth are torchvision's, which are the paper's; those of V2 and of convnext_xlarge are
0 and depend on how a network is trained. The norm before the classifier belongs to the backbone. A remainder
of the image that fills no patch is cut off, as in PyTorch.

Files of weights may have the names of torchvision, of timm or of the authors.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.dense import Linear
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.gelu import gelu
from imgcls_jax.layers.layer_norm import LayerNorm
from imgcls_jax.layers.renaming import inside, renamed
from imgcls_jax.layers.stochastic_depth import drop_branch, rising_rates
from imgcls_jax.layers.variants import choose_variant

BEGINNING = nn.initializers.normal(0.02)  # of every kernel
GRN_EPSILON = 1e-6


class GlobalResponseNorm(nn.Module):
    """x + bias + scale * x * N(x): each channel by its norm over the image, beside the mean of all channels.

    Section 3 of arXiv 2301.00808, with G(x) the L2 norm over positions and N(x) = G(x) / mean(G(x)). It
    starts as the identity.

    Attributes:
      dtype: of the result; the norms are taken in float32.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h, w, C]."""
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.zeros, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2), keepdims=True)  # [B, 1, 1, C]
        is_zero = squares == 0  # where the root has no derivative; 0 stands for it, as in PyTorch
        norms = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares)))
        response = norms / (jnp.mean(norms, axis=-1, keepdims=True) + GRN_EPSILON)
        return (x * (1 + scale * response) + bias).astype(self.dtype or x.dtype)


class Block(nn.Module):
    """Depthwise convolution 7x7, norm, MLP; beside a shortcut.

    Attributes:
      layer_scale: at which the scale of the branch starts; 0 for none, and a `GlobalResponseNorm` instead.
      stochastic_depth: probability of dropping the branch for one image.
      dtype: of the computation.
    """

    layer_scale: float
    stochastic_depth: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h, w, C]."""
        width = x.shape[-1]
        dense = functools.partial(Linear, dtype=self.dtype, kernel_init=BEGINNING)
        y = Conv(
            width,
            (7, 7),
            padding=3,
            feature_group_count=width,
            dtype=self.dtype,
            kernel_init=BEGINNING,
            name="block.0",
        )(x)
        y = LayerNorm(dtype=self.dtype, name="block.2")(y)
        # Rows of two axes: on more the weights' gradient is slow on a CPU.
        y = gelu(dense(4 * width, name="block.3")(y.reshape(-1, width)))
        if not self.layer_scale:
            y = GlobalResponseNorm(self.dtype, name="block.grn")(y.reshape(*x.shape[:3], -1))
        y = dense(width, name="block.5")(y.reshape(-1, 4 * width)).reshape(x.shape)
        if self.layer_scale:
            begin = nn.initializers.constant(self.layer_scale)
            y *= self.param("layer_scale", begin, (width,)).astype(y.dtype)
        return x + drop_branch(y, self.stochastic_depth, train=train)


class ConvNeXt(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      depths: blocks of each stage.
      widths: channels of each stage.
      layer_scale: at which the scales of the branches start; 0 for none: ConvNeXt V2.
      stochastic_depth: probability of dropping the last branch; it rises linearly from 0.
      remat: recompute each block in the backward pass instead of keeping what is inside it.
      dtype: of the computation; params stay float32.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    layer_scale: float = 1e-6
    stochastic_depth: float = 0.0
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized; at least 32 x 32.
          train: stochastic depth is on.

        Returns:
          Features: map [B, H // 32, W // 32, D] and embedding [B, D], the norm of its mean over positions; D
          is the last width.
        """
        conv = functools.partial(Conv, padding="VALID", dtype=self.dtype, kernel_init=BEGINNING)
        norm = functools.partial(LayerNorm, dtype=self.dtype)
        block_type = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        rates = iter(rising_rates(self.stochastic_depth, sum(self.depths)))
        x = images
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            name = f"features.{2 * stage}"
            if stage == 0:
                x = norm(name=f"{name}.1")(conv(width, (4, 4), strides=4, name=f"{name}.0")(x))
            else:
                x = conv(width, (2, 2), strides=2, name=f"{name}.1")(norm(name=f"{name}.0")(x))
            for i in range(depth):
                name = f"features.{2 * stage + 1}.{i}"
                x = block_type(self.layer_scale, next(rates), self.dtype, name=name)(x, train)
        return Features(x, norm(name="classifier.0")(jnp.mean(x, axis=(1, 2))))


def _sizes(depths: tuple[int, ...], width: int, **fields: Any) -> dict[str, Any]:
    """Returns the fields of a network whose width doubles from stage to stage."""
    return dict(depths=depths, widths=tuple(width * 2**stage for stage in range(len(depths)))) | fields


_SMALLEST, _NANO, _TINY, _DEEP = (2, 2, 6, 2), (2, 2, 8, 2), (3, 3, 9, 3), (3, 3, 27, 3)
_V2 = {"layer_scale": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "convnext_tiny": _sizes(_TINY, 96, stochastic_depth=0.1),
    "convnext_small": _sizes(_DEEP, 96, stochastic_depth=0.4),
    "convnext_base": _sizes(_DEEP, 128, stochastic_depth=0.5),
    "convnext_large": _sizes(_DEEP, 192, stochastic_depth=0.5),
    "convnext_xlarge": _sizes(_DEEP, 256),
    "convnextv2_atto": _sizes(_SMALLEST, 40, **_V2),
    "convnextv2_femto": _sizes(_SMALLEST, 48, **_V2),
    "convnextv2_pico": _sizes(_SMALLEST, 64, **_V2),
    "convnextv2_nano": _sizes(_NANO, 80, **_V2),
    "convnextv2_tiny": _sizes(_TINY, 96, **_V2),
    "convnextv2_base": _sizes(_DEEP, 128, **_V2),
    "convnextv2_large": _sizes(_DEEP, 192, **_V2),
    "convnextv2_huge": _sizes(_DEEP, 352, **_V2),
}


def build(variant: str, **fields: Any) -> ConvNeXt:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `ConvNeXt`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return ConvNeXt(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final linear layer."""
    return "classifier.2"


_BLOCK = (  # of timm
    ("conv_dw.", "block.0."),
    ("norm.", "block.2."),
    ("mlp.fc1.", "block.3."),
    ("mlp.fc2.", "block.5."),
    ("mlp.grn.", "block.grn."),
    ("gamma", "layer_scale"),
)
_AUTHORS_BLOCK = (
    ("dwconv.", "block.0."),
    ("norm.", "block.2."),
    ("pwconv1.", "block.3."),
    ("pwconv2.", "block.5."),
    ("grn.gamma", "block.grn.weight"),
    ("grn.beta", "block.grn.bias"),
    ("gamma", "layer_scale"),
)
NAMES = (  # of timm, then of the authors
    ("stem.", "features.0."),
    ("stages.{s}.downsample.", "features.{2s}."),
    *inside("stages.{s}.blocks.{b}.", "features.{2s+1}.{b}.", _BLOCK),
    ("head.norm.", "classifier.0."),
    ("head.fc.", "classifier.2."),
    ("downsample_layers.{s}.", "features.{2s}."),
    *inside("stages.{s}.{b}.", "features.{2s+1}.{b}.", _AUTHORS_BLOCK),
    ("norm.", "classifier.0."),
    ("head.", "classifier.2."),
)


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings the names and shapes of timm and of the authors, and the shapes of torchvision, to this file's.

    Args:
      arrays: {"stages.0.blocks.0.conv_dw.weight": [C, 1, 7, 7], ...}, or of other names.
      variant: a key of `VARIANTS`.

    Returns:
      {"features.1.0.block.0.weight": [C, 1, 7, 7], ..., "features.1.0.layer_scale": [C], ...}.
    """
    del variant
    names = {name: renamed(name, NAMES) for name in arrays}
    return {names[name]: _as_here(names[name], array) for name, array in arrays.items()}


def _as_here(name: str, array: Any) -> Any:
    """Returns an array in the shape that it has here: vectors, and matrices for convolutions of 1x1."""
    dimensions = getattr(array, "ndim", 0)
    if dimensions > 1 and (name.endswith("layer_scale") or ".grn." in name):
        return array.reshape(-1)
    if dimensions == 4 and name.endswith(("block.3.weight", "block.5.weight")):
        return array.reshape(array.shape[:2])
    return array


def export_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings the shapes of this file to torchvision's, the inverse of `import_weights` for its names."""
    del variant
    return {
        name: array.reshape(-1, 1, 1) if name.endswith("layer_scale") else array
        for name, array in arrays.items()
    }


def timm_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings names and shapes of this file to timm's, the inverse of `import_weights` for its names."""
    del variant
    return {renamed(name, NAMES, back=True): array for name, array in arrays.items()}
