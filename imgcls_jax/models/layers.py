"""Pieces that several families share: what a backbone returns, the norm layer, initialisers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]

# Flax's momentum is one minus that of PyTorch: 0.9 here is the usual 0.1 there. The running variance is the
# biased one.
batch_norm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


class Features(NamedTuple):
    """What every backbone returns.

    Attributes:
      map: float [B, h, w, D'], the last feature map.
      embedding: float [B, D], what a final linear layer reads.
      aux: side outputs for auxiliary classifiers, float [B, D''] each; () where the network has none.
    """

    map: jax.Array
    embedding: jax.Array
    aux: tuple[jax.Array, ...] = ()


# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the variance is a third of lecun_uniform's.
fan_in_uniform: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def fan_in_uniform_bias(fan_in: int) -> Initializer:
    """Returns the bias initialiser that goes with `fan_in_uniform`: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def small_convolution(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """A convolution for kernels of few inputs, for `nn.Conv(conv_general_dilated=small_convolution)`.

    The mathematics are those of jax.lax.conv_general_dilated. On a CPU it is written as patches times a
    matrix, whose gradients are matrix products too: XLA's own gradients of such convolutions are slow there
    (a training step of Simpleconv3 takes 1.3 to 1.4 times as long with them). Elsewhere it is the native
    convolution.

    Args:
      inputs: float [B, H, W, C].
      kernel: float [kh, kw, C, D].
      strides: (vertical, horizontal).
      padding: ((top, bottom), (left, right)).
      **options: of jax.lax.conv_general_dilated; dilation and groups are not for this function.

    Returns:
      float [B, h, w, D].

    Raises:
      ValueError: dilation or groups.
    """
    dilations = (*options.get("lhs_dilation", ()), *options.get("rhs_dilation", ()))
    if options.get("feature_group_count", 1) != 1 or any(dilation != 1 for dilation in dilations):
        raise ValueError(
            "small_convolution takes neither groups nor dilation; leave nn.Conv its own convolution"
        )

    def native(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, **options)

    def by_patches(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        windows = _windows(inputs, kernel.shape[:2], strides, padding)
        patches = jnp.concatenate(windows, axis=-1)  # [B, h, w, kh * kw * C]
        precision = options.get("precision")
        return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[-1]), precision=precision)

    return jax.lax.platform_dependent(inputs, kernel, cpu=by_patches, default=native)


def depthwise_convolution(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """A convolution of one filter a channel, for `nn.Conv(conv_general_dilated=depthwise_convolution)`.

    The mathematics are those of jax.lax.conv_general_dilated. On a CPU it is a sum of shifted images, each
    times its weights: XLA's own grouped convolution takes 10 to 100 times as long there, and its gradient as
    well. Elsewhere it is the native convolution.

    Args:
      inputs: float [B, H, W, C].
      kernel: float [kh, kw, 1, C].
      strides: (vertical, horizontal).
      padding: "SAME", "VALID" or ((top, bottom), (left, right)).
      **options: of jax.lax.conv_general_dilated; dilation is not for this function.

    Returns:
      float [B, h, w, C].

    Raises:
      ValueError: dilation, or another number of groups than channels.
    """
    dilations = (*options.get("lhs_dilation", ()), *options.get("rhs_dilation", ()))
    groups = (options.get("feature_group_count", 1), kernel.shape[3])
    if groups != (inputs.shape[3],) * 2 or any(dilation != 1 for dilation in dilations):
        raise ValueError("depthwise_convolution takes one filter a channel, without dilation")
    size = kernel.shape[:2]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(inputs.shape[1:3], size, strides, padding)

    def native(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, **options)

    def by_shifts(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        windows = _windows(inputs, size, strides, padding)
        filters = kernel.reshape(-1, kernel.shape[3])
        return sum(window * weights for window, weights in zip(windows, filters, strict=True))

    return jax.lax.platform_dependent(inputs, kernel, cpu=by_shifts, default=native)


def _windows(
    inputs: jax.Array, size: tuple[int, int], strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> list[jax.Array]:
    """Returns what lies under each weight of a kernel, in its own order: kh * kw arrays [B, h, w, C]."""
    padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    spans = [(n - k) // s * s + 1 for n, k, s in zip(padded.shape[1:3], size, strides, strict=True)]
    return [
        padded[:, y : y + spans[0] : strides[0], x : x + spans[1] : strides[1]]
        for y in range(size[0])
        for x in range(size[1])
    ]


def adaptive_average_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Averages a map into a fixed number of bins; bin i of n spans floor(i H / n) to ceil((i + 1) H / n).

    Args:
      x: float [B, H, W, C].
      size: (h, w).

    Returns:
      float [B, h, w, C]; x itself where it has that size.
    """
    for axis, count in enumerate(size, start=1):
        length = x.shape[axis]
        if length != count:
            bins = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
            means = [jax.lax.slice_in_dim(x, *span, axis=axis).mean(axis) for span in bins]
            x = jnp.stack(means, axis)
    return x


class Dense(nn.Module):
    """A linear layer with the fan-in uniform initialiser for kernel and bias.

    Attributes:
      features: size of the output.
      dtype: of the computation; params stay float32.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [..., D]. Returns: float [..., features]."""
        init_bias = fan_in_uniform_bias(x.shape[-1])
        kernel = self.param("kernel", fan_in_uniform, (x.shape[-1], self.features))
        bias = self.param("bias", init_bias, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + bias
