"""The layers of a pre-norm Transformer, on image patches or text tokens, and fixed positions of the patches.

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929 (2020).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers import products
from imgcls_jax.layers.affine import affine
from imgcls_jax.layers.dense import Initializer, Linear, fan_in_uniform
from imgcls_jax.layers.gelu import gelu_of
from imgcls_jax.layers.layer_norm import LayerNorm
from imgcls_jax.layers.rotary import rotate
from imgcls_jax.layers.stochastic_depth import drop_branch

XAVIER = nn.initializers.xavier_uniform()


def sincos_positions(grid: Sequence[int], width: int) -> jax.Array:
    """Returns fixed position embeddings, first half of the channels the column, second half the row.

    Args:
      grid: rows and columns of patches.
      width: of a token, a multiple of 4.

    Returns:
      float32 [rows * columns, width]; each half is the sines, then the cosines, of
      position * 10000 ** (-i / n), i from 0 to n - 1, with n = width / 4.

    Raises:
      ValueError: width is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"sin-cos positions need a width that is a multiple of 4; got {width}")
    frequencies = 10000.0 ** -(jnp.arange(width // 4) / (width // 4))
    rows, columns = jnp.meshgrid(jnp.arange(grid[0]), jnp.arange(grid[1]), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (columns, rows)]  # 2 x [L, width / 4]
    return jnp.concatenate([wave(angle) for angle in angles for wave in (jnp.sin, jnp.cos)], axis=-1)


def split_heads(projected: jax.Array, parts: int, heads: int) -> list[jax.Array]:
    """Returns parts arrays, float [..., heads, D / heads], of projected, float [..., parts * D].

    It takes no slices, whose gradients would be padded and added.
    """
    split = jnp.split(projected, parts, axis=-1)
    return [part.reshape(*part.shape[:-1], heads, part.shape[-1] // heads) for part in split]


def _projected(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns x weight^T + bias, [B, L, E], of x [B, L, D] and weight [E, D]; the sum as in `Linear`."""
    y = products.dot_general(x, weight, (((2,), (1,)), ((), ())))
    return affine(y, bias)


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    The projections to queries, keys and values are one param in PyTorch's layout: in_proj_weight [3 * D, D]
    has the rows of the queries first, then those of the keys, then of the values; in_proj_bias [3 * D] too.

    Attributes:
      heads: number of heads.
      dtype: of the computation.
      out_init: initializer of the projection of the output; PyTorch's by default.
      in_init: initializer of the projections to queries, keys and values.
      causal: whether a token attends to itself and the tokens before it alone.
    """

    heads: int
    dtype: Any = None
    out_init: Initializer = fan_in_uniform
    in_init: Initializer = XAVIER
    causal: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array | None = None) -> jax.Array:
        """Args: x float [B, L, D]; angles by which queries and keys are turned, as `rotate` has them, None
        for none. Returns: float [B, L, D]."""
        width = x.shape[-1]
        weight = self.param("in_proj_weight", self.in_init, (3 * width, width))
        bias = self.param("in_proj_bias", nn.initializers.zeros, (3 * width,))
        x, weight = nn.dtypes.promote_dtype(x, weight, dtype=self.dtype)
        query, key, value = split_heads(_projected(x, weight, bias), 3, self.heads)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        mixed = products.attention(query, key, value, is_causal=self.causal).reshape(x.shape)
        return Linear(width, dtype=self.dtype, kernel_init=self.out_init, name="out_proj")(mixed)


class EncoderLayer(nn.Module):
    """Attention and MLP, each after a norm and beside a shortcut.

    Attributes:
      heads: number of attention heads.
      dropout: probability of dropping an entry of what attention and each MLP layer put out.
      stochastic_depth: probability of dropping a branch for one image.
      dtype: of the computation.
      quick_gelu: x * sigmoid(1.702 * x) in place of the GELU.
      epsilon: of the norms.
      all_xavier: every linear map starts from Xavier's uniform distribution and every bias at 0, as MAE's
        authors have it; else the attention's output from PyTorch's and the biases of the MLP near 0.
      causal: of the attention.
      clip_depth: L, of a tower whose linear maps start as those of CLIP's text tower, from N(0, s^2): s is
        D^(-1/2) for queries, keys and values, (2 D L)^(-1/2) for what attention and MLP put out, and
        (2 D)^(-1/2) for the MLP's first layer; 0 for the rule of `all_xavier`.
      tanh_gelu: the GELU's approximation by tanh in place of the GELU.
      mlp_width: of the layer inside the MLP; 0 for 4 D.
      layer_scale: first value of a learned factor for each channel of both branches (LayerScale, Touvron et
        al., arXiv 2103.17239, 2021); 0 for none.
      gated_mlp: a third linear map of the MLP, through SiLU, is multiplied with the first, which has no GELU
        then (SwiGLU, Shazeer, arXiv 2002.05202, 2020).
    """

    heads: int
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    dtype: Any = None
    quick_gelu: bool = False
    epsilon: float = 1e-6
    all_xavier: bool = False
    causal: bool = False
    clip_depth: int = 0
    tanh_gelu: bool = False
    mlp_width: int = 0
    layer_scale: float = 0.0
    gated_mlp: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, angles: jax.Array | None = None) -> jax.Array:
        """Args: x float [B, L, D]; angles as `SelfAttention` has them. Returns: float [B, L, D]."""
        drop = lambda y: nn.Dropout(self.dropout, deterministic=not train)(y)  # noqa: E731
        branch = functools.partial(drop_branch, probability=self.stochastic_depth, train=train)
        in_init, out_init, first_init, last_init = self._initializers(x.shape[-1])
        dense = lambda width, init, name: Linear(  # noqa: E731
            width,
            dtype=self.dtype,
            kernel_init=init,
            bias_init=nn.initializers.zeros if self.all_xavier else nn.initializers.normal(1e-6),
            name=name,
        )
        gelu = gelu_of(quick_gelu=self.quick_gelu, tanh_gelu=self.tanh_gelu)
        width = x.shape[-1]
        y = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="ln_1")(x)
        attention = SelfAttention(
            self.heads, self.dtype, out_init, in_init, self.causal, name="self_attention"
        )
        x = x + branch(self._scaled(drop(attention(y, angles)), "ls_1"))
        y = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="ln_2")(x)
        inner = self.mlp_width or 4 * width
        inside = dense(inner, first_init, "mlp.0")(y)  # [B, L, 4 * D]
        if self.gated_mlp:
            y = drop(nn.silu(dense(inner, first_init, "mlp.gate")(y)) * inside)
        else:
            y = drop(gelu(inside))
        return x + branch(self._scaled(drop(dense(width, last_init, "mlp.3")(y)), "ls_2"))

    def _scaled(self, x: jax.Array, name: str) -> jax.Array:
        """Returns a branch times its learned factors [D], where there are any."""
        if not self.layer_scale:
            return x
        factors = self.param(name, nn.initializers.constant(self.layer_scale), (x.shape[-1],))
        return x * factors.astype(x.dtype)

    def _initializers(self, width: int) -> tuple[Initializer, Initializer, Initializer, Initializer]:
        """Returns those of queries, keys and values, of the attention's output, and of the MLP's layers."""
        if not self.clip_depth:
            return XAVIER, XAVIER if self.all_xavier else fan_in_uniform, XAVIER, XAVIER
        out = nn.initializers.normal((2 * width * self.clip_depth) ** -0.5)
        return nn.initializers.normal(width**-0.5), out, nn.initializers.normal((2 * width) ** -0.5), out


class AttentionPool(nn.Module):
    """One learned query that attends to all tokens, and an MLP beside a shortcut: SigLIP's embedding.

    Zhai et al., "Scaling Vision Transformers", arXiv 2106.04560 (2021), section 2.3 ("MAP"). The projections
    are one param, as in `SelfAttention`.

    Attributes:
      heads: of the attention.
      dtype: of the computation.
      epsilon: of the norm before the MLP.
      quick_gelu, tanh_gelu, mlp_width: as `EncoderLayer` has them.
    """

    heads: int
    dtype: Any = None
    epsilon: float = 1e-6
    quick_gelu: bool = False
    tanh_gelu: bool = False
    mlp_width: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x float [B, L, D]. Returns: float [B, D]."""
        size, _, width = x.shape
        probe = self.param("probe", XAVIER, (1, 1, width))
        weight = self.param("in_proj_weight", XAVIER, (3 * width, width))
        bias = self.param("in_proj_bias", nn.initializers.zeros, (3 * width,))
        x, probe, weight = nn.dtypes.promote_dtype(x, probe, weight, dtype=self.dtype)
        (query,) = split_heads(_projected(probe, weight[:width], bias[:width]), 1, self.heads)
        query = jnp.broadcast_to(query, (size, *query.shape[1:]))
        key, value = split_heads(_projected(x, weight[width:], bias[width:]), 2, self.heads)
        mixed = products.attention(query, key, value).reshape(size, width)
        dense = functools.partial(Linear, dtype=self.dtype, kernel_init=XAVIER)
        x = dense(width, name="out_proj")(mixed)
        y = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="ln")(x)
        gelu = gelu_of(quick_gelu=self.quick_gelu, tanh_gelu=self.tanh_gelu)
        y = gelu(dense(self.mlp_width or 4 * width, name="mlp.0")(y))  # [B, 4 * D]
        return x + dense(width, name="mlp.3")(y)
