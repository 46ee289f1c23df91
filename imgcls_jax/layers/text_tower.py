"""The text towers of CLIP and SigLIP: Transformers over token ids.

CLIP's is causal and read at the end token: Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision", arXiv:2103.00020 (2021), section 2.4; layers, initial values and names as in its
release. Difference: the biases of the MLP start near 0, those of the release from PyTorch's uniform
distribution. SigLIP's (`whole_row`; Zhai et al., arXiv:2303.15343, 2023) attends to the whole row, its end
tokens too, and is read at the last of them; its initial values are CLIP's.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.layer_norm import LayerNorm
from imgcls_jax.layers.transformer import EncoderLayer

HEAD_WIDTH = 64  # D of an attention head in all of CLIP's text towers


class TextTower(nn.Module):
    """Token ids to an embedding.

    Attributes:
      vocab_size: ids lie below it.
      context_length: the most tokens of a text, L.
      width: W, of a token.
      depth: number of layers.
      dim: D, of the output.
      heads: of each attention; 0 for W / 64, at least 1.
      quick_gelu: x * sigmoid(1.702 * x) in place of the GELU, as OpenAI's weights need it.
      dtype: of the computation; params stay float32.
      remat: recompute each layer in the backward pass instead of keeping what is inside it.
      whole_row: SigLIP's form: rows of exactly L tokens, a bias of the projection, and norms' epsilon 1e-6.
      tanh_gelu, mlp_width: as `EncoderLayer` has them.
    """

    vocab_size: int
    context_length: int
    width: int
    depth: int
    dim: int
    heads: int = 0
    quick_gelu: bool = False
    dtype: Any = None
    remat: bool = False
    whole_row: bool = False
    tanh_gelu: bool = False
    mlp_width: int = 0

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Embeds texts.

        Args:
          ids: int [B, l], l at most L; a text ends with the largest id that it holds, and what follows
            changes nothing. With `whole_row` l is L.

        Returns:
          float [B, D], of any norm.

        Raises:
          ValueError: l exceeds L, or is not L with `whole_row`.
        """
        length = ids.shape[1]
        if self.whole_row and length != self.context_length:
            raise ValueError(
                f"SigLIP's text tower reads rows of {self.context_length} tokens, and these have {length}: "
                "set objective.context_length and data.context_length alike"
            )
        if length > self.context_length:
            raise ValueError(
                f"the text tower reads {self.context_length} tokens at most, and a text has {length}: cut "
                "it, or train a tower with a longer context_length"
            )
        normal = nn.initializers.normal
        embedding = self.param("token_embedding", normal(0.02), (self.vocab_size, self.width))
        positions = self.param("positional_embedding", normal(0.01), (self.context_length, self.width))
        # An id beyond the vocabulary becomes NaN, which stops a run.
        x = jnp.take(embedding, ids, axis=0, mode="fill") + positions[:length]  # [B, l, W]
        x = x if self.dtype is None else x.astype(self.dtype)
        layer_type = nn.remat(EncoderLayer, static_argnums=(2,)) if self.remat else EncoderLayer
        heads = self.heads or max(self.width // HEAD_WIDTH, 1)
        norm = {"dtype": self.dtype, "epsilon": 1e-6 if self.whole_row else 1e-5}
        kind = norm | {
            "quick_gelu": self.quick_gelu,
            "tanh_gelu": self.tanh_gelu,
            "mlp_width": self.mlp_width,
            "causal": not self.whole_row,
        }
        for layer in range(self.depth):
            x = layer_type(heads, **kind, clip_depth=self.depth, name=f"layer_{layer}")(x, False)
        x = LayerNorm(**norm, name="ln_final")(x)
        projection = self.param("text_projection", normal(self.width**-0.5), (self.width, self.dim))
        if self.whole_row:
            bias = self.param("text_projection_bias", nn.initializers.zeros, (self.dim,))
            return x[:, -1] @ projection.astype(x.dtype) + bias.astype(x.dtype)
        end = jnp.take_along_axis(x, jnp.argmax(ids, axis=1)[:, None, None], axis=1)[:, 0]  # [B, W]
        return end @ projection.astype(end.dtype)
