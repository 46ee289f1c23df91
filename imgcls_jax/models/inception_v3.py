"""Inception v3: GoogLeNet's modules with large kernels factorized into small and one-sided ones.

Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", arXiv 1512.00567 (2015).
Made for 299x299 images; any size from 75x75 up is taken. BatchNorm (epsilon 1e-3) after every convolution, in
the auxiliary classifier too. 23,834,568 parameters with a head of 1000 classes, 27,161,264 with the auxiliary
classifier and its head.

Difference from TensorFlow's network, from which the weights in circulation come: the average pools inside
the modules count the zero padding, as PyTorch's do. The dropout of 0.5 before the final classifier belongs to
the head. The released weights expect inputs in [-1, 1], that is (pixel / 255 - 0.5) / 0.5; PyTorch's option
transform_input, which maps ImageNet-normalized inputs to that range, is preprocessing and not in the network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.conv_unit import ConvUnit
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import inception_norm
from imgcls_jax.layers.pooling import avg_pool, max_pool
from imgcls_jax.layers.variants import choose_variant

# Side of the map after Mixed_6e that the auxiliary classifier needs: 17 -> 5 (pool) -> 1 (5x5 convolution).
_AUX_SIDE = 17


def _unit(norm: Any, dtype: Any) -> Callable[..., ConvUnit]:
    """Returns the constructor of a convolution without bias, BatchNorm and ReLU."""
    return functools.partial(
        ConvUnit, norm=norm, kernel_init=nn.initializers.truncated_normal(0.1), dtype=dtype
    )


def _chain(conv: Callable[..., ConvUnit], name: str, *steps: tuple, x: jax.Array, train: bool) -> jax.Array:
    """Applies `conv(*step)` one after another, named `name`_1, `name`_2, ..."""
    for position, step in enumerate(steps, start=1):
        x = conv(*step, name=f"{name}_{position}")(x, train)
    return x


def _average_pool(x: jax.Array) -> jax.Array:
    """3x3, stride 1; the zeros of the padding count."""
    return avg_pool(x, window_shape=(3, 3), strides=(1, 1), padding=((1, 1), (1, 1)))


def _halve(x: jax.Array) -> jax.Array:
    """Max pool 3x3, stride 2, without padding."""
    return max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((0, 0), (0, 0)))


class _Block(nn.Module):
    """The common part of the modules.

    Attributes:
      width: of the one branch that differs between modules of a kind; the kinds say which.
      norm: constructor of the norm layer.
      dtype: of the computation.
    """

    width: int = 0
    norm: Any = inception_norm
    dtype: Any = None

    def branches(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """Args: x float [B, h, w, C]; train. Returns: the branches' outputs, equal in h' and w'."""
        raise NotImplementedError

    def conv(self) -> Callable[..., ConvUnit]:
        """Returns the constructor of this module's convolutions."""
        return _unit(self.norm, self.dtype)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]; train. Returns: the branches joined, float [B, h', w', D]."""
        return jnp.concatenate(self.branches(x, train), axis=-1)


class InceptionA(_Block):
    """On the 35x35 map: 5x5 and double 3x3 branches; `width` is the pool branch's."""

    def branches(self, x: jax.Array, train: bool) -> list[jax.Array]:
        conv = self.conv()
        return [
            conv(64, name="branch1x1")(x, train),
            _chain(conv, "branch5x5", (48, 1), (64, 5), x=x, train=train),
            _chain(conv, "branch3x3dbl", (64, 1), (96, 3), (96, 3), x=x, train=train),
            conv(self.width, name="branch_pool")(_average_pool(x), train),
        ]


class InceptionB(_Block):
    """35x35 -> 17x17."""

    def branches(self, x: jax.Array, train: bool) -> list[jax.Array]:
        conv = self.conv()
        return [
            conv(384, 3, 2, "none", name="branch3x3")(x, train),
            _chain(conv, "branch3x3dbl", (64, 1), (96, 3), (96, 3, 2, "none"), x=x, train=train),
            _halve(x),
        ]


class InceptionC(_Block):
    """On the 17x17 map: 7x7 as 1x7 and 7x1; `width` is that of the inner 7-sided convolutions."""

    def branches(self, x: jax.Array, train: bool) -> list[jax.Array]:
        conv, inner = self.conv(), self.width
        wide, tall = (1, 7), (7, 1)
        single = ((inner, 1), (inner, wide), (192, tall))
        double = ((inner, 1), (inner, tall), (inner, wide), (inner, tall), (192, wide))
        return [
            conv(192, name="branch1x1")(x, train),
            _chain(conv, "branch7x7", *single, x=x, train=train),
            _chain(conv, "branch7x7dbl", *double, x=x, train=train),
            conv(192, name="branch_pool")(_average_pool(x), train),
        ]


class InceptionD(_Block):
    """17x17 -> 8x8."""

    def branches(self, x: jax.Array, train: bool) -> list[jax.Array]:
        conv = self.conv()
        seven = ((192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2, "none"))
        return [
            _chain(conv, "branch3x3", (192, 1), (320, 3, 2, "none"), x=x, train=train),
            _chain(conv, "branch7x7x3", *seven, x=x, train=train),
            _halve(x),
        ]


