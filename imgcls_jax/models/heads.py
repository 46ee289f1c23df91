"""Heads: what stands on a backbone's features and never transfers with it."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.models.layers import Dense


class Linear(nn.Module):
    """The final linear classifier, with optional dropout before it.

    Attributes:
      num_classes: K.
      dropout: probability of dropping an entry of the embedding.
      dtype: of the computation; logits come out as float32.
    """

    num_classes: int
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, embedding: jax.Array, *, train: bool) -> jax.Array:
        """Args: embedding float [B, D]; train switches dropout. Returns: logits float32 [B, K]."""
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        return Dense(self.num_classes, dtype=self.dtype, name="classifier")(x).astype(jnp.float32)
