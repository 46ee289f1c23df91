"""The decoder of masked training: from the tokens of some patches of an image to the pixels of all.

He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377 (2021), section 3.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.dense import Linear
from imgcls_jax.layers.layer_norm import LayerNorm
from imgcls_jax.layers.transformer import XAVIER, EncoderLayer, sincos_positions


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
        x = Linear(self.width, dtype=self.dtype, kernel_init=XAVIER, name="embed")(tokens)
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
        x = LayerNorm(dtype=self.dtype, name="ln")(x)[:, 1:]
        pixels = Linear(self.outputs, dtype=self.dtype, kernel_init=XAVIER, name="pixels")(x)
        return pixels.astype(jnp.float32)
