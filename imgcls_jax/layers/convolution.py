"""The convolution of all families: one function, in the form that is fast on the platform at hand."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers import direct, onednn, products, winograd
from imgcls_jax.layers.affine import affine
from imgcls_jax.layers.depthwise import depthwise_convolution
from imgcls_jax.layers.windows import windows

WINOGRAD_CHANNELS = 128  # with fewer the transforms cost what the products save (benchmarks/README.md)


def convolution(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Computes jax.lax.conv_general_dilated, on a CPU in the form that is fastest.

    The mathematics are the same; the sums are taken in another order. On a CPU the forms are:

    - oneDNN's direct convolution (layers/direct.py), for almost all;
    - a window wider than the map before or after it: a matrix product of the map's patches;
    - a 3x3 kernel of many channels in float32: Winograd's filtering;
    - one filter a channel (depthwise): oneDNN forward, the weights' gradient as a sum of shifted images.

    1x1 kernels are products of matrices: XLA's, which computes what follows in the same pass, or oneDNN's in
    bfloat16 where the processor multiplies it. So are all where oneDNN is not at hand, or the convolution too
    small for it; the rest is then XLA's own. Any other platform gets the native convolution.
    The figures are in benchmarks/README.md.

    Args:
      inputs: float [B, H, W, C].
      kernel: float [kh, kw, C / groups, D].
      strides: (vertical, horizontal).
      padding: "SAME", "VALID" or ((top, bottom), (left, right)).
      **options: of jax.lax.conv_general_dilated.

    Returns:
      float [B, h, w, D].
    """
    plain, native = (
        functools.partial(form, window_strides=strides, padding=padding, **options)
        for form in (direct.convolution, jax.lax.conv_general_dilated)
    )
    dilations = (*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ()))
    if any(dilation != 1 for dilation in dilations):
        return plain(inputs, kernel)
    size, groups = kernel.shape[:2], options.get("feature_group_count", 1)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(inputs.shape[1:3], size, strides, padding)

    def by_shifts(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return depthwise_convolution(inputs, kernel, tuple(strides), tuple(map(tuple, padding)))

    def by_patches(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        patches = jnp.concatenate(windows(inputs, size, strides, padding), axis=3)
        rows = patches.reshape(-1, patches.shape[3])  # of two axes, or the weights' gradient is slow
        weights = kernel.reshape(-1, kernel.shape[3])
        if rows.dtype == jnp.bfloat16 and onednn.has_bfloat16():
            product = products.dot_general(rows, weights, (((1,), (0,)), ((), ())))
        else:
            product = products.by_rows(rows, weights, precision=options.get("precision"))
        return product.reshape(*patches.shape[:3], -1)

    if groups == inputs.shape[3] == kernel.shape[3]:
        return jax.lax.platform_dependent(inputs, kernel, cpu=by_shifts, default=native)
    is_product = size == (1, 1) and not any(itertools.chain(*padding))
    if groups == 1 and (is_product or _is_wider_than_a_map(size, inputs.shape[1:3], strides, padding)):
        return jax.lax.platform_dependent(inputs, kernel, cpu=by_patches, default=native)
    if groups == 1 and _gains_by_winograd(inputs, kernel, strides, padding):
        filtering = functools.partial(winograd.convolution_3x3, padding=padding, **options)
        return jax.lax.platform_dependent(inputs, kernel, cpu=filtering, default=native)
    return plain(inputs, kernel)


def _is_wider_than_a_map(
    size: Sequence[int], shape: Sequence[int], strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> bool:
    """Whether windows that overlap are wider than the map they read, or than that of their gradient."""
    axes = zip(size, shape, strides, padding, strict=True)
    return any(k > s and k > min(n, (n + sum(pads) - k) // s + 1) >= 1 for k, n, s, pads in axes)


def _gains_by_winograd(
    inputs: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> bool:
    """Whether the six products of four outputs are many fewer than twelve, and large beside their making.

    Where products are fast beside it they are to be fewer still, as at a width of 28 but not of 14.
    """
    share = 0.55 if onednn.has_matrix_unit() else 0.7
    width = inputs.shape[2] + sum(padding[1]) - winograd.TAPS + 1
    return (
        kernel.shape[:2] == (3, 3)
        and tuple(strides) == (1, 1)
        and inputs.dtype == jnp.float32
        and max(itertools.chain(*padding)) < winograd.TAPS
        and min(kernel.shape[2:]) >= WINOGRAD_CHANNELS
        and winograd.INPUTS * -(-width // winograd.OUTPUTS) < share * winograd.TAPS * width
        # On explicit axes each sum over rows, of the weights' gradient, would have to say how it is sharded.
        and not jax.typeof(inputs).sharding.mesh.explicit_axes
    )


class Conv(nn.Conv):
    """flax.linen.Conv of two spatial axes, by `convolution`, with its attributes and parameters.

    The bias is added, and its gradient summed, in float32 or wider (`affine`).
    """

    conv_general_dilated: Any = convolution

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Args: inputs float [B, H, W, C]. Returns: float [B, h, w, features]."""
        size, strides, dilation, laid = (
            (value or 1,) * 2 if isinstance(value, int | None) else tuple(value)
            for value in (self.kernel_size, self.strides, self.kernel_dilation, self.input_dilation)
        )
        shape = (*size, inputs.shape[3] // self.feature_group_count, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        x, kernel = nn.dtypes.promote_dtype(inputs, kernel, dtype=self.dtype)
        y = self.conv_general_dilated(
            x,
            kernel,
            strides,
            nn.linear.canonicalize_padding(self.padding, 2),
            lhs_dilation=laid,
            rhs_dilation=dilation,
            dimension_numbers=direct.NUMBERS,
            feature_group_count=self.feature_group_count,
            precision=self.precision,
        )
        if not self.use_bias:
            return y
        return affine(y, self.param("bias", self.bias_init, (self.features,), self.param_dtype))


he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
