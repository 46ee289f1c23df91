"""What keeps embeddings from collapsing without negatives: the variance and covariance of each dimension.

VICReg, Bardes et al. 2022, arXiv:2105.04906. Both functions return a value for each dimension, not for each
example, and need the whole batch: with `axis_name` the other replicas' rows are gathered.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def variance_hinge(
    embedding: jax.Array, *, target: float = 1.0, epsilon: float = 1e-4, axis_name: str | None = None
) -> jax.Array:
    """By how much each dimension's standard deviation falls short of a target.

    Eq. 1: max(0, target - sqrt(Var(z_j) + epsilon)), with the unbiased variance; the mean over j is v(Z).

    Args:
      embedding: float [B, D], B >= 2.
      target: of the standard deviation.
      epsilon: keeps the gradient finite where a dimension is constant.
      axis_name: of the mapped axis, for callers that see one replica's rows.

    Returns:
      float32 [D], >= 0.
    """
    rows = _centered(embedding, axis_name)
    variance = jnp.sum(rows**2, axis=0) / (len(rows) - 1)
    return jax.nn.relu(target - jnp.sqrt(variance + epsilon))


def covariance_penalty(embedding: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """How much each dimension repeats the others.

    Eq. 3 and 4: sum_{k != j} C_jk^2, C = Z^T Z / (B - 1) of the centered rows; the mean over j is c(Z).

    Args:
      embedding: float [B, D], B >= 2.
      axis_name: of the mapped axis, for callers that see one replica's rows.

    Returns:
      float32 [D], >= 0.
    """
    rows = _centered(embedding, axis_name)
    covariance = jnp.matmul(rows.T, rows, precision="highest") / (len(rows) - 1)
    return jnp.sum(covariance**2, axis=1) - jnp.diagonal(covariance) ** 2


def _centered(embedding: jax.Array, axis_name: str | None) -> jax.Array:
    rows = jnp.asarray(embedding, jnp.float32)
    if axis_name is not None:
        rows = jax.lax.all_gather(rows, axis_name, tiled=True)
    return rows - jnp.mean(rows, axis=0)
