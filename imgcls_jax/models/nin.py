"""Network in Network for ImageNet and CIFAR: after each convolution 1x1 ones, and no fully connected layer.

Lin, Chen and Yan, "Network In Network", arXiv 1312.4400 (2013). The widths for ImageNet and the names of the
layers (conv1, cccp1, ...) are those of the Caffe model zoo, whose pooling rounds up.

The classifier is the last 1x1 convolution, with ReLU, and the mean over positions: the head "conv_pool",
which reads the map. So logits are not negative.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.pooling import ceil_max_pool
from imgcls_jax.layers.variants import choose_variant


class Stage(NamedTuple):
    """A convolution, the 1x1 convolutions after it, and what stands before the next stage.

    Attributes:
      channels: of the convolution, then of each 1x1 convolution.
      size, strides, pad: of the convolution.
      pool: "max", "avg" or "" for none; 3x3 of stride 2.
      dropout: whether dropout follows.
    """

    channels: tuple[int, ...]
    size: int
    strides: int = 1
    pad: int = 0
    pool: str = ""
    dropout: bool = False


def _pool(x: jax.Array, kind: str) -> jax.Array:
    """Pools 3x3 windows of stride 2 without padding; the last may be partial, and averages what it has."""
    if kind == "max":
        return ceil_max_pool(x)
    spare = [(0, (side - 3) % 2) for side in x.shape[1:3]]
    return nn.avg_pool(x, window_shape=(3, 3), strides=(2, 2), padding=spare, count_include_pad=False)


class NiN(nn.Module):
    """The backbone; the last 1x1 convolution is a head.

    Attributes:
      stages: the convolutions and what follows each.
      dropout: probability of dropping an entry where a stage has dropout.
      init_scale: standard deviation of the initial weights.
      dtype: of the computation; params stay float32.
    """

    head: ClassVar[str] = "conv_pool"

    stages: tuple[Stage, ...]
    dropout: float = 0.5
    init_scale: float = 0.05
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized; any size from 39x39 for ImageNet, 4x4 for CIFAR.
          train: dropout is on.

        Returns:
          Features: map [B, h, w, D] and embedding [B, D], its mean over positions; D is 1024 and h = 6 for
          H = 224 in "nin_imagenet", 192 and 8 for 32 in "nin_cifar".
        """
        x, mlp_layer = images, 0
        for number, stage in enumerate(self.stages, start=1):
            x = self._conv(stage.channels[0], f"conv{number}", stage.size, stage.strides, stage.pad)(x)
            x = nn.relu(x)
            for channels in stage.channels[1:]:
                mlp_layer += 1
                x = nn.relu(self._conv(channels, f"cccp{mlp_layer}")(x))
            if stage.pool:
                x = _pool(x, stage.pool)
            if stage.dropout:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Features(x, jnp.mean(x, axis=(1, 2)))

    def _conv(self, channels: int, name: str, size: int = 1, strides: int = 1, pad: int = 0) -> nn.Conv:
        """Returns a square convolution with a bias."""
        return Conv(
            channels,
            (size, size),
            strides=strides,
            padding=((pad, pad), (pad, pad)),
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(self.init_scale),
            name=name,
        )


VARIANTS: dict[str, tuple[Stage, ...]] = {
    "nin_imagenet": (
        Stage((96, 96, 96), 11, strides=4, pool="max"),
        Stage((256, 256, 256), 5, pad=2, pool="max"),
        Stage((384, 384, 384), 3, pad=1, pool="max", dropout=True),
        Stage((1024, 1024), 3, pad=1),
    ),
    "nin_cifar": (
        Stage((192, 160, 96), 5, pad=2, pool="max", dropout=True),
        Stage((192, 192, 192), 5, pad=2, pool="avg", dropout=True),
        Stage((192, 192), 3, pad=1),
    ),
}


def build(variant: str, **fields: Any) -> NiN:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `NiN`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return NiN(**{"stages": choose_variant(__name__, VARIANTS, variant), **fields})


def torch_head(variant: str) -> str:
    """Returns the name of the final convolution in the scheme of the other layers."""
    return {"nin_imagenet": "cccp8", "nin_cifar": "cccp6"}[variant]


def caffe_layers(variant: str) -> dict[str, str]:
    """Returns the modules of the layers of the Caffe model zoo's networks."""
    stages = choose_variant(__name__, VARIANTS, variant)
    convolutions = [f"conv{number}" for number in range(1, len(stages) + 1)]
    mlp_layers = sum(len(stage.channels) - 1 for stage in stages) + 1  # the head, too
    layers = {name: name for name in (*convolutions, *(f"cccp{i}" for i in range(1, mlp_layers + 1)))}
    for name in ("conv4", "cccp7", "cccp8"):  # of 1,024 channels in ImageNet's
        if name in layers:
            layers[f"{name}-1024"] = layers.pop(name)
    return layers
