"""Swin Transformers: attention within windows, which every other layer shifts by half.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv 2103.14030
(2021). The rates of stochastic depth are torchvision's, which are the paper's; swin_l, of timm, has 0.2.

Where windows do not divide a map, zeros below and on the right fill it up, and they are attended to like the
rest; a map of one window is not shifted. That is torchvision's way. timm shifts first and then fills up, and
makes windows smaller for maps below their size, so at such sizes alone its results are others. A remainder of
the image that fills no patch of 4 x 4 is cut off.

Files of weights may have the names of torchvision, of timm or of the authors.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers import products
from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.dense import Linear
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.gelu import gelu
from imgcls_jax.layers.layer_norm import LayerNorm
from imgcls_jax.layers.renaming import renamed
from imgcls_jax.layers.stochastic_depth import drop_branch, rising_rates
from imgcls_jax.layers.transformer import XAVIER, split_heads
from imgcls_jax.layers.variants import choose_variant

PATCH = 4
BEGINNING = nn.initializers.normal(0.02)
OTHER_PART = -100.0  # added to the scores of tokens that a shift brought into one window from afar
layer_norm = functools.partial(LayerNorm, epsilon=1e-5)


def windows_of(x: jax.Array, window: int) -> jax.Array:
    """Cuts a map [B, h, w, C], h and w multiples of `window`, into windows [B, n, window**2, C]."""
    size, height, width, channels = x.shape
    x = x.reshape(size, height // window, window, width // window, window, channels)
    return x.swapaxes(2, 3).reshape(size, -1, window * window, channels)


def map_of(x: jax.Array, shape: Sequence[int], window: int) -> jax.Array:
    """The inverse of `windows_of`, for a map of (h, w)."""
    rows, columns = shape[0] // window, shape[1] // window
    x = x.reshape(x.shape[0], rows, columns, window, window, -1)
    return x.swapaxes(2, 3).reshape(x.shape[0], *shape, -1)


def mask_of(shape: Sequence[int], window: int, shift: Sequence[int]) -> jax.Array:
    """Returns what is added to the scores of a shifted map's windows.

    Args:
      shape: (h, w) of the map.
      window: side of a window.
      shift: rows and columns that the shift brought to the other side.

    Returns:
      float32 [n, L, L], 0 between tokens that were neighbors before the shift, else -100; L = window ** 2.
    """

    def parts(length: int, moved: int) -> jax.Array:
        at = jnp.arange(length)
        return jnp.where(at < length - window, 0, jnp.where(at < length - moved, 1, 2))

    rows, columns = (parts(length, moved) for length, moved in zip(shape, shift, strict=True))
    part = windows_of((3 * rows[:, None] + columns)[None, :, :, None], window)[0, :, :, 0]  # [n, L]
    return jnp.where(part[:, :, None] == part[:, None, :], 0.0, OTHER_PART)


def bias_of(table: jax.Array, window: int) -> jax.Array:
    """Returns what is added to the scores of a window, by the offset of key and query.

    Args:
      table: float [(2 * window - 1)**2, heads], a row for each offset, of rows first, the smallest first.
      window: side of a window.

    Returns:
      float [heads, L, L], L = window ** 2.
    """
    at = jnp.arange(window)
    offset = at[:, None] - at + window - 1  # [window, window]
    index = (2 * window - 1) * offset[:, None, :, None] + offset[None, :, None, :]  # rows and columns, twice
    return table[index.reshape(window**2, window**2)].transpose(2, 0, 1)


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias for each relative position.

    Attributes:
      heads: of the attention.
      window: side of a window.
      shift: by how much the windows are shifted.
      dtype: of the computation.
    """

    heads: int
    window: int
    shift: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h, w, C]."""
        height, width, channels = x.shape[1:]
        fill = ((0, 0), (0, -height % self.window), (0, -width % self.window), (0, 0))
        x = jnp.pad(x, fill)
        shape = x.shape[1:3]
        shift = [self.shift if side > self.window else 0 for side in shape]
        if any(shift):
            x = jnp.roll(x, [-by for by in shift], (1, 2))
        x = windows_of(x, self.window)  # [B, n, L, C]
        dense = functools.partial(Linear, dtype=self.dtype, kernel_init=BEGINNING)
        parts = split_heads(dense(3 * channels, name="qkv")(x.reshape(-1, channels)), 3, self.heads)
        offsets = (2 * self.window - 1) ** 2
        table = self.param("relative_position_bias_table", BEGINNING, (offsets, self.heads))
        query, key, value = (part.reshape(*x.shape[:3], *part.shape[1:]) for part in parts)
        query *= query.shape[-1] ** -0.5
        # [B, n, heads, L, L]
        scores = products.dot_general(query, key, (((4,), (4,)), ((0, 1, 3), (0, 1, 3))))
        scores = scores.astype(jnp.float32) + bias_of(table, self.window)
        if any(shift):
            scores += mask_of(shape, self.window, shift)[:, None]  # [n, 1, L, L]
        weights = nn.softmax(scores).astype(value.dtype)
        mixed = products.dot_general(weights, value, (((4,), (2,)), ((0, 1, 2), (0, 1, 3))))
        mixed = dense(channels, name="proj")(mixed.transpose(0, 1, 3, 2, 4).reshape(-1, channels))
        y = map_of(mixed.reshape(x.shape), shape, self.window)
        if any(shift):
            y = jnp.roll(y, shift, (1, 2))
        return y[:, :height, :width]


class Block(nn.Module):
    """Attention and MLP, each after a norm and beside a shortcut.

    Attributes:
      heads, window, shift: of the attention.
      stochastic_depth: probability of dropping a branch for one image.
      dtype: of the computation.
    """

    heads: int
    window: int
    shift: int
    stochastic_depth: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, h, w, C]."""
        width = x.shape[-1]
        drop = functools.partial(drop_branch, probability=self.stochastic_depth, train=train)
        norm = functools.partial(layer_norm, dtype=self.dtype)
        dense = functools.partial(
            Linear, dtype=self.dtype, kernel_init=XAVIER, bias_init=nn.initializers.normal(1e-6)
        )
        attention = WindowAttention(self.heads, self.window, self.shift, self.dtype, name="attn")
        x = x + drop(attention(norm(name="norm1")(x)))
        y = norm(name="norm2")(x).reshape(-1, width)  # of two axes, or the weights' gradient is slow on a CPU
        y = gelu(dense(4 * width, name="mlp.0")(y))
        return x + drop(dense(width, name="mlp.3")(y).reshape(x.shape))


