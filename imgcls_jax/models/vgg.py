"""VGG, configurations A, A-LRN, B, C, D and E of the paper, with and without BatchNorm.

Simonyan, Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
arXiv:1409.1556. The BatchNorm forms are later than the paper; their convolutions keep their biases. Other
input sizes than 224 meet fc6 through adaptive average pooling, which is the identity at 224; the paper's own
way, fc6 applied at every position, is `dense=True`.

The dropout of 0.5 directly before the final classifier belongs to the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.convolution import Conv, he_fan_out
from imgcls_jax.layers.dense import Linear
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.lrn import local_response_norm
from imgcls_jax.layers.normalization import batch_norm, choose_norm
from imgcls_jax.layers.pooling import adaptive_average_pool, max_pool
from imgcls_jax.layers.renaming import with_modules_renamed
from imgcls_jax.layers.variants import choose_variant
from imgcls_jax.layers.windows import windows

Blocks = tuple[tuple[int, ...], ...]

CHANNELS = (64, 128, 256, 512, 512)
# Kernel sizes of the convolutions in each of the five blocks (the paper's table 1).
CONFIGURATIONS: dict[str, Blocks] = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
DEPTHS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
FC6_WINDOW = (7, 7)

_fc_normal = nn.initializers.normal(0.01)


class VGG(nn.Module):
    """The backbone, up to fc7 and its ReLU; the final classifier is a head.

    Attributes:
      blocks: kernel sizes of the convolutions of each block; a max-pooling ends a block.
      channels: of each block.
      norm: "batch", "group" or "instance", or a constructor of a norm layer that takes use_running_average,
        dtype and name; None for none.
      response_norm: local response normalization after the first convolution (A-LRN). It takes no number
        among the layers' names, so that the weights of A fit.
      hidden: widths of fc6 and fc7.
      dropout: probability after fc6.
      last_pool: whether the last block is pooled; bilinear networks read its map unpooled.
      top: whether fc6 and fc7 exist; without them the embedding is the mean of the map.
      dense: apply fc6 and fc7 at every position of the map and average (section 3.2 of the paper). As the
        final layer is linear, it then yields the average of the scores.
      remat: compute each block again in the backward pass instead of keeping its activations.
      dtype: of the computation; params stay float32.
    """

    blocks: Blocks = CONFIGURATIONS["D"]
    channels: tuple[int, ...] = CHANNELS
    norm: Any = None
    response_norm: bool = False
    hidden: tuple[int, int] = (4096, 4096)
    dropout: float = 0.5
    last_pool: bool = True
    top: bool = True
    dense: bool = False
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized; H and W at least 32.
          train: switches dropout (rng "dropout") and BatchNorm's use of the batch's statistics.

        Returns:
          Features: map [B, H // 32, W // 32, 512], embedding [B, 4096]. Without the last pooling the map has
          H // 16 rows; without the top the embedding is [B, 512].

        Raises:
          ValueError: images under 32x32, or under 224x224 for the dense form.
        """
        block = nn.remat(VGG._block, static_argnums=(2, 3, 4)) if self.remat else VGG._block
        x, first = images, 0
        for stage, kernels in enumerate(self.blocks):
            x = block(self, x, stage, first, train)
            first += len(kernels) * self._layers_per_convolution() + 1
        if 0 in x.shape:
            raise ValueError(f"VGG needs images of at least 32x32; got {images.shape}")
        if not self.top:
            return Features(x, x.mean((1, 2)))
        return Features(x, self._fully_connected(x, train))

    def _layers_per_convolution(self) -> int:
        """The convolution, its ReLU and, where there is one, its norm each count in the layers' names."""
        return 2 if self.norm is None else 3

    def _block(self, x: jax.Array, stage: int, first: int, train: bool) -> jax.Array:
        """Args: x [B, h, w, C]; first, number of its first layer. Returns: [B, h // 2, w // 2, C']."""
        for layer, kernel in enumerate(self.blocks[stage]):
            number = first + layer * self._layers_per_convolution()
            margin = kernel // 2
            x = Conv(
                self.channels[stage],
                (kernel, kernel),
                padding=((margin, margin), (margin, margin)),
                dtype=self.dtype,
                kernel_init=he_fan_out,
                name=f"features.{number}",
            )(x)
            if self.norm is not None:
                norm = choose_norm(self.norm)
                x = norm(use_running_average=not train, dtype=self.dtype, name=f"features.{number + 1}")(x)
            x = nn.relu(x)
            if self.response_norm and number == 0:
                # The setting of AlexNet's paper: alpha 1e-4, there not divided by the window's size.
                x = local_response_norm(x, size=5, alpha=5e-4, beta=0.75, k=2.0)
        if stage == len(self.blocks) - 1 and not self.last_pool:
            return x
        return max_pool(x, window_shape=(2, 2), strides=(2, 2), padding=((0, 0), (0, 0)))

    def _fully_connected(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, 4096]."""
        if self.dense:
            if min(x.shape[1:3]) < min(FC6_WINDOW):
                raise ValueError(
                    f"dense VGG needs images of at least 224x224; its map came out as {x.shape[1:3]}"
                )
            seen = windows(x, FC6_WINDOW, (1, 1), ((0, 0), (0, 0)))
            x = jnp.concatenate(seen, axis=-1)  # [B, h - 6, w - 6, 7 * 7 * C]
        else:
            x = adaptive_average_pool(x, FC6_WINDOW)
            x = x.reshape(x.shape[0], 1, 1, -1)  # [B, 1, 1, 7 * 7 * C]
        for number, width in zip((0, 3), self.hidden, strict=True):
            name = f"classifier.{number}"
            x = nn.relu(Linear(width, dtype=self.dtype, kernel_init=_fc_normal, name=name)(x))
            if number == 0:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return x.mean((1, 2))


def _variants() -> dict[str, dict[str, Any]]:
    """Returns the fields of each variant by its name."""
    plain = {letter: {"blocks": blocks} for letter, blocks in CONFIGURATIONS.items()}
    plain |= {name: plain[letter] for name, letter in DEPTHS.items()}
    normed = {f"{name}_bn": {**fields, "norm": batch_norm} for name, fields in plain.items()}
    return {**plain, "A-LRN": {**plain["A"], "response_norm": True}, **normed}


VARIANTS = _variants()


def build(variant: str = "vgg16", **fields: Any) -> VGG:
    """Returns the backbone.

    Args:
      variant: "A", "A-LRN", "B", "C", "D" or "E" of the paper, or "vgg11", "vgg13", "vgg16", "vgg19" for
        A, B, D, E; all but "A-LRN" also with "_bn".
      **fields: attributes of `VGG`.

    Raises:
      ValueError: an unknown variant.
    """
    return VGG(**(choose_variant(__name__, VARIANTS, variant) | fields))


TORCH_OPTIONAL = ("classifier",)  # fc6 and fc7, absent with top=False


def torch_head(variant: str) -> str:
    """Returns torchvision's name of the final linear layer."""
    choose_variant(__name__, VARIANTS, variant)
    return "classifier.6"


