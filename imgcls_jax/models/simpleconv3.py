"""Simpleconv3, the small CNN for 48x48 mouth crops of the book's first project.

Three 3x3 convolutions of stride 2 (12, 24, 48 channels, each with BatchNorm and ReLU), then fully connected
layers of 512 and 128. 964,706 parameters with a head of two classes. Input sizes from 8x8 up work: the first
fully connected layer grows with the size. "simpleconv3_caffe" is the book's Caffe network: one fully
connected layer of 128, without a ReLU.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.dense import Dense, fan_in_uniform, fan_in_uniform_bias
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import batch_norm, choose_norm
from imgcls_jax.layers.variants import choose_variant


class Simpleconv3(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      channels: of the three convolutions.
      hidden: widths of the fully connected layers; () for none.
      relu_after_hidden: whether these have a ReLU.
      norm: "batch", "group" or "instance", or a constructor of a norm layer that takes use_running_average
        and dtype.
      dtype: of the computation; params stay float32.
    """

    channels: tuple[int, int, int] = (12, 24, 48)
    hidden: tuple[int, ...] = (512, 128)
    relu_after_hidden: bool = True
    norm: Any = batch_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized.
          train: BatchNorm uses the batch's statistics and moves its running ones.

        Returns:
          Features: map [B, ceil(H / 8), ceil(W / 8), 48], embedding [B, 128].
        """
        x, norm = images, choose_norm(self.norm)
        for stage, channels in enumerate(self.channels, start=1):
            x = Conv(
                channels,
                (3, 3),
                strides=2,
                padding=1,
                dtype=self.dtype,
                name=f"conv{stage}",
                kernel_init=fan_in_uniform,
                bias_init=fan_in_uniform_bias(9 * x.shape[-1]),
            )(x)
            x = nn.relu(norm(use_running_average=not train, dtype=self.dtype, name=f"bn{stage}")(x))
        feature_map = x  # [B, h, w, 48]
        x = x.reshape(x.shape[0], -1)
        for layer, width in enumerate(self.hidden, start=1):
            x = Dense(width, dtype=self.dtype, name=f"fc{layer}")(x)
            x = nn.relu(x) if self.relu_after_hidden else x
        return Features(feature_map, x)


VARIANTS: dict[str, dict[str, Any]] = {
    "simpleconv3": {},
    "simpleconv3_caffe": {"hidden": (128,), "relu_after_hidden": False},
}


def build(variant: str = "simpleconv3", **fields: Any) -> Simpleconv3:
    """Returns the backbone.

    Args:
      variant: "simpleconv3" or "simpleconv3_caffe".
      **fields: attributes of `Simpleconv3`.

    Raises:
      ValueError: an unknown variant.
    """
    return Simpleconv3(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str = "simpleconv3") -> str:
    """Returns PyTorch's name of the final linear layer."""
    return "fc2" if variant == "simpleconv3_caffe" else "fc3"


def torch_flatten(variant: str = "simpleconv3") -> dict[str, tuple[int, int]]:
    """Returns the size of the map that a linear layer reads, flattened, at the book's input of 48x48."""
    del variant
    return {"fc1": (6, 6)}


def caffe_layers(variant: str) -> dict[str, str]:
    """Returns the modules of the layers of the book's Caffe network."""
    if variant != "simpleconv3_caffe":
        return {}
    convolutions = {
        f"conv{stage}{kind}": f"{module}{stage}"
        for stage in (1, 2, 3)
        for kind, module in (("", "conv"), ("/bn", "bn"), ("/scale", "bn"))
    }
    return convolutions | {"ip1": "fc1", "ip2": "fc2"}
