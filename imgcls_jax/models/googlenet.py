"""GoogLeNet (Inception v1), in its original form and in PyTorch's with BatchNorm.

Szegedy et al. 2015, "Going Deeper with Convolutions", arXiv 1409.4842 (2014). Inception modules join a 1x1,
a 3x3, a 5x5 and a pooled branch; every convolution is followed by a ReLU; pools of stride 2 round up (224 ->
112 -> 56 -> 28 -> 14 -> 7).

  googlenet_original: the paper's network as Caffe's reference model has it: biases, local response
    normalization (size 5, alpha 1e-4, k 1) in the stem. 6,998,552 parameters with a head of 1000 classes,
    13,378,280 with both auxiliary classifiers and their heads.
  googlenet: PyTorch's: BatchNorm (epsilon 1e-3) after every convolution instead of biases and response
    normalization, 3x3 kernels in the "5x5" branch, a last pool of 2x2, auxiliary classifiers that pool
    adaptively to 4x4. 6,624,904 and 13,004,888 parameters.

Both use the same names. The dropout before the final classifier (0.4 in the original, 0.2 in PyTorch) belongs
to the head; that of the auxiliary classifiers is here. PyTorch's released weights expect inputs in [-1, 1],
that is (pixel / 255 - 0.5) / 0.5; its option transform_input, which maps ImageNet-normalized inputs to that
range, is preprocessing and not in the network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.conv_unit import ConvUnit
from imgcls_jax.layers.dense import Linear, fan_in_uniform_bias
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.lrn import local_response_norm
from imgcls_jax.layers.normalization import inception_norm
from imgcls_jax.layers.pooling import adaptive_average_pool, avg_pool, ceil_max_pool, max_pool
from imgcls_jax.layers.variants import choose_variant

# Each module's widths: 1x1; 3x3 reduction, 3x3; 5x5 reduction, 5x5; projection after the pool.
_MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
# The modules whose outputs the auxiliary classifiers read.
_AUXILIARY = {"4a": "aux1", "4d": "aux2"}
# Caffe's names of a module's convolutions.
CAFFE_BRANCHES = {
    "1x1": "branch1",
    "3x3_reduce": "branch2.0",
    "3x3": "branch2.1",
    "5x5_reduce": "branch3.0",
    "5x5": "branch3.1",
    "pool_proj": "branch4.1",
}

VARIANTS: dict[str, dict[str, Any]] = {
    "googlenet": {},
    "googlenet_original": {"original": True, "norm": None},
}


def _init(norm: Any) -> dict[str, Any]:
    """Returns PyTorch's initializer with a norm layer, Caffe's ("xavier", bias 0.2) without."""
    if norm is not None:
        return {"kernel_init": nn.initializers.normal(0.01)}
    return {"kernel_init": nn.initializers.lecun_uniform(), "bias_init": nn.initializers.constant(0.2)}


def _unit(norm: Any, dtype: Any) -> Callable[..., ConvUnit]:
    """Returns the constructor of a convolution, norm (or bias) and ReLU."""
    return functools.partial(ConvUnit, norm=norm, dtype=dtype, **_init(norm))


class Inception(nn.Module):
    """One Inception module.

    Attributes:
      widths: of its convolutions, as a row of the module's table.
      wide_kernel: of the third branch.
      norm: constructor of the norm layer, or None for biases.
      dtype: of the computation.
    """

    widths: tuple[int, int, int, int, int, int]
    wide_kernel: int = 3
    norm: Any = inception_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]; train. Returns: float [B, h, w, D], the four branches joined."""
        conv = _unit(self.norm, self.dtype)
        single, reduce, middle, wide_reduce, wide, project = self.widths
        first = conv(single, name="branch1")(x, train)
        second = conv(reduce, name="branch2.0")(x, train)
        second = conv(middle, 3, name="branch2.1")(second, train)
        third = conv(wide_reduce, name="branch3.0")(x, train)
        third = conv(wide, self.wide_kernel, name="branch3.1")(third, train)
        pooled = max_pool(x, window_shape=(3, 3), strides=(1, 1), padding=((1, 1), (1, 1)))
        fourth = conv(project, name="branch4.1")(pooled, train)
        return jnp.concatenate((first, second, third, fourth), axis=-1)