def torch_flatten(variant: str) -> dict[str, tuple[int, int]]:
    """Returns the rows and columns of the map that each linear layer after a flatten reads."""
    choose_variant(__name__, VARIANTS, variant)
    return {"classifier.0": FC6_WINDOW}


TIMM_NAMES = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings timm's names to torchvision's, which pass as they are.

    Args:
      arrays: {"features.0.weight": ..., "pre_logits.fc1.weight": [4096, 512, 7, 7], ...}: fc6 and fc7 are
        convolutions there.
      variant: of `build`.

    Returns:
      {"features.0.weight": ..., "classifier.0.weight": [4096, 25088], ...}.
    """
    del variant
    named = {}
    for name, array in arrays.items():
        module, dot, leaf = name.rpartition(".")
        if module.startswith("pre_logits.") and getattr(array, "ndim", 0) == 4:
            array = array.reshape(len(array), -1)
        named[f"{TIMM_NAMES.get(module, module)}{dot}{leaf}"] = array
    return named


def timm_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings torchvision's names and shapes to timm's, the inverse of `import_weights` for its names."""
    shapes = dict(zip(TIMM_NAMES.values(), (FC6_WINDOW, (1, 1)), strict=False))  # of fc6 and fc7
    shaped = dict(arrays)
    for module, window in shapes.items():
        if f"{module}.weight" in shaped:
            weight = shaped[f"{module}.weight"]
            shaped[f"{module}.weight"] = weight.reshape(len(weight), -1, *window)
    return with_modules_renamed(shaped, {ours: theirs for theirs, ours in TIMM_NAMES.items()})


def caffe_layers(variant: str) -> dict[str, str]:
    """Returns the modules of the layers of the authors' Caffe networks, which have no BatchNorm."""
    fields = choose_variant(__name__, VARIANTS, variant)
    if "norm" in fields:
        return {}
    layers, number = {}, 0
    for block, kernels in enumerate(fields["blocks"], start=1):
        for layer in range(1, len(kernels) + 1):
            layers[f"conv{block}_{layer}"] = f"features.{number}"
            number += 2  # the convolution and its ReLU
        number += 1  # the pooling
    return layers | {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