class InceptionE(_Block):
    """On the 8x8 map: 3x3 split into 1x3 beside 3x1, not one after the other."""

    def branches(self, x: jax.Array, train: bool) -> list[jax.Array]:
        conv = self.conv()
        single = conv(384, name="branch3x3_1")(x, train)
        double = _chain(conv, "branch3x3dbl", (448, 1), (384, 3), x=x, train=train)
        return [
            conv(320, name="branch1x1")(x, train),
            conv(384, (1, 3), name="branch3x3_2a")(single, train),
            conv(384, (3, 1), name="branch3x3_2b")(single, train),
            conv(384, (1, 3), name="branch3x3dbl_3a")(double, train),
            conv(384, (3, 1), name="branch3x3dbl_3b")(double, train),
            conv(192, name="branch_pool")(_average_pool(x), train),
        ]


class Auxiliary(nn.Module):
    """The auxiliary classifier up to what its final linear layer reads.

    Attributes:
      norm: constructor of the norm layer.
      dtype: of the computation.
    """

    norm: Any = inception_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, 768] with h, w >= 17; train. Returns: float [B, 768].

        Raises:
          ValueError: a smaller map.
        """
        if min(x.shape[1:3]) < _AUX_SIDE:
            raise ValueError(
                f"the auxiliary classifier needs a map of {_AUX_SIDE}x{_AUX_SIDE} or more, got "
                f"{x.shape[1]}x{x.shape[2]}; give images of 299x299 or build with aux=False"
            )
        conv = _unit(self.norm, self.dtype)
        x = avg_pool(x, window_shape=(5, 5), strides=(3, 3))  # [B, 5, 5, 768]
        x = conv(128, name="conv0")(x, train)
        small = nn.initializers.truncated_normal(0.01)
        x = conv(768, 5, padding="none", kernel_init=small, name="conv1")(x, train)  # [B, 1, 1, 768]
        return x.mean(axis=(1, 2))


# Each module's name, kind and `width`.
_MODULES = (
    ("Mixed_5b", InceptionA, 32),
    ("Mixed_5c", InceptionA, 64),
    ("Mixed_5d", InceptionA, 64),
    ("Mixed_6a", InceptionB, 0),
    ("Mixed_6b", InceptionC, 128),
    ("Mixed_6c", InceptionC, 160),
    ("Mixed_6d", InceptionC, 160),
    ("Mixed_6e", InceptionC, 192),
    ("Mixed_7a", InceptionD, 0),
    ("Mixed_7b", InceptionE, 0),
    ("Mixed_7c", InceptionE, 0),
)


class InceptionV3(nn.Module):
    """The backbone; the final classifiers are heads.

    Attributes:
      aux: build the auxiliary classifier's trunk (params AuxLogits), which runs in training only. Its loss
        counts `aux_weight` times.
      norm: constructor of a norm layer that takes use_running_average, dtype and name.
      dtype: of the computation; params stay float32.
      remat: recompute each module's inside in the backward pass instead of keeping it.
    """

    aux: bool = False
    norm: Any = inception_norm
    dtype: Any = None
    remat: bool = False

    aux_weight: ClassVar[float] = 0.4

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, 3], normalized; 299x299, with aux=True no smaller.
          train: BatchNorm uses the batch's statistics and moves its running ones; the auxiliary trunk runs.

        Returns:
          Features: map [B, 8, 8, 2048], embedding [B, 2048]; aux ([B, 768],) if aux and train, else ().
        """
        fields = {"norm": self.norm, "dtype": self.dtype}
        conv = _unit(self.norm, self.dtype)
        x = conv(32, 3, 2, "none", name="Conv2d_1a_3x3")(images, train)  # [B, 149, 149, 32]
        x = conv(32, 3, 1, "none", name="Conv2d_2a_3x3")(x, train)  # [B, 147, 147, 32]
        x = conv(64, 3, name="Conv2d_2b_3x3")(x, train)
        x = _halve(x)  # [B, 73, 73, 64]
        x = conv(80, 1, name="Conv2d_3b_1x1")(x, train)
        x = conv(192, 3, 1, "none", name="Conv2d_4a_3x3")(x, train)  # [B, 71, 71, 192]
        x = _halve(x)  # [B, 35, 35, 192]
        side_outputs: tuple[jax.Array, ...] = ()
        for name, kind, width in _MODULES:
            block = nn.remat(kind, static_argnums=(2,)) if self.remat else kind
            x = block(width, name=name, **fields)(x, train)
            if name == "Mixed_6e" and self.aux and (train or self.is_initializing()):
                side_outputs = (Auxiliary(name="AuxLogits", **fields)(x, train),)
        return Features(x, x.mean(axis=(1, 2)), side_outputs)


VARIANTS: dict[str, dict[str, Any]] = {"inception_v3": {}}


def build(variant: str = "inception_v3", **fields: Any) -> InceptionV3:
    """Returns the backbone.

    Args:
      variant: "inception_v3", the only one.
      **fields: attributes of `InceptionV3`.

    Raises:
      ValueError: an unknown variant.
    """
    return InceptionV3(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str = "inception_v3") -> str:
    """Returns PyTorch's name of the final linear layer."""
    choose_variant(__name__, VARIANTS, variant)
    return "fc"


def torch_aux_heads(variant: str = "inception_v3") -> tuple[str, ...]:
    """Returns PyTorch's names of the auxiliary final linear layers, in the order of Features.aux."""
    choose_variant(__name__, VARIANTS, variant)
    return ("AuxLogits.fc",)
