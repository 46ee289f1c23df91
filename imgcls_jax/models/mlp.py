"""Mlp: a multi-layer perceptron on the pixels, the baseline that a convolutional network has to beat.

The image is flattened; then come fully connected layers, each with ReLU and dropout. An image of another size
or another number of channels needs a network of its own.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from imgcls_jax.layers.dense import Dense
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.variants import choose_variant


class Mlp(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      hidden: widths of the layers; () leaves the pixels themselves, so that the head is logistic regression.
      dropout: probability after each layer, in [0, 1).
      dtype: of the computation; params stay float32.
    """

    hidden: tuple[int, ...] = (512, 256)
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized.
          train: switches dropout (rng "dropout").

        Returns:
          Features: map [B, 1, 1, D], embedding [B, D], D being the last width, or H W C without layers.
        """
        x = images.reshape(images.shape[0], -1)
        for layer, width in enumerate(self.hidden, start=1):
            x = nn.relu(Dense(width, dtype=self.dtype, name=f"fc{layer}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Features(x[:, None, None], x)


VARIANTS: dict[str, dict[str, Any]] = {"mlp": {}}


def build(variant: str = "mlp", **fields: Any) -> Mlp:
    """Returns the backbone.

    Args:
      variant: "mlp", the only one.
      **fields: attributes of `Mlp`.

    Raises:
      ValueError: an unknown variant.
    """
    return Mlp(**(choose_variant(__name__, VARIANTS, variant) | fields))
