"""Hinge losses: a support vector machine on top of a network (Tang 2013, arXiv:1306.0239).

Both take logits float [..., K] as the scores of K classes, and return float32 [...] in the unit of the logits
(squared for the second), one value per example. A margin of 1 is asked for.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def multiclass_hinge(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How far the label's score is from being 1 above that of every other class.

    Eq.: l = max(0, 1 + max_{j != y} z_j - z_y).

    Args:
      logits: float [..., K], K >= 2; computed in float32.
      labels: integer [...] in [0, K).

    Returns:
      float32 [...], >= 0.

    Raises:
      ValueError: the labels are no class indices of the logits' shape.

    Reference:
      Crammer and Singer, JMLR 2 (2001), section 3.
    """
    logits, own = _own_class(logits, labels)
    others = jnp.max(jnp.where(own, -jnp.inf, logits), axis=-1)
    return jax.nn.relu(1 + others - jnp.sum(jnp.where(own, logits, 0.0), axis=-1))


def squared_hinge(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Squared hinge loss of K machines, each of which tells its class from the rest, summed over them.

    Eq.: l = sum_k max(0, 1 - t_k z_k)^2, t_k = 1 for the label and -1 for the others.

    Args, Returns, Raises: as of `multiclass_hinge`.

    Reference:
      Tang 2013, arXiv:1306.0239, equation 6.
    """
    logits, own = _own_class(logits, labels)
    return jnp.sum(jax.nn.relu(1 - jnp.where(own, logits, -logits)) ** 2, axis=-1)


def _own_class(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the logits in float32, and bool [..., K], true for the label."""
    logits, labels = jnp.asarray(logits, jnp.float32), jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"hinge losses take class indices, integers of shape {logits.shape[:-1]}; got {labels.dtype} of "
            f"shape {labels.shape}"
        )
    return logits, jnp.arange(logits.shape[-1]) == labels[..., None]
