"""BN-Inception (often called Inception v2), and its form with squeeze-and-excitation.

Ioffe, Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
Shift", arXiv 1502.03167. GoogLeNet with BatchNorm after every convolution, two stacked 3x3 kernels in place
of a 5x5 one, average pools inside most modules, and two modules of stride 2 (3c, 4e) whose pooled branch
passes all channels through. No convolution has a bias. The names follow those of GoogLeNet in this package.

  bn_inception: the paper's widths; BatchNorm's epsilon is TensorFlow's 1e-3. 11,194,984 parameters with a
    head of 1000 classes.
  bn_inception_caffe: the widths of the Caffe release, 128 instead of 96 after the pools of 4c and 4d;
    epsilon 1e-5. 11,285,224 parameters.
  se_bn_inception: the Caffe widths with a squeeze-and-excitation block of ratio 16 on the joined output of
    each module (Hu et al. 2018, "Squeeze-and-Excitation Networks", arXiv 1709.01507). 11,931,622 parameters.

Differences: the first convolution is a plain 7x7 in every variant (TensorFlow-Slim's is separable), and
average pools count the zero padding in every variant, as Caffe's do. The initializer is He's normal of the
fan-in. The "Inception-v2" in arXiv 1512.00567 is another network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.attention import SqueezeExcitation
from imgcls_jax.layers.conv_unit import ConvUnit
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import batch_norm, inception_norm
from imgcls_jax.layers.pooling import avg_pool, max_pool
from imgcls_jax.layers.variants import choose_variant


class Widths(NamedTuple):
    """One module's widths.

    Attributes:
      single: of the 1x1 branch; 0 in a module of stride 2, which has none.
      middle: of the 3x3 branch: reduction, 3x3.
      double: of the double 3x3 branch: reduction, both 3x3.
      pool: kind of the pooled branch, "avg" or "max".
      project: width of the 1x1 after the pool; 0 in a module of stride 2, which passes the pooled map on.
    """

    single: int
    middle: tuple[int, int]
    double: tuple[int, int]
    pool: str
    project: int


_MODULES = {
    "3a": Widths(64, (64, 64), (64, 96), "avg", 32),
    "3b": Widths(64, (64, 96), (64, 96), "avg", 64),
    "3c": Widths(0, (128, 160), (64, 96), "max", 0),
    "4a": Widths(224, (64, 96), (96, 128), "avg", 128),
    "4b": Widths(192, (96, 128), (96, 128), "avg", 128),
    "4c": Widths(160, (128, 160), (128, 160), "avg", 96),
    "4d": Widths(96, (128, 192), (160, 192), "avg", 96),
    "4e": Widths(0, (128, 192), (192, 256), "max", 0),
    "5a": Widths(352, (192, 320), (160, 224), "avg", 128),
    "5b": Widths(352, (192, 320), (192, 224), "max", 128),
}
_CAFFE_PROJECT = {"4c": 128, "4d": 128}

_CAFFE = {"caffe_widths": True, "norm": batch_norm}
VARIANTS: dict[str, dict[str, Any]] = {
    "bn_inception": {},
    "bn_inception_caffe": _CAFFE,
    "se_bn_inception": _CAFFE | {"squeeze_ratio": 16},
}


def _unit(norm: Any, dtype: Any) -> Callable[..., ConvUnit]:
    """Returns the constructor of a convolution without bias, BatchNorm and ReLU."""
    return functools.partial(ConvUnit, norm=norm, kernel_init=nn.initializers.he_normal(), dtype=dtype)


class Inception(nn.Module):
    """One module; of stride 2 where its widths have no 1x1 branch.

    Attributes:
      widths: of its branches.
      squeeze_ratio: of the squeeze-and-excitation block on the output; 0 for none.
      norm: constructor of the norm layer.
      dtype: of the computation.
    """

    widths: Widths
    squeeze_ratio: int = 0
    norm: Any = inception_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]; train. Returns: float [B, h', w', D], the branches joined."""
        conv = _unit(self.norm, self.dtype)
        widths = self.widths
        strides = 1 if widths.single else 2
        branches = [conv(widths.single, name="branch1")(x, train)] if widths.single else []
        middle = conv(widths.middle[0], name="branch2.0")(x, train)
        branches.append(conv(widths.middle[1], 3, strides, name="branch2.1")(middle, train))
        double = conv(widths.double[0], name="branch3.0")(x, train)
        double = conv(widths.double[1], 3, name="branch3.1")(double, train)
        branches.append(conv(widths.double[1], 3, strides, name="branch3.2")(double, train))
        pooled = _halve(x) if strides == 2 else _pool(x, widths.pool)
        branches.append(conv(widths.project, name="branch4.1")(pooled, train) if widths.project else pooled)
        x = jnp.concatenate(branches, axis=-1)
        if self.squeeze_ratio:
            gate = SqueezeExcitation(
                self.squeeze_ratio,
                kernel_init=nn.initializers.lecun_normal(),
                dtype=self.dtype,
                name="se_module",
            )
            x = gate(x)
        return x


