"""Losses of single-label classification.

Every function takes logits float [..., K] and returns float32 [...] in nats, one value per example;
reductions are the caller's. `targets` are class indices, integer [...] in [0, K), or probabilities, float
[..., K].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def _check_targets(logits: jax.Array, targets: jax.Array) -> bool:
    """Returns whether `targets` are class indices; raises ValueError where they fit no form."""
    if jnp.issubdtype(targets.dtype, jnp.integer):
        if targets.shape != logits.shape[:-1]:
            raise ValueError(
                f"integer targets need shape {logits.shape[:-1]}, that of logits {logits.shape} without "
                f"its last axis; got {targets.shape}"
            )
        return True
    if targets.shape != logits.shape:
        raise ValueError(
            f"probability targets need the shape of the logits, {logits.shape}; got {targets.shape}"
        )
    return False


def softmax_cross_entropy(
    logits: jax.Array, targets: jax.Array, *, class_weights: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy between softmax(logits) and targets.

    Eq.: l = sum_c w_c q_c (logsumexp(z) - z_c), with q one-hot where targets are class indices.

    Args:
      logits: float [..., K], any range; computed in float32.
      targets: integer [...] in [0, K), or float probabilities [..., K] (they need not sum to one).
      class_weights: float [K], >= 0; None weighs all classes 1. `class_weighted_mean` divides by their sum.

    Returns:
      float32 [...], nats.

    Raises:
      ValueError: the shapes of logits and targets do not agree.
    """
    logits = jnp.asarray(logits, jnp.float32)
    targets = jnp.asarray(targets)
    if _check_targets(logits, targets):
        picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        loss = jax.nn.logsumexp(logits, axis=-1) - picked
        return loss if class_weights is None else loss * jnp.asarray(class_weights)[targets]
    surprisal = jax.nn.logsumexp(logits, axis=-1, keepdims=True) - logits
    weighted = targets if class_weights is None else targets * class_weights
    return jnp.sum(jnp.where(weighted == 0, 0.0, weighted * surprisal), axis=-1)


def class_weighted_mean(losses: jax.Array, targets: jax.Array, *, class_weights: jax.Array) -> jax.Array:
    """Mean of class-weighted losses over the weights met, so that one rare class does not change the scale.

    Eq.: sum_i l_i / sum_i w(y_i); for probabilities w(y_i) = sum_c w_c q_ic.

    Args:
      losses: float [N], already weighted (`softmax_cross_entropy(..., class_weights=...)`).
      targets: integer [N] or float [N, K], as given to the loss.
      class_weights: float [K], >= 0.

    Returns:
      float32 scalar; 0 where no weight was met.
    """
    class_weights = jnp.asarray(class_weights, jnp.float32)
    targets = jnp.asarray(targets)
    integer = jnp.issubdtype(targets.dtype, jnp.integer)
    weights = class_weights[targets] if integer else targets @ class_weights
    total = jnp.sum(weights)
    return jnp.where(total > 0, jnp.sum(losses) / jnp.where(total > 0, total, 1.0), 0.0)


def smooth_labels(targets: jax.Array, *, num_classes: int, epsilon: float) -> jax.Array:
    """Label smoothing (Szegedy et al. 2015, arXiv:1512.00567, section 7).

    Eq.: q = (1 - epsilon) onehot + epsilon / K.

    Args:
      targets: integer [...] in [0, num_classes), or float probabilities [..., num_classes].
      num_classes: K.
      epsilon: in [0, 1].

    Returns:
      float32 [..., K]; the true class receives 1 - epsilon + epsilon / K.

    Raises:
      ValueError: epsilon outside [0, 1].
    """
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon is the probability mass spread over all classes, in [0, 1]; got {epsilon}")
    targets = jnp.asarray(targets)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, num_classes)
    return (1.0 - epsilon) * targets + epsilon / num_classes


def zero_one(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """0-1 loss: 0 where the label's logit is above every other one, else 1. No gradient.

    A tie or a NaN counts as an error, so that a collapsed network does not score as a perfect one.

    Args:
      logits: float [..., K].
      labels: integer [...] in [0, K).

    Returns:
      float32 [...], 0 or 1.
    """
    logits = jnp.asarray(logits, jnp.float32)
    labels = jnp.asarray(labels)
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return ((label_rank(logits, labels) > 0) | jnp.isnan(own)).astype(jnp.float32)


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Counts the other classes that are not strictly below the label's logit; 0 is a top-1 hit.

    The count is pessimistic: ties and NaNs stand above the label.

    Args:
      logits: float [..., K].
      labels: integer [...] in [0, K).

    Returns:
      int32 [...] in [0, K).
    """
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    others = jnp.arange(logits.shape[-1]) != labels[..., None]
    return jnp.sum(~(logits < own) & others, axis=-1)
