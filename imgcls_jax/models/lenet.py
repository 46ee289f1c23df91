"""LeNet-5: the network of 1998, its usual modern form, Caffe's, and one for 32x32 color images.

LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition".

| variant | image | layers before the classifier | with 10 classes |
|---|---|---|---|
| lenet5 | 28x28x1 | conv 6, 16; 120, 84; ReLU, max-pooling | 61,706 |
| lenet5_cifar | 32x32x3 | the same, without zeros around the image | 62,006 |
| lenet_caffe | 28x28x1 | conv 20, 50 without activation; 500, ReLU | 431,080 |
| lenet5_original | 32x32x1 | C1 to F6 of the paper, in `LeNet5Original` | 60,000 without a classifier |

The paper's classifier is the distance of F6 to fixed bitmaps of the ten digits, without parameters; here F6
is the embedding and the classifier is a head. The paper scales images so that the background is about -0.1
and the ink 1.175.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.convolution import Conv, convolution
from imgcls_jax.layers.dense import Initializer, Linear, fan_in_uniform, fan_in_uniform_bias
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.pooling import avg_pool, max_pool
from imgcls_jax.layers.variants import choose_variant

SQUASH_AMPLITUDE = 1.7159  # with the slope 2/3, squash(1) is 1 (the paper's appendix A)
# Which maps of S2 each map of C3 reads (the paper's table I): six times three neighbors, six times four,
# three times four with a gap, all.
C3_INPUTS: tuple[tuple[int, ...], ...] = (
    *(tuple(sorted((first + step) % 6 for step in range(3))) for first in range(6)),
    *(tuple(sorted((first + step) % 6 for step in range(4))) for first in range(6)),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)


def _zero_bias(fan_in: int) -> Initializer:
    del fan_in
    return nn.initializers.zeros


class LeNet(nn.Module):
    """The backbone of the modern forms: convolutions 5x5 with max-pooling, then fully connected layers.

    Attributes:
      channels: of the convolutions.
      hidden: widths of the fully connected layers, each with a ReLU.
      margin: zeros around the image for the first convolution.
      relu_after_convolution: whether the convolutions have one.
      kernel_init: initializer of all kernels.
      bias_init: from a layer's fan-in to the initializer of its bias.
      dtype: of the computation; params stay float32.
    """

    channels: tuple[int, ...] = (6, 16)
    hidden: tuple[int, ...] = (120, 84)
    margin: int = 2
    relu_after_convolution: bool = True
    kernel_init: Initializer = fan_in_uniform
    bias_init: Callable[[int], Initializer] = fan_in_uniform_bias
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized; fc1 grows with the size.
          train: without effect: there is neither dropout nor BatchNorm.

        Returns:
          Features: map [B, 5, 5, 16] and embedding [B, 84] for "lenet5", [B, 4, 4, 50] and [B, 500] for
          "lenet_caffe".

        Raises:
          ValueError: images too small.
        """
        x = images
        for layer, channels in enumerate(self.channels, start=1):
            margin = self.margin if layer == 1 else 0
            x = Conv(
                channels,
                (5, 5),
                padding=((margin, margin), (margin, margin)),
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init(25 * x.shape[-1]),
                name=f"conv{layer}",
            )(x)
            x = nn.relu(x) if self.relu_after_convolution else x
            if min(x.shape[1:3]) < 2:
                raise ValueError(f"LeNet has nothing left to pool after conv{layer}; images {images.shape}")
            x = max_pool(x, window_shape=(2, 2), strides=(2, 2), padding=((0, 0), (0, 0)))
        feature_map = x
        x = x.reshape(x.shape[0], -1)
        for layer, width in enumerate(self.hidden, start=1):
            dense = Linear(
                width,
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init(x.shape[-1]),
                name=f"fc{layer}",
            )
            x = nn.relu(dense(x))
        return Features(feature_map, x)


def squash(x: jax.Array) -> jax.Array:
    """Returns 1.7159 tanh(2/3 x), which maps 1 to 1 and -1 to -1."""
    return SQUASH_AMPLITUDE * jnp.tanh(x * (2 / 3))


def _uniform(bound: float | jax.Array) -> Initializer:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0) * bound

    return init


def _paper_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """U(-2.4/fan_in, 2.4/fan_in), of the paper's appendix A."""
    return _uniform(2.4 / math.prod(shape[:-1]))(key, shape, dtype)


