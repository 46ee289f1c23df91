"""Heads: what stands on a backbone's features and never transfers with it.

A head's class attribute `reads` names the field of Features that it reads: "embedding" or "map". A backbone
whose own classifier is not linear has a class attribute `head`: the name of the head that it needs.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.bilinear import Bilinear
from imgcls_jax.layers.dense import Dense
from imgcls_jax.losses import l2_normalize


class Linear(nn.Module):
    """The final linear classifier, with optional dropout before it.

    Attributes:
      num_classes: K.
      dropout: probability of dropping an entry of the embedding.
      dtype: of the computation; logits come out as float32.
      normalize: whether to divide each embedding by the root of the mean square of its entries. One rate then
        suits every frozen backbone, whatever the scale of its features.
      zero_init: whether weights and biases start at 0, as those of big_vision and vision_transformer do.
    """

    num_classes: int
    dropout: float = 0.0
    dtype: Any = None
    normalize: bool = False
    zero_init: bool = False
    reads: ClassVar[str] = "embedding"

    @nn.compact
    def __call__(self, embedding: jax.Array, *, train: bool) -> jax.Array:
        """Args: embedding float [B, D]; train switches dropout. Returns: logits float32 [B, K]."""
        if self.normalize:
            square = jnp.mean(jnp.square(embedding.astype(jnp.float32)), axis=-1, keepdims=True)
            embedding = (embedding * jax.lax.rsqrt(jnp.maximum(square, 1e-12))).astype(embedding.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        layer = Dense(self.num_classes, dtype=self.dtype, zero_init=self.zero_init, name="classifier")
        return layer(x).astype(jnp.float32)


class ConvPool(nn.Module):
    """A 1x1 convolution to K maps, ReLU, and their global means as logits: NiN's and SqueezeNet's classifier.

    Attributes:
      num_classes: K.
      dropout: probability of dropping an entry of the map.
      dtype: of the computation, the map's own by default; logits come out as float32, all >= 0.
    """

    num_classes: int
    dropout: float = 0.0
    dtype: Any = None
    reads: ClassVar[str] = "map"

    @nn.compact
    def __call__(self, feature_map: jax.Array, *, train: bool) -> jax.Array:
        """Args: feature_map float [B, h, w, D]; train switches dropout. Returns: logits float32 [B, K]."""
        x = nn.Dropout(self.dropout, deterministic=not train)(feature_map)
        dtype = self.dtype or feature_map.dtype
        x = nn.relu(Dense(self.num_classes, dtype=dtype, name="classifier")(x))  # [B, h, w, K]
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


class Cosine(nn.Module):
    """The cosine between the embedding and a vector for each class, times a scale; no bias.

    Reference: Wang et al. 2017, "NormFace", arXiv:1704.06369. Margins are put on it in training (losses/
    metric_learning.py).

    Attributes:
      num_classes: K.
      dropout: probability of dropping an entry of the embedding.
      scale: s > 0. A softmax of cosines alone cannot become sure: of 100 classes p is below 0.07.
      dtype: of the computation; logits come out as float32.
    """

    num_classes: int
    dropout: float = 0.0
    scale: float = 30.0
    dtype: Any = None
    reads: ClassVar[str] = "embedding"

    @nn.compact
    def __call__(self, embedding: jax.Array, *, train: bool) -> jax.Array:
        """Args: embedding float [B, D]; train switches dropout. Returns: logits float32 [B, K]."""
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        shape = (self.num_classes, x.shape[-1])
        prototypes = self.param("prototypes", nn.initializers.normal(0.01), shape)
        x, prototypes = (jnp.asarray(l2_normalize(side), self.dtype) for side in (x, prototypes))
        return self.scale * jnp.matmul(x, prototypes.T, preferred_element_type=jnp.float32)


# What `objective.head` and a backbone's attribute `head` may say.
HEADS: dict[str, type[nn.Module]] = {
    "bilinear": Bilinear,
    "conv_pool": ConvPool,
    "cosine": Cosine,
    "linear": Linear,
}


def build(name: str, num_classes: int, **fields: Any) -> nn.Module:
    """Returns a head of `HEADS`.

    Args:
      name: a key of `HEADS`.
      num_classes: K.
      **fields: further attributes of the head's class.

    Raises:
      ValueError: there is no such head, or it has no such field.
    """
    if name not in HEADS:
        raise ValueError(f"layers/heads.py has no head {name!r}; it has {', '.join(HEADS)}")
    known = inspect.signature(HEADS[name]).parameters.keys() - {"num_classes", "parent", "name"}
    for field in fields.keys() - known:
        raise ValueError(f"the head {name!r} has no field {field!r}; it has {', '.join(sorted(known))}")
    return HEADS[name](num_classes, **fields)
