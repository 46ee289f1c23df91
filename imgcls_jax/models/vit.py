"""Vision Transformers: an image as a sequence of patches, read by a pre-norm Transformer encoder.

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929 (2020), table 1; the sizes of
"vit_ti16", "vit_s16" and "vit_s32" are those of DeiT, arXiv 2012.12877 (2020). "vit_tiny" is for tests.

Differences from the paper: no hidden layer before the classifier (as in its fine-tuning), no dropout unless
asked for, and the choices of `pool` and `position`. The width of the MLP is four times that of the tokens;
the GELU is the exact one; LayerNorm has epsilon 1e-6. For pretraining by masking (MAE, He et al., arXiv
2111.06377, 2021) `VisionTransformer.tokens` encodes some of the patches, and `PatchDecoder` predicts the
pixels of all.

Variants that differ in more than size, and the weights that they are for:
  "..._clip": the image towers of CLIP, Radford et al., arXiv 2103.00020 (2021).
  "..._dinov2": DINOv2, Oquab et al., arXiv 2304.07193 (2023), with LayerScale; "..._dinov2_reg4" also with
    four registers, Darcet et al., arXiv 2309.16588 (2023). The giant one, whose MLP is gated, is not here.
  "..._siglip": the image towers of SigLIP, Zhai et al., arXiv 2303.15343 (2023): no class token, attention
    pooling. Hugging Face runs them with the GELU by tanh, as they were trained, timm with the exact one.
  "..._dinov3": DINOv3, Siméoni et al., arXiv 2508.10104 (2025): rotary positions, for images of any size, and
    four registers; the "plus" ones have a gated MLP. The one of 7 billion parameters is not here.

Files of weights may have the names of torchvision, of timm (also DeiT's, MAE's and DINO's releases), of
CLIP, or of what weights/ brings to these: Hugging Face's and big_vision's (AugReg, SigLIP).
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
from imgcls_jax.layers.layer_norm import LayerNorm
from imgcls_jax.layers.patch_decoder import PatchDecoder
from imgcls_jax.layers.renaming import inside, renamed
from imgcls_jax.layers.rotary import rotary_angles
from imgcls_jax.layers.transformer import XAVIER, AttentionPool, EncoderLayer, sincos_positions
from imgcls_jax.layers.variants import choose_variant

POOLS = ("token", "mean", "map")
POSITIONS = ("learned", "sincos", "rotary")
BEGINNINGS = ("torchvision", "mae")
RESIZINGS = ("timm", "torchvision", "mae", "dinov2")
CLIP = {"pre_norm": True, "quick_gelu": True, "epsilon": 1e-5}
DINOV2 = {"layer_scale": 1e-5, "resize_positions": "dinov2"}
DINOV2_REG4 = {"layer_scale": 1e-5, "registers": 4}
SIGLIP = {"class_token": False, "pool": "map", "tanh_gelu": True}
DINOV3 = {"position": "rotary", "layer_scale": 1e-5, "registers": 4, "epsilon": 1e-5}


class VisionTransformer(nn.Module):
    """The backbone; the final classifier is a head.

    Attributes:
      patch: side of a patch in pixels.
      width: D, of a token.
      depth: number of encoder layers.
      heads: of each attention.
      pool: "token" makes the class token the embedding, "mean" the mean of the patch tokens, "map" what an
        `AttentionPool` makes of the tokens.
      position: "learned" has a position embedding as a param, which fixes the size of the images; "sincos" a
        fixed one, zero for the class token; "rotary" turns the patches' queries and keys (layers/rotary.py).
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
        antialiased), "torchvision" (bicubic, the corners stay), "mae" (bicubic, not antialiased) or "dinov2"
        (as "mae", with a grid that is a tenth of a patch larger), as in their code.
      class_token: whether there is one.
      registers: number of learned tokens beside it, which no output shows.
      layer_scale, tanh_gelu, gated_mlp: as `EncoderLayer` has them.
      mlp_width: of the layer inside each MLP; 0 for 4 D.
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
    class_token: bool = True
    registers: int = 0
    layer_scale: float = 0.0
    tanh_gelu: bool = False
    mlp_width: int = 0
    gated_mlp: bool = False

    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized; H and W multiples of `patch`.
          train: dropout and stochastic depth are on.

        Returns:
          Features: map [B, H / patch, W / patch, D], the patch tokens after the final norm, and embedding
          [B, D], the class token, the mean of the patch tokens or what attention pools.

        Raises:
          ValueError: an unknown pool or position, the pool of a token that there is not, or a size that is
            no multiple of the patch.
        """
        if self.pool not in POOLS:
            raise ValueError(f"pool of VisionTransformer is one of {POOLS}; got {self.pool!r}")
        if self.pool == "token" and not self.class_token:
            raise ValueError("pool of VisionTransformer is 'mean' or 'map' where class_token is False")
        if self.resize_positions not in RESIZINGS:
            raise ValueError(
                f"resize_positions of VisionTransformer is one of {RESIZINGS}; got {self.resize_positions!r}"
            )
        tokens, pooled = self._encode(images, train=train)
        rows, columns = (n // self.patch for n in images.shape[1:3])
        patches = tokens[:, -rows * columns :]  # [B, L, D]
        embedding = tokens[:, 0] if self.pool == "token" else jnp.mean(patches, axis=1)
        embedding = embedding if pooled is None else pooled
        return Features(patches.reshape(-1, rows, columns, self.width), embedding)

    def tokens(self, images: jax.Array, *, train: bool, keep: jax.Array | None = None) -> jax.Array:
        """Computes the tokens, of all patches or of some of them.

        Args:
          images: float [B, H, W, C], normalized; H and W multiples of `patch`.
          train: dropout and stochastic depth are on.
          keep: int [B, n] in [0, L), the patches that the encoder sees, counted row by row; None for all.

        Returns:
          float [B, 1 + n, D] after the final norm, the class token first where there is one, without the
          registers; n is L where keep is None.

        Raises:
          ValueError: an unknown position, or a size that is no multiple of the patch.
        """
        return self._encode(images, train=train, keep=keep)[0]

    @nn.compact
    def _encode(
        self, images: jax.Array, *, train: bool, keep: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the tokens, and what attention pools of them, None where `pool` is another."""
        x = self._patches(images)  # [B, h, w, D]
        angles = self._angles(x.shape[1:3], keep)
        positions = self._positions(x.shape[1:3]).astype(x.dtype)  # [1, 1 + L, D], or L
        x = x.reshape(x.shape[0], -1, self.width) + positions[:, int(self.class_token) :]
        if keep is not None:
            x = jnp.take_along_axis(x, keep[:, :, None], axis=1)  # [B, n, D]
        x = jnp.concatenate([*self._first_tokens(x.shape[0], positions), x], axis=1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        norm = functools.partial(LayerNorm, epsilon=self.epsilon, dtype=self.dtype)
        x = norm(name="encoder.ln_pre")(x) if self.pre_norm else x
        mlp: dict[str, Any] = {
            "quick_gelu": self.quick_gelu,
            "tanh_gelu": self.tanh_gelu,
            "mlp_width": self.mlp_width,
        }
        kind = mlp | {"dtype": self.dtype, "epsilon": self.epsilon}
        own: dict[str, Any] = {
            "all_xavier": self._all_xavier,
            "layer_scale": self.layer_scale,
            "gated_mlp": self.gated_mlp,
        }
        layer_type = nn.remat(EncoderLayer, static_argnums=(2,)) if self.remat else EncoderLayer
        for layer in range(self.depth):
            drop_branch = self.stochastic_depth * layer / max(self.depth - 1, 1)
            name = f"encoder.layers.encoder_layer_{layer}"
            x = layer_type(self.heads, self.dropout, drop_branch, **kind, **own, name=name)(x, train, angles)
        x = norm(name="encoder.ln")(x)
        pooled = AttentionPool(self.heads, **kind, name="attention_pool")(x) if self.pool == "map" else None
        if self.registers:
            first = int(self.class_token)
            x = jnp.concatenate([x[:, :first], x[:, first + self.registers :]], axis=1)
        return x, pooled

    def _first_tokens(self, size: int, positions: jax.Array) -> list[jax.Array]:
        """Returns the class token [B, 1, D] with its position, and registers [B, R, D], which have none."""
        begin = nn.initializers.normal(0.02) if self._all_xavier else nn.initializers.zeros
        tokens = []
        if self.class_token:
            class_token = self.param("class_token", begin, (1, 1, self.width)).astype(positions.dtype)
            tokens.append(class_token + positions[:, :1])
        if self.registers:
            shape = (1, self.registers, self.width)
            registers = self.param("registers", nn.initializers.normal(0.02), shape)
            tokens.append(registers.astype(positions.dtype))
        return [jnp.broadcast_to(token, (size, *token.shape[1:])) for token in tokens]

    @nn.nowrap
    def decoder(self, *, channels: int, width: int, depth: int, heads: int) -> PatchDecoder:
        """Returns the decoder of this network's tokens to the pixels of its patches.

        Args:
          channels: C, of the images.
          width, depth, heads: of the decoder.

        Raises:
          ValueError: there is no class token, which the decoder reads.
        """
        if not self.class_token:
            raise ValueError("masked training needs a class token: model.class_token is False")
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
        """Returns the position embeddings, a class token's first: float32 [1, 1 + L, D] or [1, L, D]."""
        first = int(self.class_token)
        if self.position == "rotary":
            return jnp.zeros((1, first + grid[0] * grid[1], self.width))
        if self.position == "sincos":
            return jnp.pad(sincos_positions(grid, self.width), ((first, 0), (0, 0)))[None]
        if self.position != "learned":
            raise ValueError(f"position of VisionTransformer is one of {POSITIONS}; got {self.position!r}")
        shape = (1, first + grid[0] * grid[1], self.width)
        return self.param("encoder.pos_embedding", nn.initializers.normal(0.02), shape)

    def _angles(self, grid: Sequence[int], keep: jax.Array | None) -> jax.Array | None:
        """Returns the angles of all tokens, 0 for those that are no patches, [1 or B, R + n, D / heads / 2];
        None without rotary positions."""
        if self.position != "rotary":
            return None
        angles = rotary_angles(grid, self.width // self.heads)
        patches = angles[None] if keep is None else angles[keep]
        return jnp.pad(patches, ((0, 0), (int(self.class_token) + self.registers, 0), (0, 0)))


def _xavier_of_patches(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Xavier's uniform distribution of the patches' convolution [p, p, C, D] as the linear map that it is."""
    return XAVIER(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)


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
VARIANTS |= {f"{name}_clip": VARIANTS[name] | CLIP for name in ("vit_b16", "vit_b32", "vit_l14", "vit_h14")}
for _name, _of in (("vit_s14", "vit_s16"), ("vit_b14", "vit_b16"), ("vit_l14", "vit_l16")):
    VARIANTS[f"{_name}_dinov2"] = VARIANTS[_of] | DINOV2 | {"patch": 14}
    VARIANTS[f"{_name}_dinov2_reg4"] = VARIANTS[_of] | DINOV2_REG4 | {"patch": 14}
VARIANTS |= {f"{name}_siglip": VARIANTS[name] | SIGLIP for name in ("vit_b16", "vit_l16")}
VARIANTS["vit_so400m14_siglip"] = dict(patch=14, width=1152, depth=27, heads=16, mlp_width=4304) | SIGLIP
VARIANTS |= {f"{name}_dinov3": VARIANTS[name] | DINOV3 for name in ("vit_s16", "vit_b16", "vit_l16")}
VARIANTS["vit_s16plus_dinov3"] = VARIANTS["vit_s16_dinov3"] | {"gated_mlp": True}
VARIANTS["vit_h16plus_dinov3"] = dict(patch=16, width=1280, depth=32, heads=20, gated_mlp=True) | DINOV3


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


# Beginnings of names in timm, then in CLIP's image tower and DINOv2, and torchvision's or, where it has none,
# ours.
_MLP = (("mlp.fc1.", "mlp.0."), ("mlp.fc2.", "mlp.3."), ("mlp.c_fc.", "mlp.0."), ("mlp.c_proj.", "mlp.3."))
_LAYER = (  # of timm, then of CLIP; other names stay
    ("norm{n}.", "ln_{n}."),
    ("attn.qkv.", "self_attention.in_proj_"),
    ("attn.proj.", "self_attention.out_proj."),
    ("ls{n}.gamma", "ls_{n}"),
    *_MLP,
    ("attn.q_bias", "self_attention.q_bias"),
    ("attn.v_bias", "self_attention.v_bias"),
    ("gamma_{n}", "ls_{n}"),
    *((f"mlp.{gate}.", "mlp.gate.") for gate in ("fc1_g", "w1")),
    *((f"mlp.{name}.", "mlp.0.") for name in ("fc1_x", "w2")),
    ("mlp.w3.", "mlp.3."),
    ("attn.in_proj_", "self_attention.in_proj_"),
    ("attn.out_proj.", "self_attention.out_proj."),
    ("", ""),
)
NAMES = (
    ("cls_token", "class_token"),
    ("reg_token", "registers"),
    ("pos_embed", "encoder.pos_embedding"),
    ("patch_embed.proj.", "conv_proj."),
    ("norm_pre.", "encoder.ln_pre."),
    ("norm.", "encoder.ln."),
    ("head.", "heads.head."),
    *inside("blocks.{g}.{i}.", "encoder.layers.encoder_layer_{i}.", _LAYER),  # DINOv2 groups its blocks
    *inside("blocks.{i}.", "encoder.layers.encoder_layer_{i}.", _LAYER),
    *inside("attn_pool.", "attention_pool.", (("latent", "probe"), ("proj.", "out_proj."))),
    *inside("attn_pool.", "attention_pool.", (("norm.", "ln."), *_MLP, ("", ""))),
    ("class_embedding", "class_token"),
    ("register_tokens", "registers"),
    ("storage_tokens", "registers"),
    ("positional_embedding", "encoder.pos_embedding"),
    ("conv1.", "conv_proj."),
    ("ln_pre.", "encoder.ln_pre."),
    ("ln_post.", "encoder.ln."),
    *inside("transformer.resblocks.{i}.", "encoder.layers.encoder_layer_{i}.", _LAYER),
)
# Of MAE and others: no part of the network that transfers.
LEFT_OUT = re.compile(r"decoder_|mask_token$|pooler\.|rope_embed\.")
TOWERS = ("visual.trunk.", "visual.")  # OpenCLIP keeps timm's networks under the first


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings the names of timm and CLIP to torchvision's, which pass as they are.

    CLIP's text tower and MAE's decoder are left out. CLIP's projection into the space of texts becomes a
    classifier of that many "classes" without a bias, which gives CLIP's embedding of an image. Positions of
    the registers are added to them; a class token that has no position gets zeros, which is the same, as do
    DINOv3's keys, and its queries and values where the file has no biases of them.

    Args:
      arrays: {"blocks.0.attn.qkv.weight": ...}, or {"visual.transformer.resblocks.0.attn.in_proj_weight":
        ...} with or without "visual.".
      variant: a key of `VARIANTS`.

    Returns:
      {"encoder.layers.encoder_layer_0.self_attention.in_proj_weight": ..., ...}.
    """
    tower = next((t for t in TOWERS if any(name.startswith(t) for name in arrays)), "")
    arrays = {name.removeprefix(tower): array for name, array in arrays.items() if name.startswith(tower)}
    named = {renamed(name, NAMES): a for name, a in arrays.items() if not LEFT_OUT.match(name)}
    if "proj" in named:
        weight = named.pop("proj").T  # [D', D]
        named |= {"heads.head.weight": weight, "heads.head.bias": jnp.zeros(len(weight))}
    for leaf in ("weight", "bias"):
        parts = [named.pop(f"attention_pool.{part}.{leaf}", None) for part in ("q", "kv")]
        if all(part is not None for part in parts):
            named[f"attention_pool.in_proj_{leaf}"] = jnp.concatenate(parts)
    for name in ("class_token", "registers", "encoder.pos_embedding"):
        if named.get(name) is not None:
            named[name] = named[name].reshape(1, -1, named[name].shape[-1])
    if "encoder.pos_embedding" in named and ("class_token" in named or "registers" in named):
        _place_first_positions(named)
    if VARIANTS.get(variant, {}).get("position") == "rotary":
        _complete_biases(named)
    return named


def _complete_biases(named: dict[str, Any]) -> None:
    """Joins the biases of queries, keys and values; the keys' are 0, as the mask in DINOv3's files says."""
    for name in [name for name in named if name.endswith(".in_proj_weight")]:
        attention = name.removesuffix("in_proj_weight")
        zeros = jnp.zeros(len(named[name]) // 3)
        own = [named.pop(f"{attention}{part}_bias", zeros) for part in "qv"]
        if named.pop(f"{attention}in_proj_bias_mask", None) is not None:
            own = jnp.split(named.pop(f"{attention}in_proj_bias"), 3)[::2]
        named.setdefault(f"{attention}in_proj_bias", jnp.concatenate([own[0], zeros, own[1]]))


def _place_first_positions(named: dict[str, Any]) -> None:
    """Leaves positions of the class token and the patches alone."""
    positions, registers = named["encoder.pos_embedding"], named.get("registers")
    first = positions.shape[1] - math.isqrt(positions.shape[1]) ** 2
    if "class_token" in named and first == 0:
        named["encoder.pos_embedding"] = jnp.pad(positions, ((0, 0), (1, 0), (0, 0)))
    elif registers is not None and first == 1 + registers.shape[1]:
        named["registers"] = registers + positions[:, 1:first]
        named["encoder.pos_embedding"] = jnp.concatenate([positions[:, :1], positions[:, first:]], axis=1)


def timm_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Brings torchvision's names to timm's, the inverse of `import_weights`.

    Registers get a position of zeros, and attention pooling its queries apart from its keys and values, as
    timm has them.

    Args:
      arrays: {"encoder.layers.encoder_layer_0.self_attention.in_proj_weight": ..., ...}.
      variant: a key of `VARIANTS`.

    Returns:
      {"blocks.0.attn.qkv.weight": ..., ...}.
    """
    del variant
    named = {renamed(name, NAMES, back=True): array for name, array in arrays.items()}
    for leaf in ("weight", "bias"):
        joined = named.pop(f"attn_pool.in_proj_{leaf}", None)
        if joined is not None:
            width = len(joined) // 3
            named |= {f"attn_pool.q.{leaf}": joined[:width], f"attn_pool.kv.{leaf}": joined[width:]}
    if "reg_token" in named and "pos_embed" in named:
        positions, first = named["pos_embed"], int("cls_token" in named)
        of_registers = jnp.zeros_like(named["reg_token"])
        parts = [positions[:, :first], of_registers, positions[:, first:]]
        named["pos_embed"] = jnp.concatenate(parts, axis=1)
    return named
