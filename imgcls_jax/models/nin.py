"""Network in Network for ImageNet and CIFAR: after each convolution 1x1 ones, and no fully connected layer.

"nin_rotnet" is the one of Gidaris et al., arXiv:1803.07728 (2018): four blocks, BatchNorm after every
convolution, pooling with a border, no dropout, and a linear classifier.

Lin, Chen and Yan, "Network In Network", arXiv 1312.4400 (2013). The widths for ImageNet and the names of the
layers (conv1, cccp1, ...) are those of the Caffe model zoo, whose pooling rounds up.

Of the others the classifier is the last 1x1 convolution, with ReLU, and the mean over positions: the head
"conv_pool", which reads the map. So logits are not negative.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import batch_norm
from imgcls_jax.layers.pooling import avg_pool, ceil_max_pool, max_pool
from imgcls_jax.layers.variants import choose_variant


class Stage(NamedTuple):
    """A convolution, the 1x1 convolutions after it, and what stands before the next stage.

    Attributes:
      channels: of the convolution, then of each 1x1 convolution.
      size, strides, pad: of the convolution.
      pool: "max", "avg" or "" for none; 3x3 of stride 2.
      pool_pad: width of the border around what is pooled; 0 lets the last window be partial instead.
      dropout: whether dropout follows.
    """

    channels: tuple[int, ...]
    size: int
    strides: int = 1
    pad: int = 0
    pool: str = ""
    pool_pad: int = 0
    dropout: bool = False


def _pool(x: jax.Array, kind: str, pad: int = 0) -> jax.Array:
    """Pools 3x3 windows of stride 2. Without a border the last may be partial, and averages what it has; the
    zeros of a border count in averages."""
    if pad:
        pool = max_pool if kind == "max" else avg_pool
        return pool(x, window_shape=(3, 3), strides=(2, 2), padding=((pad, pad), (pad, pad)))
    if kind == "max":
        return ceil_max_pool(x)
    spare = [(0, (side - 3) % 2) for side in x.shape[1:3]]
    return avg_pool(x, window_shape=(3, 3), strides=(2, 2), padding=spare, count_include_pad=False)


class NiN(nn.Module):
    """The backbone; the last 1x1 convolution is a head.

    Attributes:
      stages: of Stage, the convolutions and what follows each.
      dropout: probability of dropping an entry where a stage has dropout.
      init_scale: standard deviation of the initial weights; with batch_norm it is sqrt(2 / (k k C_out))
        instead, as the authors of "nin_rotnet" have it.
      batch_norm: whether each convolution has BatchNorm, and no bias.
      dtype: of the computation; params stay float32.
    """

    stages: tuple[Any, ...]
    dropout: float = 0.5
    init_scale: float = 0.05
    batch_norm: bool = False
    dtype: Any = None

    @property
    def head(self) -> str:
        """The head that goes with it."""
        return "linear" if self.batch_norm else "conv_pool"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized; any size from 39x39 for ImageNet, 4x4 for CIFAR.
          train: dropout is on.

        Returns:
          Features: map [B, h, w, D] and embedding [B, D], its mean over positions; D is 1024 and h = 6 for
          H = 224 in "nin_imagenet", 192 and 8 for 32 in the others.
        """
        x, mlp_layer = images, 0
        for number, stage in enumerate(self.stages, start=1):
            x = self._unit(x, train, stage.channels[0], f"conv{number}", stage.size, stage.strides, stage.pad)
            for channels in stage.channels[1:]:
                mlp_layer += 1
                x = self._unit(x, train, channels, f"cccp{mlp_layer}")
            if stage.pool:
                x = _pool(x, stage.pool, stage.pool_pad)
            if stage.dropout:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Features(x, jnp.mean(x, axis=(1, 2)))

    def _unit(
        self,
        x: jax.Array,
        train: bool,
        channels: int,
        name: str,
        size: int = 1,
        strides: int = 1,
        pad: int = 0,
    ) -> jax.Array:
        """Returns a square convolution, with a bias or BatchNorm, and its ReLU."""
        scale = math.sqrt(2 / (size**2 * channels)) if self.batch_norm else self.init_scale
        x = Conv(
            channels,
            (size, size),
            strides=strides,
            padding=((pad, pad), (pad, pad)),
            use_bias=not self.batch_norm,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(scale),
            name=name,
        )(x)
        if self.batch_norm:
            x = batch_norm(use_running_average=not train, dtype=self.dtype, name=f"{name}_bn")(x)
        return nn.relu(x)


VARIANTS: dict[str, dict[str, Any]] = {
    "nin_imagenet": {
        "stages": (
            Stage((96, 96, 96), 11, strides=4, pool="max"),
            Stage((256, 256, 256), 5, pad=2, pool="max"),
            Stage((384, 384, 384), 3, pad=1, pool="max", dropout=True),
            Stage((1024, 1024), 3, pad=1),
        )
    },
    "nin_cifar": {
        "stages": (
            Stage((192, 160, 96), 5, pad=2, pool="max", dropout=True),
            Stage((192, 192, 192), 5, pad=2, pool="avg", dropout=True),
            Stage((192, 192), 3, pad=1),
        )
    },
    "nin_rotnet": {
        "stages": (
            Stage((192, 160, 96), 5, pad=2, pool="max", pool_pad=1),
            Stage((192, 192, 192), 5, pad=2, pool="avg", pool_pad=1),
            Stage((192, 192, 192), 3, pad=1),
            Stage((192, 192, 192), 3, pad=1),
        ),
        "batch_norm": True,
    },
}


def build(variant: str, **fields: Any) -> NiN:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `NiN`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    fields = choose_variant(__name__, VARIANTS, variant) | fields
    return NiN(**fields | {"stages": tuple(Stage(*stage) for stage in fields["stages"])})


def torch_head(variant: str) -> str:
    """Returns the name of the final layer in the scheme of the others."""
    return {"nin_imagenet": "cccp8", "nin_cifar": "cccp6", "nin_rotnet": "classifier"}[variant]


def caffe_layers(variant: str) -> dict[str, str]:
    """Returns the modules of the layers of the Caffe model zoo's networks; {} for one that it lacks."""
    if variant == "nin_rotnet":
        return {}
    stages = choose_variant(__name__, VARIANTS, variant)["stages"]
    convolutions = [f"conv{number}" for number in range(1, len(stages) + 1)]
    mlp_layers = sum(len(stage.channels) - 1 for stage in stages) + 1  # the head, too
    layers = {name: name for name in (*convolutions, *(f"cccp{i}" for i in range(1, mlp_layers + 1)))}
    for name in ("conv4", "cccp7", "cccp8"):  # of 1,024 channels in ImageNet's
        if name in layers:
            layers[f"{name}-1024"] = layers.pop(name)
    return layers