class Subsampling(nn.Module):
    """The sum over 2x2 times a trained coefficient plus a trained bias, one of each a map (S2, S4).

    Attributes:
      dtype: of the computation; params stay float32.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h // 2, w // 2, C], not yet squashed."""
        scale = self.param("scale", _uniform(2.4 / 4), (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x, scale, bias = nn.dtypes.promote_dtype(x, scale, bias, dtype=self.dtype)
        mean = avg_pool(x, window_shape=(2, 2), strides=(2, 2), padding=((0, 0), (0, 0)))
        return 4 * mean * scale + bias


class TableConvolution(nn.Module):
    """A 5x5 convolution whose outputs each read some of the inputs (C3).

    The params hold the existing connections alone: kernel [5, 5, links], in the order of the table.

    Attributes:
      table: the input maps of each output map.
      dtype: of the computation; params stay float32.
    """

    table: tuple[tuple[int, ...], ...] = C3_INPUTS
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h - 4, w - 4, len(table)]."""
        links = [(source, target) for target, sources in enumerate(self.table) for source in sources]
        sources, targets = (jnp.array(ends) for ends in zip(*links, strict=True))
        fan_in = jnp.array([25 * len(self.table[target]) for _, target in links])
        kernel = self.param("kernel", _uniform(2.4 / fan_in), (5, 5, len(links)))
        bias = self.param("bias", nn.initializers.zeros, (len(self.table),))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        full = jnp.zeros((5, 5, x.shape[-1], len(self.table)), kernel.dtype)
        full = full.at[:, :, sources, targets].set(kernel)
        dimensions = jax.lax.conv_dimension_numbers(x.shape, full.shape, ("NHWC", "HWIO", "NHWC"))
        padding = ((0, 0), (0, 0))
        return convolution(x, full, (1, 1), padding, dimension_numbers=dimensions) + bias


class LeNet5Original(nn.Module):
    """The backbone of 1998, C1 to F6; every layer is squashed.

    Attributes:
      margin: zeros around the image for C1: 0 for the paper's 32x32, 2 for 28x28.
      dtype: of the computation; params stay float32.
    """

    margin: int = 0
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, 32, 32, C]; larger ones widen C5's map, which F6 reads whole.
          train: without effect: there is neither dropout nor BatchNorm.

        Returns:
          Features: map [B, 5, 5, 16] of S4, embedding [B, 84] of F6.

        Raises:
          ValueError: images under 32x32, the margin included.
        """
        if min(images.shape[1:3]) + 2 * self.margin < 32:
            raise ValueError(
                f"lenet5_original reads images of at least 32x32; got {images.shape}. margin=2 fits 28x28"
            )
        margins = ((self.margin, self.margin), (self.margin, self.margin))
        x = squash(self._convolution(images, 6, margins, "C1"))
        x = squash(Subsampling(dtype=self.dtype, name="S2")(x))
        x = squash(TableConvolution(dtype=self.dtype, name="C3")(x))
        feature_map = squash(Subsampling(dtype=self.dtype, name="S4")(x))
        x = squash(self._convolution(feature_map, 120, ((0, 0), (0, 0)), "C5"))
        x = x.reshape(x.shape[0], -1)
        return Features(
            feature_map, squash(Linear(84, dtype=self.dtype, kernel_init=_paper_uniform, name="F6")(x))
        )

    def _convolution(
        self, x: jax.Array, channels: int, margins: tuple[tuple[int, int], ...], name: str
    ) -> jax.Array:
        return Conv(
            channels,
            (5, 5),
            padding=margins,
            dtype=self.dtype,
            kernel_init=_paper_uniform,
            name=name,
        )(x)


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": LeNet,
    "lenet5_cifar": functools.partial(LeNet, margin=0),
    "lenet_caffe": functools.partial(
        LeNet,
        channels=(20, 50),
        hidden=(500,),
        margin=0,
        relu_after_convolution=False,
        kernel_init=nn.initializers.lecun_uniform(),  # Caffe's "xavier": U(-sqrt(3/fan_in), sqrt(3/fan_in))
        bias_init=_zero_bias,
    ),
    "lenet5_original": LeNet5Original,
}
HEADS = {"lenet5": "fc3", "lenet5_cifar": "fc3", "lenet_caffe": "fc2", "lenet5_original": "output"}
FLATTENED = {"lenet5": {"fc1": (5, 5)}, "lenet5_cifar": {"fc1": (5, 5)}, "lenet_caffe": {"fc1": (4, 4)}}


def build(variant: str = "lenet5", **fields: Any) -> nn.Module:
    """Returns the backbone.

    Args:
      variant: "lenet5", "lenet5_cifar", "lenet_caffe" or "lenet5_original".
      **fields: attributes of `LeNet`, or of `LeNet5Original`.

    Raises:
      ValueError: an unknown variant.
    """
    return choose_variant(__name__, VARIANTS, variant)(**fields)


def torch_head(variant: str) -> str:
    """Returns the final linear layer's name in a PyTorch model with this file's names."""
    choose_variant(__name__, VARIANTS, variant)
    return HEADS[variant]


def torch_flatten(variant: str) -> dict[str, tuple[int, int]]:
    """Returns the rows and columns of the map that fc1 reads, at the standard size; C5 is a convolution."""
    choose_variant(__name__, VARIANTS, variant)
    return FLATTENED.get(variant, {})


def caffe_layers(variant: str) -> dict[str, str]:
    """Returns the modules of the layers of Caffe's LeNet."""
    layers = {"conv1": "conv1", "conv2": "conv2", "ip1": "fc1", "ip2": "fc2"}
    return layers if variant == "lenet_caffe" else {}
