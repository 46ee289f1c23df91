"""Bilinear pooling of feature maps, full (Lin et al. 2015, arXiv:1504.07889) and compact (Gao et al. 2016,
arXiv:1511.06062).

The compact forms project the outer product to d numbers. In expectation, their inner products are those of
the outer products. The tensor sketch of the features, summed over the locations, is the count sketch of their
Gram matrix. So it is computed from that matrix: one matrix product and one scatter an image. The papers' form
transforms every location by FFT; the result is the same.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.dense import Dense, Linear
from imgcls_jax.losses import l2_normalize

SQRT_EPSILON = 1e-5  # bounds the gradient of the square root at dead channels


def gram(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean outer product of two streams' features over the locations.

    Eq.: G = 1/L sum_l a_l b_l^T.

    Args:
      a, b: float [B, L, C], [B, L, D].

    Returns:
      float32 [B, C, D].
    """
    product = jnp.einsum("blc,bld->bcd", a, b, preferred_element_type=jnp.float32)
    return product / a.shape[1]


def signed_sqrt(x: jax.Array) -> jax.Array:
    """Signed square root, sign(x) sqrt(|x| + 1e-5), with a finite gradient everywhere and 0 at 0.

    Args:
      x: float, any shape.

    Returns:
      Like x.
    """
    return jnp.sign(x) * jnp.sqrt(jnp.abs(x) + SQRT_EPSILON)


def draw_hashes(rng: jax.Array, channels: int, dim: int) -> dict[str, jax.Array]:
    """Draws the hash and sign of each channel, for one stream of a tensor sketch.

    Returns:
      {"hash": int32 [channels] in [0, dim), "sign": float32 [channels], 1 or -1}.
    """
    rng_hash, rng_sign = jax.random.split(rng)
    return {
        "hash": jax.random.randint(rng_hash, (channels,), 0, dim),
        "sign": jax.random.rademacher(rng_sign, (channels,), jnp.float32),
    }


def tensor_sketch(
    grams: jax.Array, first: dict[str, jax.Array], second: dict[str, jax.Array], dim: int
) -> jax.Array:
    """Tensor sketch of features, from their Gram matrix (Pham and Pagh 2013).

    Eq.: out[(h1(i) + h2(j)) mod d] += s1(i) s2(j) G[i, j], which is sum_l IFFT(FFT(sketch1(a_l))
    FFT(sketch2(b_l))) / L.

    Args:
      grams: float [B, C, D] of `gram`.
      first, second: of `draw_hashes` for C and D channels, drawn independently.
      dim: d.

    Returns:
      float32 [B, d].
    """
    bins = (first["hash"][:, None] + second["hash"][None, :]) % dim
    signed = grams * first["sign"][:, None] * second["sign"][None, :]
    rows = signed.reshape(grams.shape[0], -1).T  # [C * D, B]
    return jax.ops.segment_sum(rows, bins.ravel(), num_segments=dim).T


def random_maclaurin(a: jax.Array, b: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """Random Maclaurin features summed over the locations (Kar and Karnick 2012).

    Eq.: 1/L sum_l (W1 a_l * W2 b_l) / sqrt(d).

    Args:
      a, b: float [B, L, C], [B, L, D].
      first, second: float [d, C], [d, D] with entries 1 and -1.

    Returns:
      float32 [B, d].
    """
    dim, locations = first.shape[0], a.shape[1]
    if 2 * locations > a.shape[2]:  # fewer products by way of the Gram matrix
        pooled = jnp.sum(jnp.einsum("dc,bce->bde", first, gram(a, b)) * second, axis=-1)
    else:
        pooled = jnp.mean((a @ first.T) * (b @ second.T), axis=1)
    return pooled * dim**-0.5


class Bilinear(nn.Module):
    """A linear classifier on bilinearly pooled features: pool, signed square root, L2 norm, linear.

    Attributes:
      num_classes: K.
      dropout: probability, before the linear layer.
      dim: of the compact forms.
      projection: "full" (C x C numbers), "tensor_sketch" or "random_maclaurin".
      reduce: channels to which a linear layer without bias brings each stream before pooling; 0 for none.
      streams: 1 pools the map with itself; 2 pools its first half of channels with its second, as a backbone
        of two streams delivers them.
      seed: of the projections, which are kept in the collection "projections" and are never trained.
      dtype: of the linear layer; pooling is float32.
    """

    num_classes: int
    dropout: float = 0.0
    dim: int = 8192
    projection: str = "full"
    reduce: int = 0
    streams: int = 1
    seed: int = 0
    dtype: Any = None
    reads: ClassVar[str] = "map"

    @nn.compact
    def __call__(self, feature_map: jax.Array, *, train: bool) -> jax.Array:
        """Args: feature_map float [B, h, w, C]; train switches dropout. Returns: logits float32 [B, K]."""
        x = feature_map.reshape(feature_map.shape[0], -1, feature_map.shape[-1])
        if self.streams not in (1, 2) or x.shape[-1] % self.streams:
            raise ValueError(
                f"streams is 1, or 2 with an even number of channels; got {self.streams}, {x.shape[-1]}"
            )
        streams = jnp.split(x, self.streams, axis=-1)
        if self.reduce:
            streams = [
                Linear(self.reduce, use_bias=False, dtype=self.dtype, name=f"reduce_{number}")(stream)
                for number, stream in enumerate(streams)
            ]
        a, b = streams[0], streams[-1]
        embedding = l2_normalize(signed_sqrt(self._pool(a, b)))
        embedding = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        return Dense(self.num_classes, dtype=self.dtype, name="classifier")(embedding).astype(jnp.float32)

    def _pool(self, a: jax.Array, b: jax.Array) -> jax.Array:
        rng_first, rng_second = jax.random.split(jax.random.key(self.seed))
        sizes = (a.shape[-1], b.shape[-1])
        if self.projection == "full":
            return gram(a, b).reshape(a.shape[0], -1)
        if self.projection == "tensor_sketch":
            hashes_a = self.variable("projections", "first", draw_hashes, rng_first, sizes[0], self.dim)
            hashes_b = self.variable("projections", "second", draw_hashes, rng_second, sizes[1], self.dim)
            return tensor_sketch(gram(a, b), hashes_a.value, hashes_b.value, self.dim)
        if self.projection == "random_maclaurin":
            draw = jax.random.rademacher
            signs_a, signs_b = (self.dim, sizes[0]), (self.dim, sizes[1])
            first = self.variable("projections", "first", draw, rng_first, signs_a, jnp.float32)
            second = self.variable("projections", "second", draw, rng_second, signs_b, jnp.float32)
            return random_maclaurin(a, b, first.value, second.value)
        raise ValueError(
            f"projection is 'full', 'tensor_sketch' or 'random_maclaurin'; got {self.projection!r}"
        )
