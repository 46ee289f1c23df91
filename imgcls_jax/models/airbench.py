"""The small networks of airbench, made to learn CIFAR-10 fast: a whitening layer, then three wide groups.

Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498 (2024), sections 2.1 to 2.3 and
the code of KellerJordan/cifar10-airbench. The first layer is a 2x2 convolution whose outputs are uncorrelated
over the patches of the images and of variance one: it is set from images before the first step (`fit`), and
is meant to stay, by `optimizer.groups = (("backbone/whiten/kernel", None), ...)`. BatchNorm has no scale, and
the convolutions start as the identity as far as their inputs go. The logits are divided by 9: here that is
the embedding. Difference: the linear head has a bias, theirs has none.

Born in PyTorch: images normalized by mean and standard deviation, 32 x 32 (the final map of such is 3 x 3).
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.gelu import gelu
from imgcls_jax.layers.normalization import batch_norm
from imgcls_jax.layers.pooling import max_pool
from imgcls_jax.layers.variants import choose_variant

PATCH = 2  # side of the whitening layer's kernel
WHITENED = 2 * 3 * PATCH**2  # each eigenvector of a patch's covariance, and its negative
EPSILON = 5e-4  # added to each eigenvalue
LOGIT_SCALE = 1 / 9
SMALLEST = 9  # of which the last map has one position


def partial_identity(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draws a kernel [kh, kw, C, D]: the first C filters hand on their own channel, the others are U(-b, b),
    b = 1 / sqrt(kh kw C), PyTorch's."""
    height, width, channels, features = shape
    bound = (height * width * channels) ** -0.5
    drawn = jax.random.uniform(key, shape, dtype, -bound, bound)
    handed_on = min(channels, features)
    identity = jnp.zeros((height, width, channels, handed_on), dtype)
    each = jnp.arange(handed_on)
    identity = identity.at[height // 2, width // 2, each, each].set(1)
    return drawn.at[..., :handed_on].set(identity)


class Group(nn.Module):
    """A convolution with pooling, then further convolutions, each 3x3 with BatchNorm and GELU.

    Attributes:
      features: D.
      depth: number of convolutions; with three the input of the second is added before the last GELU.
      momentum: of BatchNorm's running statistics.
      dtype: of the computation; params stay float32.
    """

    features: int
    depth: int
    momentum: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, H, W, C]; train switches BatchNorm. Returns: [B, H // 2, W // 2, features]."""
        conv = functools.partial(
            Conv,
            self.features,
            (3, 3),
            padding="SAME",
            use_bias=False,
            kernel_init=partial_identity,
            dtype=self.dtype,
        )
        norm = functools.partial(
            batch_norm,
            momentum=self.momentum,
            epsilon=1e-12,
            use_scale=False,
            use_running_average=not train,
            dtype=self.dtype,
        )
        x = max_pool(conv(name="conv1")(x), (2, 2), (2, 2))
        x = shortcut = gelu(norm(name="norm1")(x))
        for number in range(2, self.depth + 1):
            x = norm(name=f"norm{number}")(conv(name=f"conv{number}")(x))
            if number == 3:
                x += shortcut
            x = gelu(x)
        return x


class Airbench(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      widths: channels of the three groups.
      depth: convolutions of a group, 2 or 3.
      momentum: of BatchNorm's running statistics, one minus PyTorch's.
      dtype: of the computation; params stay float32.
    """

    widths: tuple[int, int, int]
    depth: int = 2
    momentum: float = 0.6
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, 3], normalized; H and W at least SMALLEST.
          train: BatchNorm uses the batch's statistics and moves its running ones.

        Returns:
          Features: map [B, h, w, D], 3 x 3 of 32 x 32; embedding [B, D], the map's maximum over all
          positions, divided by 9.

        Raises:
          ValueError: images that are smaller, or not of three channels.
        """
        height, width, channels = images.shape[1:]
        if channels != 3 or min(height, width) < SMALLEST:
            raise ValueError(
                f"airbench reads images of three channels, at least {SMALLEST} x {SMALLEST}; got {height} x "
                f"{width} x {channels}: add rgb or upsample to the lines of transforms, or take another model"
            )
        x = Conv(WHITENED, (PATCH, PATCH), padding="VALID", dtype=self.dtype, name="whiten")(images)
        x = gelu(x)
        for number, features in enumerate(self.widths, 1):
            x = Group(features, self.depth, self.momentum, self.dtype, name=f"group{number}")(x, train)
        return Features(x, jnp.max(x, axis=(1, 2)) * LOGIT_SCALE)

    def fit(self, params: Any, images: np.ndarray) -> Any:
        """Returns the params with the whitening layer set from images.

        Eq.: the filters are +-v_i / sqrt(lambda_i + EPSILON), v_i and lambda_i being the eigenvectors and
        eigenvalues of the mean of p p^T over all patches p of the images, the largest first.

        Args:
          params: of this network.
          images: float [N, H, W, 3], normalized.
        """
        windows = np.lib.stride_tricks.sliding_window_view(images, (PATCH, PATCH), axis=(1, 2))
        patches = np.moveaxis(windows, 3, 5).reshape(-1, WHITENED // 2).astype(np.float64)
        eigenvalues, eigenvectors = np.linalg.eigh(patches.T @ patches / len(patches))
        filters = (eigenvectors / np.sqrt(eigenvalues + EPSILON))[:, ::-1]
        kernel = np.concatenate([filters, -filters], axis=1).reshape(PATCH, PATCH, 3, WHITENED)
        whiten = params["whiten"] | {"kernel": jnp.asarray(kernel, jnp.float32)}
        return params | {"whiten": whiten}


VARIANTS: dict[str, dict[str, Any]] = {
    "airbench94": dict(widths=(64, 256, 256)),
    "airbench95": dict(widths=(128, 384, 384)),
    "airbench96": dict(widths=(128, 384, 512), depth=3, momentum=0.9),
}


def build(variant: str, **fields: Any) -> Airbench:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `Airbench`, which take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return Airbench(**(choose_variant(__name__, VARIANTS, variant) | fields))