class Auxiliary(nn.Module):
    """An auxiliary classifier up to what its final linear layer reads.

    Attributes:
      original: average over 5x5 windows of stride 3 instead of adaptively to 4x4. The two agree in size on
        a 14x14 map alone; on other maps fc1 of the original grows.
      dropout: probability of dropping an entry of the output.
      norm: constructor of the norm layer, or None for biases.
      dtype: of the computation.
    """

    original: bool = False
    dropout: float = 0.7
    norm: Any = inception_norm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]; train switches dropout and norm. Returns: float [B, 1024].

        Raises:
          ValueError: in the original form, a map smaller than 5x5.
        """
        if self.original and min(x.shape[1:3]) < 5:
            raise ValueError(
                "the original auxiliary classifiers need a map of 5x5 or more, got "
                f"{x.shape[1]}x{x.shape[2]}; give images of 79x79 or more, or build with aux=False"
            )
        if self.original:
            x = avg_pool(x, window_shape=(5, 5), strides=(3, 3))  # [B, 4, 4, C]
        else:
            x = adaptive_average_pool(x, (4, 4))
        x = _unit(self.norm, self.dtype)(128, name="conv")(x, train)
        x = x.reshape(x.shape[0], -1)  # [B, 2048]
        init = {"bias_init": fan_in_uniform_bias(x.shape[-1])} | _init(self.norm)
        x = nn.relu(Linear(1024, dtype=self.dtype, name="fc1", **init)(x))
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class GoogLeNet(nn.Module):
    """The backbone; the final classifiers are heads.

    Attributes:
      original: the paper's stem, 5x5 branch, last pool and auxiliary pool instead of PyTorch's.
      aux: build the auxiliary classifiers' trunks (params aux1, aux2), which run in training only. Each
        of their losses counts `aux_weight` times.
      aux_dropout: probability of dropping an entry of an auxiliary output.
      norm: constructor of a norm layer that takes use_running_average, dtype and name; None for
        biases instead.
      dtype: of the computation; params stay float32.
      remat: recompute each Inception module's inside in the backward pass instead of keeping it.
    """

    original: bool = False
    aux: bool = False
    aux_dropout: float = 0.7
    norm: Any = inception_norm
    dtype: Any = None
    remat: bool = False

    aux_weight: ClassVar[float] = 0.3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, 3], normalized; 224x224, at least 15x15 (the original's auxiliary
            classifiers: 79x79).
          train: BatchNorm uses the batch's statistics and moves its running ones; the auxiliary trunks run,
            with dropout (rng "dropout").

        Returns:
          Features: map [B, 7, 7, 1024], embedding [B, 1024]; aux two of [B, 1024] if aux and train, else ().
        """
        fields = {"norm": self.norm, "dtype": self.dtype}
        block = nn.remat(Inception, static_argnums=(2,)) if self.remat else Inception
        side_outputs = []
        x = self._stem(images, train)
        for module, widths in _MODULES.items():
            if module in ("4a", "5a"):
                x = ceil_max_pool(x, 2 if module == "5a" and not self.original else 3)
            wide_kernel = 5 if self.original else 3
            x = block(widths, wide_kernel, name=f"inception{module}", **fields)(x, train)
            if module in _AUXILIARY and self.aux and (train or self.is_initializing()):
                name = _AUXILIARY[module]
                side_output = Auxiliary(self.original, self.aux_dropout, name=name, **fields)(x, train)
                side_outputs.append(side_output)
        return Features(x, x.mean(axis=(1, 2)), tuple(side_outputs))

    def _stem(self, images: jax.Array, train: bool) -> jax.Array:
        """Args: images float [B, H, W, 3]; train. Returns: float [B, H / 8, W / 8, 192]."""
        conv = _unit(self.norm, self.dtype)
        respond = functools.partial(local_response_norm, size=5, alpha=1e-4, beta=0.75, k=1.0)
        x = ceil_max_pool(conv(64, 7, 2, name="conv1")(images, train))  # [B, H / 4, W / 4, 64]
        x = respond(x) if self.original else x
        x = conv(64, name="conv2")(x, train)
        x = conv(192, 3, name="conv3")(x, train)
        return ceil_max_pool(respond(x) if self.original else x)


def build(variant: str = "googlenet", **fields: Any) -> GoogLeNet:
    """Returns the backbone.

    Args:
      variant: "googlenet" (PyTorch's, with BatchNorm) or "googlenet_original" (the paper's).
      **fields: attributes of `GoogLeNet`.

    Raises:
      ValueError: an unknown variant.
    """
    return GoogLeNet(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final linear layer."""
    choose_variant(__name__, VARIANTS, variant)
    return "fc"


def torch_aux_heads(variant: str) -> tuple[str, ...]:
    """Returns PyTorch's names of the auxiliary final linear layers, in the order of Features.aux."""
    choose_variant(__name__, VARIANTS, variant)
    return tuple(f"{name}.fc2" for name in _AUXILIARY.values())


def torch_flatten(variant: str) -> dict[str, tuple[int, int]]:
    """Returns the linear layers that read a flattened map, and the map's height and width."""
    choose_variant(__name__, VARIANTS, variant)
    return {f"{name}.fc1": (4, 4) for name in _AUXILIARY.values()}


def caffe_layers(variant: str) -> dict[str, str]:
    """Returns the modules of the layers of Caffe's reference model."""
    if variant != "googlenet_original":
        return {}
    layers = {"conv1/7x7_s2": "conv1", "conv2/3x3_reduce": "conv2", "conv2/3x3": "conv3"}
    layers |= {
        f"inception_{module}/{layer}": f"inception{module}.{branch}"
        for module in _MODULES
        for layer, branch in CAFFE_BRANCHES.items()
    }
    classifiers = {"loss3/classifier": "fc"}
    for number, name in enumerate(_AUXILIARY.values(), start=1):
        layers[f"loss{number}/conv"] = f"{name}.conv"
        classifiers |= {f"loss{number}/fc": f"{name}.fc1", f"loss{number}/classifier": f"{name}.fc2"}
    return {layer: f"{module}.conv" for layer, module in layers.items()} | classifiers
