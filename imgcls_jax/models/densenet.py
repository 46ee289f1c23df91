"""DenseNet-121, -161, -169, -201 and the CIFAR networks DenseNet-BC (100, 12) and (190, 40).

Every layer reads the concatenation of all earlier outputs of its block and appends `growth` channels to it.
Huang et al., "Densely Connected Convolutional Networks", arXiv 1608.06993 (2016).

Differences from the paper: in the CIFAR networks a layer drops nothing unless `dropout` is given (the paper
sets 0.2 where it trains without augmentation). A transition takes means of windows before its 1x1 convolution
and not after it: both are linear, so the result is the same but for rounding, by a quarter of the products.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.kept import kept
from imgcls_jax.layers.normalization import batch_norm
from imgcls_jax.layers.pooling import avg_pool, max_pool
from imgcls_jax.layers.variants import choose_variant

BOTTLENECK = 4  # a layer's 1x1 convolution has this many times `growth` channels (section 3)
CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def _conv(channels: int, size: int, dtype: Any, name: str, strides: int = 1) -> nn.Conv:
    """Returns a square convolution without bias, padded by half its size on every side."""
    pad = (size // 2, size // 2)
    return Conv(
        channels,
        (size, size),
        strides=strides,
        padding=(pad, pad),
        use_bias=False,
        dtype=dtype,
        kernel_init=CONV_INIT,
        name=name,
    )


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution; appended to its input.

    Attributes:
      growth: channels appended.
      dropout: probability of dropping an entry of what is appended.
      norm: constructor of a norm layer.
      dtype: of the computation.
    """

    growth: int
    dropout: float = 0.0
    norm: Any = batch_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h, w, C + growth], whose first C channels are x."""
        norm = lambda name: self.norm(use_running_average=not train, dtype=self.dtype, name=name)  # noqa: E731
        x = kept(x)  # else each layer sums anew the gradients of all that follow
        new = nn.relu(norm("norm1")(x))
        new = _conv(BOTTLENECK * self.growth, 1, self.dtype, "conv1")(new)  # [B, h, w, 4 * growth]
        new = nn.relu(norm("norm2")(new))
        new = _conv(self.growth, 3, self.dtype, "conv2")(new)  # [B, h, w, growth]
        new = nn.Dropout(self.dropout, deterministic=not train)(new)
        return jnp.concatenate([x.astype(new.dtype), new], axis=-1)


class DenseNet(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      layers: number of layers in each block.
      growth: channels that a layer appends.
      small_images: the stem of the CIFAR networks, a 3x3 convolution without norm or pooling.
      dropout: probability of dropping an entry of a layer's output, before it is appended.
      remat: recompute each layer in the backward pass instead of keeping what is inside it.
      norm: constructor of a norm layer that takes use_running_average, dtype and name.
      dtype: of the computation; params stay float32.
    """

    layers: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    small_images: bool = False
    dropout: float = 0.0
    remat: bool = False
    norm: Any = batch_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized.
          train: BatchNorm uses the batch's statistics and moves its running ones; dropout is on.

        Returns:
          Features: map [B, h, w, D] and embedding [B, D], its mean over positions; D is 1024, 2208, 1664,
          1920 for 121, 161, 169, 201 and h about H / 32; 342 and 2190 for the CIFAR networks, h = H / 4.
        """
        norm = lambda name: self.norm(use_running_average=not train, dtype=self.dtype, name=name)  # noqa: E731
        layer_type = nn.remat(DenseLayer, static_argnums=(2,)) if self.remat else DenseLayer
        x = self._stem(images, norm)
        for block, depth in enumerate(self.layers, start=1):
            for layer in range(1, depth + 1):
                name = f"features.denseblock{block}.denselayer{layer}"
                x = layer_type(self.growth, self.dropout, self.norm, self.dtype, name=name)(x, train)
            if block < len(self.layers):
                name = f"features.transition{block}"
                x = nn.relu(norm(f"{name}.norm")(x))
                x = avg_pool(x, window_shape=(2, 2), strides=(2, 2))  # [B, h / 2, w / 2, C]
                x = _conv(x.shape[-1] // 2, 1, self.dtype, f"{name}.conv")(x)  # [B, h / 2, w / 2, C / 2]
        x = nn.relu(norm("features.norm5")(x))
        return Features(x, jnp.mean(x, axis=(1, 2)))

    def _stem(self, images: jax.Array, norm: Any) -> jax.Array:
        """Returns what the first block reads: [B, H / 4, W / 4, 2 * growth], [B, H, W, ...] for CIFAR."""
        if self.small_images:
            return _conv(2 * self.growth, 3, self.dtype, "features.conv0")(images)
        x = _conv(2 * self.growth, 7, self.dtype, "features.conv0", strides=2)(images)
        x = nn.relu(norm("features.norm0")(x))
        return max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


VARIANTS: dict[str, dict[str, Any]] = {
    "densenet121": dict(layers=(6, 12, 24, 16), growth=32),
    "densenet161": dict(layers=(6, 12, 36, 24), growth=48),
    "densenet169": dict(layers=(6, 12, 32, 32), growth=32),
    "densenet201": dict(layers=(6, 12, 48, 32), growth=32),
    "densenet_bc_100_12": dict(layers=(16, 16, 16), growth=12, small_images=True),
    "densenet_bc_190_40": dict(layers=(31, 31, 31), growth=40, small_images=True),
}


def build(variant: str, **fields: Any) -> DenseNet:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `DenseNet`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return DenseNet(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final linear layer."""
    return "classifier"
