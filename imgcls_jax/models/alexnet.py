"""AlexNet: the original with its groups, CaffeNet, and the one-tower form that torchvision ships.

Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks" (NIPS);
Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997, for
"alexnet". The paper's two GPUs are two groups of channels here. Its text says input 224; its sizes need 227.

| variant | input | convolutions | order after conv1 and conv2 | response norm |
|---|---|---|---|---|
| alexnet | 224 | 64-192-384-256-256, one group | ReLU, pool | none |
| alexnet_original | 227 | 96-256-384-384-256, groups 1-2-1-2-2 | ReLU, norm, pool | the paper's |
| alexnet_caffe | 227 | as alexnet_original | ReLU, norm, pool | Caffe's |
| caffenet | 227 | as alexnet_original | ReLU, pool, norm | Caffe's |

The last two are those of Caffe's model zoo. `groups=(1,) * 5` joins the towers. Adaptive average pooling
before fc6, the identity at the standard sizes, lets other sizes through, down to 67 (63 for "alexnet"). All
variants share the names of the layers; norms take no number.

Dropout of 0.5 follows fc6 and fc7 in the original, and stands before each of them in "alexnet". The one
directly before the final classifier (the original's second) belongs to the head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.dense import Dense, Initializer, Linear, fan_in_uniform, fan_in_uniform_bias
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.lrn import local_response_norm
from imgcls_jax.layers.pooling import adaptive_average_pool, max_pool
from imgcls_jax.layers.variants import choose_variant

FC6_WINDOW = (6, 6)
KERNELS = (11, 5, 3, 3, 3)
LAYER_NUMBERS = (0, 3, 6, 8, 10)
BIASED = (1, 3, 4)  # conv2, conv4, conv5: the layers whose biases the original starts above zero

# The paper's alpha of 1e-4 multiplies the sum over five channels, Caffe's the mean.
paper_response_norm = functools.partial(local_response_norm, size=5, alpha=5e-4, beta=0.75, k=2.0)
caffe_response_norm = functools.partial(local_response_norm, size=5, alpha=1e-4, beta=0.75, k=1.0)


def _max_pool(x: jax.Array) -> jax.Array:
    return max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((0, 0), (0, 0)))


class AlexNet(nn.Module):
    """The backbone, up to fc7 and its ReLU; the final classifier is a head.

    Attributes:
      channels: of the five convolutions.
      groups: of the five convolutions.
      first_margin: zeros around the image for conv1.
      response_norm: applied after conv1 and conv2; None for none.
      norm_after_pool: whether it follows the pooling (CaffeNet) or precedes it.
      hidden: widths of fc6 and fc7.
      dropout: probability of each dropout.
      dropout_before_fc6: whether one stands there too.
      initial_bias: None for the fan-in uniform initializers; else the original's normal ones, with this bias
        on conv2, conv4, conv5, fc6 and fc7 (0.1 as Caffe has it; the paper has 1).
      dtype: of the computation; params stay float32.
    """

    channels: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    groups: tuple[int, int, int, int, int] = (1, 2, 1, 2, 2)
    first_margin: int = 0
    response_norm: Callable[[jax.Array], jax.Array] | None = paper_response_norm
    norm_after_pool: bool = False
    hidden: tuple[int, int] = (4096, 4096)
    dropout: float = 0.5
    dropout_before_fc6: bool = False
    initial_bias: float | None = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized; H and W at least 67, 63 for "alexnet".
          train: switches dropout (rng "dropout").

        Returns:
          Features: map [B, 6, 6, 256] at the standard size, embedding [B, 4096].

        Raises:
          ValueError: images too small.
        """
        x = images
        for layer in range(5):
            x = nn.relu(self._convolution(x, layer))
            if layer in (0, 1):
                x = self._norm_and_pool(x)
        feature_map = _max_pool(x)
        if 0 in feature_map.shape:
            raise ValueError(
                f"AlexNet needs images of at least 67x67 (63x63 for 'alexnet'); got {images.shape}"
            )
        x = adaptive_average_pool(feature_map, FC6_WINDOW).reshape(images.shape[0], -1)  # [B, 6 * 6 * 256]
        if self.dropout_before_fc6:
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.relu(self._dense(x, self.hidden[0], "classifier.1"))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Features(feature_map, nn.relu(self._dense(x, self.hidden[1], "classifier.4")))

    def _convolution(self, x: jax.Array, layer: int) -> jax.Array:
        """Args: x [B, h, w, C]; layer from 0. Returns: [B, h', w', channels[layer]], before the ReLU."""
        kernel, groups = KERNELS[layer], self.groups[layer]
        margin = self.first_margin if layer == 0 else kernel // 2
        kernel_init: Initializer
        if self.initial_bias is None:
            bias = fan_in_uniform_bias(kernel**2 * x.shape[-1] // groups)
            kernel_init = fan_in_uniform
        else:
            bias = nn.initializers.constant(self.initial_bias if layer in BIASED else 0.0)
            kernel_init = nn.initializers.normal(0.01)
        return Conv(
            self.channels[layer],
            (kernel, kernel),
            strides=4 if layer == 0 else 1,
            padding=((margin, margin), (margin, margin)),
            feature_group_count=groups,
            dtype=self.dtype,
            kernel_init=kernel_init,
            bias_init=bias,
            name=f"features.{LAYER_NUMBERS[layer]}",
        )(x)

    def _norm_and_pool(self, x: jax.Array) -> jax.Array:
        """Args: x [B, h, w, C]. Returns: [B, (h - 1) // 2, (w - 1) // 2, C]."""
        if self.response_norm is None:
            return _max_pool(x)
        if self.norm_after_pool:
            return self.response_norm(_max_pool(x))
        return _max_pool(self.response_norm(x))

    def _dense(self, x: jax.Array, width: int, name: str) -> jax.Array:
        """Args: x [B, D]. Returns: [B, width], before the ReLU."""
        if self.initial_bias is None:
            return Dense(width, dtype=self.dtype, name=name)(x)
        kernel, bias = nn.initializers.normal(0.005), nn.initializers.constant(self.initial_bias)
        return Linear(width, dtype=self.dtype, kernel_init=kernel, bias_init=bias, name=name)(x)


VARIANTS: dict[str, Callable[..., AlexNet]] = {
    "alexnet": functools.partial(
        AlexNet,
        channels=(64, 192, 384, 256, 256),
        groups=(1, 1, 1, 1, 1),
        first_margin=2,
        response_norm=None,
        dropout_before_fc6=True,
        initial_bias=None,
    ),
    "alexnet_original": AlexNet,
    "alexnet_caffe": functools.partial(AlexNet, response_norm=caffe_response_norm),
    "caffenet": functools.partial(AlexNet, response_norm=caffe_response_norm, norm_after_pool=True),
}


def build(variant: str = "alexnet", **fields: Any) -> AlexNet:
    """Returns the backbone.

    Args:
      variant: "alexnet", "alexnet_original", "alexnet_caffe" or "caffenet".
      **fields: attributes of `AlexNet`.

    Raises:
      ValueError: an unknown variant.
    """
    return choose_variant(__name__, VARIANTS, variant)(**fields)


def torch_head(variant: str) -> str:
    """Returns torchvision's name of the final linear layer."""
    choose_variant(__name__, VARIANTS, variant)
    return "classifier.6"


def torch_flatten(variant: str) -> dict[str, tuple[int, int]]:
    """Returns the rows and columns of the map that each linear layer after a flatten reads."""
    choose_variant(__name__, VARIANTS, variant)
    return {"classifier.1": FC6_WINDOW}


def caffe_layers(variant: str) -> dict[str, str]:
    """Returns the modules of the layers of Caffe's AlexNet and CaffeNet."""
    if variant == "alexnet":
        return {}
    convolutions = {f"conv{layer}": f"features.{number}" for layer, number in enumerate(LAYER_NUMBERS, 1)}
    return convolutions | {"fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6"}