def _pool(x: jax.Array, kind: str) -> jax.Array:
    """3x3, stride 1, `kind` "avg" (the padding counts) or "max": float [B, h, w, C] -> [B, h, w, C]."""
    pool = {"avg": avg_pool, "max": max_pool}[kind]
    return pool(x, window_shape=(3, 3), strides=(1, 1), padding=((1, 1), (1, 1)))


def _halve(x: jax.Array) -> jax.Array:
    """Max pool 3x3 of stride 2: float [B, h, w, C] -> [B, ceil(h / 2), ceil(w / 2), C].

    On even sides it is Caffe's pool without padding that rounds up. On odd sides that pool would give one row
    less than the padded convolutions beside it, so there the windows are centered as theirs are.
    """
    padding = [(side % 2, 1) for side in x.shape[1:3]]
    return max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=padding)


class BNInception(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      caffe_widths: those of the Caffe release instead of the paper's.
      squeeze_ratio: of the squeeze-and-excitation blocks; 0 for none.
      norm: constructor of a norm layer that takes use_running_average, dtype and name.
      dtype: of the computation; params stay float32.
      remat: recompute each module's inside in the backward pass instead of keeping it.
    """

    caffe_widths: bool = False
    squeeze_ratio: int = 0
    norm: Any = inception_norm
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, 3], normalized; 224x224 or any other size.
          train: BatchNorm uses the batch's statistics and moves its running ones.

        Returns:
          Features: map [B, ceil(H / 32), ceil(W / 32), 1024], embedding [B, 1024].
        """
        fields = {"norm": self.norm, "dtype": self.dtype}
        conv = _unit(self.norm, self.dtype)
        block = nn.remat(Inception, static_argnums=(2,)) if self.remat else Inception
        x = _halve(conv(64, 7, 2, name="conv1")(images, train))  # [B, H / 4, W / 4, 64]
        x = conv(64, name="conv2")(x, train)
        x = _halve(conv(192, 3, name="conv3")(x, train))  # [B, H / 8, W / 8, 192]
        for module, widths in _MODULES.items():
            if self.caffe_widths:
                widths = widths._replace(project=_CAFFE_PROJECT.get(module, widths.project))
            x = block(widths, self.squeeze_ratio, name=f"inception{module}", **fields)(x, train)
        return Features(x, x.mean(axis=(1, 2)))


def build(variant: str = "bn_inception", **fields: Any) -> BNInception:
    """Returns the backbone.

    Args:
      variant: "bn_inception", "bn_inception_caffe" or "se_bn_inception".
      **fields: attributes of `BNInception`.

    Raises:
      ValueError: an unknown variant.
    """
    return BNInception(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns the name of the final linear layer."""
    choose_variant(__name__, VARIANTS, variant)
    return "fc"
