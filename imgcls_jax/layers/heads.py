"""Heads: what stands on a backbone's features and never transfers with it.

A head's class attribute `reads` names the field of Features that it takes: "embedding" or "map". A backbone
whose own classifier is not linear names the head it belongs to by a class attribute `head`.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.bilinear import Bilinear
from imgcls_jax.layers.dense import Dense

__all__ = ["Bilinear", "ConvPool", "Linear", "build"]


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
    reads: ClassVar[str] = "embedding"

    @nn.compact
    def __call__(self, embedding: jax.Array, *, train: bool) -> jax.Array:
        """Args: embedding float [B, D]; train switches dropout. Returns: logits float32 [B, K]."""
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        return Dense(self.num_classes, dtype=self.dtype, name="classifier")(x).astype(jnp.float32)


class ConvPool(nn.Module):
    """A 1x1 convolution to K maps, ReLU, and their global means as logits: NiN's and SqueezeNet's classifier.

    Attributes:
      num_classes: K.
      dropout: probability of dropping an entry of the map.
      dtype: of the computation; logits come out as float32, all >= 0.
    """

    num_classes: int
    dropout: float = 0.0
    dtype: Any = None
    reads: ClassVar[str] = "map"

    @nn.compact
    def __call__(self, feature_map: jax.Array, *, train: bool) -> jax.Array:
        """Args: feature_map float [B, h, w, D]; train switches dropout. Returns: logits float32 [B, K]."""
        x = nn.Dropout(self.dropout, deterministic=not train)(feature_map)
        x = nn.relu(Dense(self.num_classes, dtype=self.dtype, name="classifier")(x))  # [B, h, w, K]
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


def build(name: str, num_classes: int, **fields: Any) -> nn.Module:
    """Returns a head by its class's name in snake case, such as "linear".

    Raises:
      ValueError: there is no such head, or it has no such field.
    """
    heads = {
        re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower(): value
        for key, value in globals().items()
        if inspect.isclass(value) and hasattr(value, "reads")
    }
    if name not in heads:
        raise ValueError(f"layers/heads.py has no head {name!r}; it has {', '.join(sorted(heads))}")
    known = inspect.signature(heads[name]).parameters.keys() - {"num_classes", "parent", "name"}
    for field in fields.keys() - known:
        raise ValueError(f"the head {name!r} has no field {field!r}; it has {', '.join(sorted(known))}")
    return heads[name](num_classes, **fields)
