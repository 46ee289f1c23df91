"""Vision Transformers: an image as a sequence of patches, read by a pre-norm Transformer encoder.

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929 (2020), table 1; the sizes of
"vit_ti16", "vit_s16" and "vit_s32" are those of DeiT, arXiv 2012.12877 (2020). "vit_tiny" is for tests.

Differences from the paper: no hidden layer before the classifier (as in its fine-tuning), no dropout unless
asked for, and the choices of `pool` and `position`. The width of the MLP is four times that of the tokens;
the GELU is the exact one; LayerNorm has epsilon 1e-6. For pretraining by masking (MAE, He et al., arXiv
2111.06377, 2021) `VisionTransformer.tokens` encodes some of the patches, and `PatchDecoder` predicts the
pixels of all. The variants "..._clip" are the image towers of CLIP (Radford et al., arXiv 2103.00020, 2021).

Files of weights may have the names of torchvision, of timm (also DeiT's and MAE's releases) or of CLIP.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.convolution import Conv
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.transformer import XAVIER, EncoderLayer, layer_norm, sincos_positions
from imgcls_jax.layers.variants import choose_variant

POOLS = ("token", "mean")
POSITIONS = ("learned", "sincos")
BEGINNINGS = ("torchvision", "mae")
RESIZINGS = ("timm", "torchvision", "mae")
CLIP = {"pre_norm": True, "quick_gelu": True, "epsilon": 1e-5}


class VisionTransformer(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      patch: side of a patch in pixels.
      width: D, of a token.
      depth: number of encoder layers.
      heads: of each attention.
      pool: "token" makes the class token the embedding, "mean" the mean of the patch tokens.
      position: "learned" has a position embedding as a param, which fixes the size of the images; "sincos" a
        fixed one, zero for the class token.
      dropout: probability of dropping an entry, after the positions and in each layer.
      stochastic_depth: probability of dropping a branch of the last layer; it rises linearly from 0.
      remat: recompute each layer in the backward pass instead of keeping what is inside it.
      dtype: of the computation; params stay float32.
      pre_norm: a norm before the first layer too, and no bias in the embedding of the patches.
      quick_gelu: x * sigmoid(1.702 * x) in place of the GELU.
      epsilon: of the norms.
      begins_as: whose initial values: "torchvision", or "mae": Xavier's uniform distribution for every linear
        map, that of the patches among them, biases 0, and the class token from N(0, 0.02^2).
      resize_positions: how a file's position embedding is brought to another grid: "timm" (bicubic,
        antialiased), "torchvision" (bicubic, the corners stay) or "mae" (bicubic, not antialiased), as in
        their code.
    """

    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    pool: str = "token"
    position: str = "learned"
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    remat: bool = False
    dtype: Any = None
    pre_norm: bool = False
    quick_gelu: bool = False
    epsilon: float = 1e-6
    begins_as: str = "torchvision"
    resize_positions: str = "timm"

    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized; H and W multiples of `patch`.
          train: dropout and stochastic depth are on.

        Returns:
          Features: map [B, H / patch, W / patch, D], the patch tokens after the final norm, and embedding
          [B, D], the class token or the mean of the patch tokens.

        Raises:
          ValueError: an unknown pool or position, or a size that is no multiple of the patch.
        """
        if self.pool not in POOLS:
            raise ValueError(f"pool of VisionTransformer is one of {POOLS}; got {self.pool!r}")
        if self.resize_positions not in RESIZINGS:
            raise ValueError(
                f"resize_positions of VisionTransformer is one of {RESIZINGS}; got {self.resize_positions!r}"
            )
        tokens = self.tokens(images, train=train)
        rows, columns = (n // self.patch for n in images.shape[1:3])
        patches = tokens[:, 1:]  # [B, L, D]
        embedding = tokens[:, 0] if self.pool == "token" else jnp.mean(patches, axis=1)
        return Features(patches.reshape(-1, rows, columns, self.width), embedding)

    @nn.compact
    def tokens(self, images: jax.Array, *, train: bool, keep: jax.Array | None = None) -> jax.Array:
        """Computes the tokens, of all patches or of some of them.

        Args:
          images: float [B, H, W, C], normalized; H and W multiples of `patch`.
          train: dropout and stochastic depth are on.
          keep: int [B, n] in [0, L), the patches that the encoder sees, counted row by row; None for all.

        Returns:
          float [B, 1 + n, D] after the final norm, the class token first; n is L where keep is None.

        Raises:
          ValueError: an unknown position, or a size that is no multiple of the patch.
        """
        x = self._patches(images)  # [B, h, w, D]
        positions = self._positions(x.shape[1:3]).astype(x.dtype)  # [1, 1 + L, D]
        x = x.reshape(x.shape[0], -1, self.width) + positions[:, 1:]
        if keep is not None:
            x = jnp.take_along_axis(x, keep[:, :, None], axis=1)  # [B, n, D]
        begin = nn.initializers.normal(0.02) if self._all_xavier else nn.initializers.zeros
        class_token = self.param("class_token", begin, (1, 1, self.width)).astype(x.dtype)
        first = jnp.broadcast_to(class_token + positions[:, :1], (x.shape[0], 1, self.width))
        x = jnp.concatenate([first, x], axis=1)  # [B, 1 + n, D]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        norm = functools.partial(layer_norm, epsilon=self.epsilon, dtype=self.dtype)
        x = norm(name="encoder.ln_pre")(x) if self.pre_norm else x
        kind = {"dtype": self.dtype, "quick_gelu": self.quick_gelu, "epsilon": self.epsilon}
        kind["all_xavier"] = self._all_xavier
        layer_type = nn.remat(EncoderLayer, static_argnums=(2,)) if self.remat else EncoderLayer
        for layer in range(self.depth):
            drop_branch = self.stochastic_depth * layer / max(self.depth - 1, 1)
            name = f"encoder.layers.encoder_layer_{layer}"
            x = layer_type(self.heads, self.dropout, drop_branch, **kind, name=name)(x, train)
        return norm(name="encoder.ln")(x)

    @nn.nowrap
    def decoder(self, *, channels: int, width: int, depth: int, heads: int) -> PatchDecoder:
        """Returns the decoder of this network's tokens to the pixels of its patches.

        Args:
          channels: C, of the images.
          width, depth, heads: of the decoder.
        """
        outputs = self.patch**2 * channels
        return PatchDecoder(
            outputs,
            width,
            depth,
            heads,
            remat=self.remat,
            dtype=self.dtype,
            all_xavier=self._all_xavier,
            parent=None,
        )

    @property
    def _all_xavier(self) -> bool:
        if self.begins_as not in BEGINNINGS:
            raise ValueError(f"begins_as of VisionTransformer is one of {BEGINNINGS}; got {self.begins_as!r}")
        return self.begins_as == "mae"

    def _patches(self, images: jax.Array) -> jax.Array:
        """Returns the linear embedding of each patch, [B, H / patch, W / patch, D]."""
        if any(n % self.patch for n in images.shape[1:3]):
            raise ValueError(
                f"images of {images.shape[1]}x{images.shape[2]} do not divide into patches of {self.patch}; "
                "resize them to a multiple"
            )
        return Conv(
            self.width,
            (self.patch, self.patch),
            strides=self.patch,
            padding=((0, 0), (0, 0)),
            use_bias=not self.pre_norm,
            dtype=self.dtype,
            kernel_init=_xavier_of_patches if self._all_xavier else nn.initializers.lecun_normal(),
            name="conv_proj",
        )(images)

    def _positions(self, grid: Sequence[int]) -> jax.Array:
        """Returns the position embeddings, the class token's first: float32 [1, 1 + L, D]."""
        if self.position == "sincos":
            return jnp.pad(sincos_positions(grid, self.width), ((1, 0), (0, 0)))[None]
        if self.position != "learned":
            raise ValueError(f"position of VisionTransformer is one of {POSITIONS}; got {self.position!r}")
        shape = (1, 1 + grid[0] * grid[1], self.width)
        return self.param("encoder.pos_embedding", nn.initializers.normal(0.02), shape)


