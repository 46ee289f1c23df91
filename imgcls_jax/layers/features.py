"""The output of every backbone."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Features(NamedTuple):
    """The output of every backbone.

    Attributes:
      map: float [B, h, w, D'], the last feature map.
      embedding: float [B, D], what a final linear layer reads.
      aux: side outputs for auxiliary classifiers, float [B, D''] each; () where the network has none.
    """

    map: jax.Array
    embedding: jax.Array
    aux: tuple[jax.Array, ...] = ()
