"""ZFNet: AlexNet with a finer first layer, designed after pictures of what its features respond to.

Zeiler, Fergus 2013, "Visualizing and Understanding Convolutional Networks", arXiv:1311.2901. Against AlexNet:
conv1 is 7x7 with stride 2, conv2 has stride 2, no convolution has groups, and the response norm follows the
pooling. Poolings round up. "zfnet_wide" is the paper's larger model with 512, 1024 and 512 channels in conv3
to conv5. The norm has the setting of AlexNet's paper.

The paper also rescales filters of conv1 whose root mean square passes 0.1, after each update; that changes
parameters and is not part of the network. Of the two dropouts of 0.5, after fc6 and fc7, the second stands
directly before the final classifier and belongs to the head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.dense import Linear
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.lrn import local_response_norm
from imgcls_jax.layers.pooling import ceil_max_pool
from imgcls_jax.layers.variants import choose_variant

SMALLEST = 63  # the image's side for which each layer still sees a whole window
# Kernel size, stride and margin of conv1 to conv5.
CONVOLUTIONS = ((7, 2, 1), (5, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1))

_normal = nn.initializers.normal(0.01)


class ZFNet(nn.Module):
    """The backbone, up to fc7 and its ReLU; the final classifier is a head.

    Attributes:
      channels: of the five convolutions.
      hidden: widths of fc6 and fc7.
      dropout: probability after fc6.
      dtype: of the computation; params stay float32.
    """

    channels: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    hidden: tuple[int, int] = (4096, 4096)
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized; H and W at least 63. fc6 grows with the size.
          train: switches dropout (rng "dropout").

        Returns:
          Features: map [B, 6, 6, 256] for images of 224x224, embedding [B, 4096].

        Raises:
          ValueError: images under 63x63.
        """
        if min(images.shape[1:3]) < SMALLEST:
            raise ValueError(f"ZFNet needs images of at least {SMALLEST}x{SMALLEST}; got {images.shape}")
        x = images
        for layer, (kernel, stride, margin) in enumerate(CONVOLUTIONS, start=1):
            x = Conv(
                self.channels[layer - 1],
                (kernel, kernel),
                strides=stride,
                padding=((margin, margin), (margin, margin)),
                dtype=self.dtype,
                kernel_init=_normal,
                name=f"conv{layer}",
            )(x)
            x = nn.relu(x)
            if layer <= 2:
                x = local_response_norm(ceil_max_pool(x), size=5, alpha=5e-4, beta=0.75, k=2.0)
        feature_map = ceil_max_pool(x)
        x = feature_map.reshape(images.shape[0], -1)  # [B, 6 * 6 * 256]
        for number, width in zip((6, 7), self.hidden, strict=True):
            x = nn.relu(Linear(width, dtype=self.dtype, kernel_init=_normal, name=f"fc{number}")(x))
            if number == 6:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Features(feature_map, x)


VARIANTS: dict[str, Callable[..., ZFNet]] = {
    "zfnet": ZFNet,
    "zfnet_wide": functools.partial(ZFNet, channels=(96, 256, 512, 1024, 512)),
}


def build(variant: str = "zfnet", **fields: Any) -> ZFNet:
    """Returns the backbone.

    Args:
      variant: "zfnet" or "zfnet_wide".
      **fields: attributes of `ZFNet`.

    Raises:
      ValueError: an unknown variant.
    """
    return choose_variant(__name__, VARIANTS, variant)(**fields)


def torch_head(variant: str) -> str:
    """Returns the final linear layer's name in a PyTorch model with this file's names."""
    choose_variant(__name__, VARIANTS, variant)
    return "fc8"


def torch_flatten(variant: str) -> dict[str, tuple[int, int]]:
    """Returns the rows and columns of the map that fc6 reads, for images of 224x224."""
    choose_variant(__name__, VARIANTS, variant)
    return {"fc6": (6, 6)}
