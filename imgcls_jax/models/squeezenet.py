"""SqueezeNet 1.0 and 1.1: fire modules, which squeeze by 1x1 convolutions and expand by 1x1 and 3x3 ones.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size",
arXiv 1602.07360 (2016). Version 1.1 moves the pooling forward and has a smaller stem: 2.4 times less
computation at the same accuracy.

The classifier is not linear on a vector: dropout (0.5), a 1x1 convolution, ReLU and the mean over positions;
that is the head "conv_pool", which reads the map.

The files of the authors' Caffe network are read too: .caffemodel (`caffe_layers`), and arrays of another
writer's names (`import_weights`). That network takes pixels
in 0..255 from which 123, 117 and 104 have been subtracted in R, G and B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.pooling import ceil_max_pool
from imgcls_jax.layers.variants import choose_variant

CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
CAFFE_LAYERS = {"conv1x1_1": "squeeze", "conv1x1_2": "expand1x1", "conv3x3_2": "expand3x3"}


class Fire(nn.Module):
    """A squeeze and two expansions, concatenated.

    Attributes:
      squeeze: channels in the middle.
      expand: channels of each of the two expansions.
      dtype: of the computation.
    """

    squeeze: int
    expand: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h, w, 2 * expand], the 1x1 expansion first."""
        conv = lambda channels, size, pad, name: Conv(  # noqa: E731
            channels,
            (size, size),
            padding=((pad, pad), (pad, pad)),
            dtype=self.dtype,
            kernel_init=CONV_INIT,
            name=name,
        )
        x = nn.relu(conv(self.squeeze, 1, 0, "squeeze")(x))
        ones = nn.relu(conv(self.expand, 1, 0, "expand1x1")(x))
        threes = nn.relu(conv(self.expand, 3, 1, "expand3x3")(x))
        return jnp.concatenate([ones, threes], axis=-1)


class SqueezeNet(nn.Module):
    """The backbone; dropout and the final convolution are a head.

    Attributes:
      stem: channels and kernel size of the first convolution, of stride 2.
      fires: squeeze and expand widths of each fire module.
      pools: indices of the fire modules that have a pooling before them.
      dtype: of the computation; params stay float32.
    """

    head: ClassVar[str] = "conv_pool"

    stem: tuple[int, int] = (96, 7)
    fires: tuple[tuple[int, int], ...] = (
        (16, 64),
        (16, 64),
        (32, 128),
        (32, 128),
        (48, 192),
        (48, 192),
        (64, 256),
        (64, 256),
    )
    pools: tuple[int, ...] = (0, 3, 7)
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized; H and W from 21 up.
          train: without effect, for the backbone has neither norm nor dropout.

        Returns:
          Features: map [B, h, w, 512], h = 13 for H = 224, and embedding [B, 512], its mean over positions.
        """
        channels, size = self.stem
        x = Conv(
            channels,
            (size, size),
            strides=2,
            padding=((0, 0), (0, 0)),
            dtype=self.dtype,
            kernel_init=CONV_INIT,
            name="features.0",
        )(images)
        x, index = nn.relu(x), 2
        for fire, (squeeze, expand) in enumerate(self.fires):
            if fire in self.pools:
                x, index = ceil_max_pool(x), index + 1
            x = Fire(squeeze, expand, self.dtype, name=f"features.{index}")(x)
            index += 1
        return Features(x, jnp.mean(x, axis=(1, 2)))


VARIANTS: dict[str, dict[str, Any]] = {
    "squeezenet1_0": {},
    "squeezenet1_1": dict(stem=(64, 3), pools=(0, 2, 4)),
}


def build(variant: str, **fields: Any) -> SqueezeNet:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `SqueezeNet`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return SqueezeNet(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final convolution."""
    return "classifier.1"


def caffe_layers(variant: str) -> dict[str, str]:
    """Returns the modules of the layers of the authors' Caffe network."""
    layers = {"conv1": "features.0"}
    for fire, index in _fire_indices(variant).items():
        for layer in ("squeeze1x1", "expand1x1", "expand3x3"):
            layers[f"fire{fire}/{layer}"] = f"features.{index}.{layer.replace('squeeze1x1', 'squeeze')}"
    return layers | {"conv10": "classifier.1"}


def _fire_indices(variant: str) -> dict[int, int]:
    """Returns {number of a fire module in Caffe, which counts from 2: its number in `features`}."""
    backbone = build(variant)
    return {
        fire + 2: 2 + fire + sum(pool <= fire for pool in backbone.pools)
        for fire in range(len(backbone.fires))
    }


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings Caffe's names to PyTorch's; arrays of other names pass as they are.

    The first kernel's inputs go from Caffe's order, B, G, R, to R, G, B.

    Args:
      arrays: {"conv1_w": [O, I, h, w], "fire2__conv1x1_1_b": [O], ..., "conv_final_w": ...}.
      variant: a key of `VARIANTS`.

    Returns:
      {"features.0.weight": [O, I, h, w], "features.3.squeeze.bias": [O], ..., "classifier.1.weight": ...}.
    """
    if "conv1_w" not in arrays:
        return dict(arrays)
    indices = {str(fire): index for fire, index in _fire_indices(variant).items()}

    def renamed(name: str) -> str:
        module, _, leaf = name.rpartition("_")
        number, _, layer = module.removeprefix("fire").partition("__")
        if number in indices and layer in CAFFE_LAYERS:
            module = f"features.{indices[number]}.{CAFFE_LAYERS[layer]}"
        module = {"conv1": "features.0", "conv_final": "classifier.1"}.get(module, module)
        return f"{module}.{'weight' if leaf == 'w' else 'bias'}"

    named = {renamed(name): array for name, array in arrays.items()}
    return named | {"features.0.weight": arrays["conv1_w"][:, ::-1]}
