"""Normalization layers that a network chooses from by name: batch, group, instance.

"batch": Ioffe and Szegedy, "Batch Normalization", arXiv 1502.03167 (2015). Its gradient reads little memory:
it differs from flax.linen.BatchNorm in the order of the operations. Flax keeps x minus its mean, or computes
it again, for the gradient of the scale.

Difference from PyTorch: the running variance is the biased one, as in flax and TensorFlow; PyTorch keeps n /
(n - 1) times it, n being the entries of a channel in the batch. With 4 x 4 maps of 8 images that is 0.8 %
more, with maps of 1 x 1 of 8 images 14 %: it matters in evaluation alone, and for small batches of small
maps. Imported running statistics are used as they are.

"group": Wu and He, arXiv 1803.08494 (2018); "instance": Ulyanov et al., arXiv 1607.08022 (2016). Both look at
one image at a time, in training and prediction alike, and keep no statistics. PyTorch's instance
normalization has no scale and bias by default; here it has them, as batch normalization.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.affine import affine, moments

MOST_GROUPS = 32  # of the paper
EPSILON = 1e-5
FIXED = ("axis", "axis_name", "axis_index_groups", "use_fast_variance", "force_float32_reductions")


class BatchNorm(nn.BatchNorm):
    """flax.linen.BatchNorm over all axes but the last, as x times a vector plus a vector.

    So the gradient needs only two sums over the batch: of the incoming gradient, and of its product with x
    itself. The attributes, params and batch_stats are flax's; those of FIXED stay at flax's defaults.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Args: x float [..., C]. Returns: float [..., C] in `dtype`, of x and the params by default.

        Raises:
          ValueError: an attribute of FIXED is not at its default, or a mask is given.
        """
        changed = [name for name in FIXED if getattr(self, name) != getattr(nn.BatchNorm, name)]
        changed += ["mask"] if mask is not None else []
        if changed:
            raise ValueError(f"this BatchNorm has no {', '.join(changed)}; use flax.linen.BatchNorm")
        use_running = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if use_running:
            mean, var = running_mean.value, running_var.value
        else:
            mean, var = (each.reshape(channels) for each in moments(x, tuple(range(x.ndim - 1))))
            if not self.is_initializing():
                for running, value in ((running_mean, mean), (running_var, var)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * value
        factor = jax.lax.rsqrt(var + self.epsilon)
        params = []
        if self.use_scale:
            params.append(self.param("scale", self.scale_init, channels, self.param_dtype))
            factor *= params[-1]
        offset = -mean * factor
        if self.use_bias:
            params.append(self.param("bias", self.bias_init, channels, self.param_dtype))
            offset += params[-1]
        dtype = nn.dtypes.canonicalize_dtype(x, *params, dtype=self.dtype)
        return affine(x, offset, factor, dtype)


# Flax's momentum is one minus that of PyTorch: 0.9 here is the usual 0.1 there.
batch_norm = functools.partial(BatchNorm, momentum=0.9, epsilon=EPSILON)
inception_norm = functools.partial(batch_norm, epsilon=1e-3)  # TensorFlow's, of the Inception networks


def group_norm(*, use_running_average: bool, **fields: Any) -> Callable[[jax.Array], jax.Array]:
    """Group normalization of 32 groups, or of fewer where a group would have less than two channels.

    Args:
      use_running_average: not read; there is no such average.
      **fields: attributes of flax.linen.GroupNorm.

    Returns:
      a layer, float [B, ..., C] to the same, that belongs to the module that calls it. The number of groups
      is the largest power of two that divides C / 2, at most 32; 1 where C is odd.
    """
    del use_running_average

    def apply(x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        groups = 1 if channels % 2 else math.gcd(MOST_GROUPS, channels // 2)
        return nn.GroupNorm(groups, epsilon=EPSILON, **fields)(x)

    return apply


def instance_norm(*, use_running_average: bool, **fields: Any) -> Callable[[jax.Array], jax.Array]:
    """Instance normalization: of each channel of each image by its own mean and variance.

    Args:
      use_running_average: not read; there is no such average.
      **fields: attributes of flax.linen.InstanceNorm.

    Returns:
      a layer, float [B, ..., C] to the same, that belongs to the module that calls it. It raises ValueError
      for a map of one position, which it would make 0.
    """
    del use_running_average

    def apply(x: jax.Array) -> jax.Array:
        if math.prod(x.shape[1:-1]) == 1:
            raise ValueError(
                f'norm = "instance" makes a map of one position, {x.shape}, 0 everywhere: use larger images, '
                'or norm = "group"'
            )
        return nn.InstanceNorm(epsilon=EPSILON, **fields)(x)

    return apply


NORMS = {"batch": batch_norm, "group": group_norm, "instance": instance_norm}


def choose_norm(norm: Any) -> Any:
    """Returns the constructor of a norm layer that one of NORMS names; anything but a name as it is.

    Raises:
      ValueError: an unknown name.
    """
    if not isinstance(norm, str):
        return norm
    if norm not in NORMS:
        raise ValueError(f"model.norm is one of {', '.join(NORMS)}; got {norm!r}")
    return NORMS[norm]