def _xavier_of_patches(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Xavier's uniform distribution of the patches' convolution [p, p, C, D] as the linear map that it is."""
    return XAVIER(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)


class PatchDecoder(nn.Module):
    """A narrower Transformer that fills in the patches which the encoder did not see.

    Its positions are fixed sin-cos ones; every missing patch starts as one learned token.

    Attributes:
      outputs: values to predict for a patch.
      width: D, of its tokens, a multiple of 4.
      depth: number of its layers.
      heads: of each attention.
      remat: recompute each layer in the backward pass instead of keeping what is inside it.
      dtype: of the computation; params stay float32.
      all_xavier: as `EncoderLayer` has it.
    """

    outputs: int
    width: int
    depth: int
    heads: int
    remat: bool = False
    dtype: Any = None
    all_xavier: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array, restore: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Predicts all patches.

        Args:
          tokens: float [B, 1 + n, D'], of `VisionTransformer.tokens(keep=...)`.
          restore: int [B, L], where patch l stands in the list of the n kept patches, in the order of `keep`,
            followed by the missing ones.
          grid: rows and columns of patches, L in all.

        Returns:
          float32 [B, L, outputs].
        """
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=XAVIER, name="embed")(tokens)
        size, seen, _ = x.shape
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.width)).astype(
            x.dtype
        )
        missing = jnp.broadcast_to(mask_token, (size, restore.shape[1] + 1 - seen, self.width))
        patches = jnp.concatenate([x[:, 1:], missing], axis=1)  # [B, L, D], the kept first
        patches = jnp.take_along_axis(patches, restore[:, :, None], axis=1)
        patches += sincos_positions(grid, self.width).astype(x.dtype)
        x = jnp.concatenate([x[:, :1], patches], axis=1)  # [B, 1 + L, D]
        layer_type = nn.remat(EncoderLayer, static_argnums=(2,)) if self.remat else EncoderLayer
        for layer in range(self.depth):
            kind = {"dtype": self.dtype, "all_xavier": self.all_xavier}
            x = layer_type(self.heads, **kind, name=f"layer_{layer}")(x, False)
        x = layer_norm(dtype=self.dtype, name="ln")(x)[:, 1:]
        pixels = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=XAVIER, name="pixels")(x)
        return pixels.astype(jnp.float32)