class PatchMerging(nn.Module):
    """Brings 2 x 2 positions to one of twice the channels; zeros fill up odd maps.

    Attributes:
      dtype: of the computation.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [B, h, w, C]. Returns: float [B, ceil(h / 2), ceil(w / 2), 2 * C]."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = layer_norm(dtype=self.dtype, name="norm")(jnp.concatenate(corners, axis=-1))
        dense = Linear(
            x.shape[-1] // 2, use_bias=False, dtype=self.dtype, kernel_init=BEGINNING, name="reduction"
        )
        return dense(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:3], -1)


class SwinTransformer(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      depths: layers of each stage.
      width: channels of the first stage; they double from stage to stage.
      heads: of the attention in each stage.
      window: side of a window in patches.
      stochastic_depth: probability of dropping a branch of the last layer; it rises linearly from 0.
      remat: recompute each layer in the backward pass instead of keeping what is inside it.
      dtype: of the computation; params stay float32.
    """

    depths: tuple[int, ...]
    width: int
    heads: tuple[int, ...]
    window: int = 7
    stochastic_depth: float = 0.2
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized; at least 4 x 4.
          train: stochastic depth is on.

        Returns:
          Features: map [B, h, w, D] after the final norm and embedding [B, D], its mean over positions; h is
          ceil(H // 4 / 8), D eight times the width.
        """
        block_type = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        patches = Conv(
            self.width,
            (PATCH, PATCH),
            strides=PATCH,
            padding="VALID",
            dtype=self.dtype,
            kernel_init=nn.initializers.lecun_normal(),
            name="features.0.0",
        )
        x = layer_norm(dtype=self.dtype, name="features.0.2")(patches(images))
        rates = iter(rising_rates(self.stochastic_depth, sum(self.depths)))
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            if stage:
                x = PatchMerging(self.dtype, name=f"features.{2 * stage}")(x)
            for i in range(depth):
                shift = self.window // 2 if i % 2 else 0
                name = f"features.{2 * stage + 1}.{i}"
                x = block_type(heads, self.window, shift, next(rates), self.dtype, name=name)(x, train)
        x = layer_norm(dtype=self.dtype, name="norm")(x)
        return Features(x, jnp.mean(x, axis=(1, 2)))


_DEEP = (2, 2, 18, 2)
VARIANTS: dict[str, dict[str, Any]] = {
    "swin_t": dict(depths=(2, 2, 6, 2), width=96, heads=(3, 6, 12, 24), stochastic_depth=0.2),
    "swin_s": dict(depths=_DEEP, width=96, heads=(3, 6, 12, 24), stochastic_depth=0.3),
    "swin_b": dict(depths=_DEEP, width=128, heads=(4, 8, 16, 32), stochastic_depth=0.5),
    "swin_l": dict(depths=_DEEP, width=192, heads=(6, 12, 24, 48)),
}


def build(variant: str, **fields: Any) -> SwinTransformer:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `SwinTransformer`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return SwinTransformer(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final linear layer."""
    return "head"


NAMES = (  # of timm and of the authors
    ("patch_embed.proj.", "features.0.0."),
    ("patch_embed.norm.", "features.0.2."),
    ("head.fc.", "head."),
    ("layers.{s}.blocks.{b}.mlp.fc1.", "features.{2s+1}.{b}.mlp.0."),
    ("layers.{s}.blocks.{b}.mlp.fc2.", "features.{2s+1}.{b}.mlp.3."),
    ("layers.{s}.blocks.{b}.", "features.{2s+1}.{b}."),
    ("layers.{s}.downsample.", "features.{2s}."),
)
AUTHORS_MERGING = ("layers.{s}.downsample.", "features.{2s+2}.")
BUFFERS = ("relative_position_index", "attn_mask")  # follow from the window


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings the names of timm and of the authors to torchvision's, and leaves out what is no parameter.

    The authors merge patches at the end of a stage, timm at the beginning of the next one: a file with a
    merging in stage 0 is theirs.

    Args:
      arrays: {"layers.0.blocks.0.attn.qkv.weight": ...}; arrays of torchvision's names pass as they are.
      variant: a key of `VARIANTS`.

    Returns:
      {"features.1.0.attn.qkv.weight": ..., ...}.
    """
    del variant
    of_authors = any(name.startswith("layers.0.downsample.") for name in arrays)
    names = (AUTHORS_MERGING, *NAMES) if of_authors else NAMES
    return {renamed(name, names): array for name, array in arrays.items() if not name.endswith(BUFFERS)}


def timm_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings torchvision's names to timm's, the inverse of `import_weights` for its names."""
    del variant
    return {renamed(name, NAMES, back=True): array for name, array in arrays.items()}
