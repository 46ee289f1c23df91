"""Ranking losses of scores between images and classes, with which zero-shot learning trains a compatibility.

Every loss takes scores float [..., K], labels integer [...] in [0, K), and returns float32 [...], one value
an example, >= 0, in the unit of the scores. With F_j a score, y the label and h_j = max(0, m + F_j - F_y) the
violation of another class j of the margin m:

    devise_loss    sum_{j != y} h_j
    sje_loss       max_{j != y} h_j
    ale_loss       beta_r / r sum_{j != y} h_j,  r the number of violations, beta_r = sum_{i <= r} 1 / i

A class whose score is -inf takes no part.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def devise_loss(scores: jax.Array, labels: jax.Array, *, margin: float = 0.1) -> jax.Array:
    """The summed hinge of DeViSE (Frome et al., NeurIPS 2013, equation 1), whose margin is 0.1.

    Args:
      scores: float [..., K].
      labels: integer [...] in [0, K).
      margin: m, at least 0.

    Returns:
      float32 [...].
    """
    return jnp.sum(_violations(scores, labels, margin), axis=-1)


def sje_loss(scores: jax.Array, labels: jax.Array, *, margin: float = 1.0) -> jax.Array:
    """The hinge of the worst class: the structured SVM of SJE (Akata et al. 2015, arXiv:1409.8403).

    Args:
      scores: float [..., K].
      labels: integer [...] in [0, K).
      margin: m, at least 0; 1 in the paper.

    Returns:
      float32 [...].
    """
    return jnp.max(_violations(scores, labels, margin), axis=-1)


def ale_loss(scores: jax.Array, labels: jax.Array, *, margin: float = 1.0) -> jax.Array:
    """The rank-weighted hinge of ALE (Akata et al. 2016, arXiv:1503.08677), after WSABIE.

    A rank r weighs beta_r / r: the higher the label already ranks, the more its last violations count. The
    weight is a constant to the gradient, as a rank is.

    Args:
      scores: float [..., K].
      labels: integer [...] in [0, K).
      margin: m, at least 0; 1 in the paper.

    Returns:
      float32 [...].
    """
    violations = _violations(scores, labels, margin)
    num_classes = violations.shape[-1]
    ranks = jnp.arange(1, num_classes + 1, dtype=jnp.float32)
    weights = jnp.concatenate([jnp.zeros(1), jnp.cumsum(1 / ranks) / ranks])  # [K + 1]
    return weights[jnp.sum(violations > 0, axis=-1)] * jnp.sum(violations, axis=-1)


def _violations(scores: jax.Array, labels: jax.Array, margin: float) -> jax.Array:
    """Returns h float32 [..., K], 0 at the labels."""
    scores, labels = jnp.asarray(scores, jnp.float32), jnp.asarray(labels)
    if labels.shape != scores.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels are integers of shape {scores.shape[:-1]}, that of scores {scores.shape} without its "
            f"last axis; got {labels.dtype} {labels.shape}"
        )
    own = jnp.take_along_axis(scores, labels[..., None], axis=-1)
    others = labels[..., None] != jnp.arange(scores.shape[-1])
    return jnp.where(others, jax.nn.relu(margin + scores - own), 0.0)