VARIANTS: dict[str, dict[str, Any]] = {
    "vit_tiny": dict(patch=4, width=64, depth=4, heads=4),
    "vit_ti16": dict(patch=16, width=192, depth=12, heads=3),
    "vit_s16": dict(patch=16, width=384, depth=12, heads=6),
    "vit_s32": dict(patch=32, width=384, depth=12, heads=6),
    "vit_b16": dict(patch=16, width=768, depth=12, heads=12),
    "vit_b32": dict(patch=32, width=768, depth=12, heads=12),
    "vit_l14": dict(patch=14, width=1024, depth=24, heads=16),
    "vit_l16": dict(patch=16, width=1024, depth=24, heads=16),
    "vit_l32": dict(patch=32, width=1024, depth=24, heads=16),
    "vit_h14": dict(patch=14, width=1280, depth=32, heads=16),
}
VARIANTS |= {f"{name}_clip": VARIANTS[name] | CLIP for name in ("vit_b16", "vit_b32", "vit_l14")}


def build(variant: str, **fields: Any) -> VisionTransformer:
    """Returns the backbone.

    Args:
      variant: a key of `VARIANTS`.
      **fields: attributes of `VisionTransformer`; they take precedence over the variant's.

    Raises:
      ValueError: an unknown variant.
    """
    return VisionTransformer(**(choose_variant(__name__, VARIANTS, variant) | fields))


def torch_head(variant: str) -> str:
    """Returns PyTorch's name of the final linear layer."""
    return "heads.head"


# Beginnings of names in timm, then in CLIP's image tower, and torchvision's or, where it has none, ours.
NAMES = (
    (r"cls_token|class_embedding", "class_token"),
    (r"pos_embed|positional_embedding", "encoder.pos_embedding"),
    (r"(patch_embed\.proj|conv1)\.", "conv_proj."),
    (r"(norm_pre|ln_pre)\.", "encoder.ln_pre."),
    (r"(norm|ln_post)\.", "encoder.ln."),
    (r"head\.", "heads.head."),
)
LAYER = re.compile(r"(?:blocks|transformer\.resblocks)\.(\d+)\.(.*)")
NAMES_IN_LAYER = (
    (r"norm(\d)\.", r"ln_\1."),
    (r"attn\.(qkv\.|in_proj_)", "self_attention.in_proj_"),
    (r"attn\.(out_)?proj\.", "self_attention.out_proj."),
    (r"mlp\.(fc1|c_fc)\.", "mlp.0."),
    (r"mlp\.(fc2|c_proj)\.", "mlp.3."),
)
LEFT_OUT = re.compile(r"decoder_|mask_token$")  # of MAE: no part of the network that transfers


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings the names of timm and CLIP to torchvision's, which pass as they are.

    CLIP's text tower and MAE's decoder are left out. CLIP's projection into the space of texts becomes a
    classifier of that many "classes" without a bias, which gives CLIP's embedding of an image.

    Args:
      arrays: {"blocks.0.attn.qkv.weight": ...}, or {"visual.transformer.resblocks.0.attn.in_proj_weight":
        ...} with or without "visual.".
      variant: a key of `VARIANTS`.

    Returns:
      {"encoder.layers.encoder_layer_0.self_attention.in_proj_weight": ..., ...}.
    """
    del variant
    tower = "visual." if any(name.startswith("visual.") for name in arrays) else ""
    arrays = {name.removeprefix(tower): array for name, array in arrays.items() if name.startswith(tower)}
    named = {_torchvision_name(name): a for name, a in arrays.items() if not LEFT_OUT.match(name)}
    if "proj" in named:
        weight = named.pop("proj").T  # [D', D]
        named |= {"heads.head.weight": weight, "heads.head.bias": jnp.zeros(len(weight))}
    for name in ("class_token", "encoder.pos_embedding"):
        if name in named:
            named[name] = named[name].reshape(1, -1, named[name].shape[-1])
    return named


def _torchvision_name(name: str) -> str:
    """Returns the name that this file's modules bear, for one of timm's or CLIP's."""
    if layer := LAYER.fullmatch(name):
        return f"encoder.layers.encoder_layer_{layer[1]}.{_replace_start(layer[2], NAMES_IN_LAYER)}"
    return _replace_start(name, NAMES)


def _replace_start(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """Replaces the beginning of a name by the first pattern of a table that matches it."""
    for pattern, replacement in table:
        if re.match(pattern, name):
            return re.sub(f"^(?:{pattern})", replacement, name)
    return name
