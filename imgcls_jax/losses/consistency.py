"""Learning without labels, from a network's own predictions: sharpening, distances, pseudo-labels.

Functions of logits take float [..., K] of any range and compute in float32; each returns one value per
example. None of them averages over examples. Only `pseudo_labels` stops a gradient; for other targets the
caller must call `jax.lax.stop_gradient`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def sharpen(probabilities: jax.Array, *, temperature: float) -> jax.Array:
    """Moves a distribution towards its largest class (MixMatch, Berthelot et al. 2019, arXiv:1905.02249).

    Eq.: q_c = p_c^(1/T) / sum_j p_j^(1/T).

    Args:
      probabilities: float [..., K], >= 0 with a positive sum; not logits.
      temperature: T > 0; 1 changes nothing, T -> 0 gives one-hot.

    Returns:
      float32 [..., K], summing to one.

    Raises:
      ValueError: temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive (1 changes nothing); got {temperature}")
    probabilities = jnp.asarray(probabilities, jnp.float32)
    # Over the largest one, so that a power cannot vanish in every class; it cancels.
    ratios = probabilities / jax.lax.stop_gradient(jnp.max(probabilities, axis=-1, keepdims=True))
    positive = ratios > 0
    powers = jnp.where(positive, jnp.where(positive, ratios, 1.0) ** (1 / temperature), 0.0)
    return powers / jnp.sum(powers, axis=-1, keepdims=True)


def softmax_squared_error(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Squared distance between softmax(logits) and targets, divided by the number of classes.

    MixMatch's unlabeled loss and that of the Pi-model and Mean Teacher. Bounded, so that a wrong target
    weighs less than with cross-entropy.

    Eq.: l = (1 / K) sum_c (p_c - q_c)^2.

    Args:
      logits: float [..., K].
      targets: float probabilities [..., K].

    Returns:
      float32 [...] in [0, 2 / K].

    Raises:
      ValueError: the shapes differ.
    """
    targets = _same_shape(logits, targets, "targets")
    probabilities = jax.nn.softmax(jnp.asarray(logits, jnp.float32))
    return jnp.mean((probabilities - targets) ** 2, axis=-1)


def entropy(logits: jax.Array) -> jax.Array:
    """Entropy of softmax(logits) (Grandvalet and Bengio 2004); minimized alone it collapses to one class.

    Eq.: H = -sum_c p_c log p_c.

    Args:
      logits: float [..., K].

    Returns:
      float32 [...] in [0, log K], nats.
    """
    log_p = _log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def kl_divergence(logits: jax.Array, other_logits: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence of softmax(other_logits) from softmax(logits).

    Eq.: KL(p || q) = sum_c p_c (log p_c - log q_c), p = softmax(logits), q = softmax(other_logits).

    Args:
      logits: float [..., K].
      other_logits: float [..., K]; for probabilities r > 0 give log r.

    Returns:
      float32 [...], >= 0 but for rounding, nats; 0 where the two agree.

    Raises:
      ValueError: the shapes differ.
    """
    other_logits = _same_shape(logits, other_logits, "other_logits")
    log_p = _log_softmax(logits)
    return jnp.sum(jnp.exp(log_p) * (log_p - _log_softmax(other_logits)), axis=-1)


def softened_divergence(logits: jax.Array, other_logits: jax.Array, *, temperature: float) -> jax.Array:
    """Distillation's distance of one network's softened probabilities from another's (Hinton, Vinyals and
    Dean 2015, arXiv:1503.02531, section 2). T^2 keeps the size of the gradient whatever the temperature.

    Eq.: T^2 KL(softmax(t / T) || softmax(s / T)).

    Args:
      logits: t, float [..., K], of the teacher.
      other_logits: s, float [..., K], of the student.
      temperature: T > 0.

    Returns:
      float32 [...], >= 0 but for rounding, nats; 0 where the two agree.

    Raises:
      ValueError: the shapes differ, or the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive; got {temperature}")
    softened = (jnp.asarray(one, jnp.float32) / temperature for one in (logits, other_logits))
    return temperature**2 * kl_divergence(*softened)


def jensen_shannon(logits: Sequence[jax.Array]) -> jax.Array:
    """Jensen-Shannon divergence of several distributions: how far they are from their mean.

    AugMix's consistency between an image and its augmented forms (Hendrycks et al. 2020, arXiv:1912.02781,
    section 3).

    Eq.: (1 / n) sum_i KL(p_i || m), p_i = softmax(logits_i), m = (1 / n) sum_i p_i.

    Args:
      logits: n arrays, float [..., K].

    Returns:
      float32 [...] in [0, log n], nats; the gradient flows through all.

    Raises:
      ValueError: the shapes differ.
    """
    log_p = jnp.stack([_log_softmax(_same_shape(logits[0], one, "logits")) for one in logits])
    log_mean = jax.nn.logsumexp(log_p, axis=0) - jnp.log(len(logits))
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_mean), axis=-1), axis=0)


def pseudo_labels(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The predicted classes, to be learned as labels where they are sure enough (Lee 2013). No gradient.

    Args:
      logits: float [..., K].

    Returns:
      labels, int32 [...] in [0, K), and the probability that the prediction gives them, float32 [...] in
      [1 / K, 1].
    """
    logits = jax.lax.stop_gradient(jnp.asarray(logits, jnp.float32))
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), jnp.max(jax.nn.softmax(logits), axis=-1)


def _log_softmax(logits: jax.Array) -> jax.Array:
    """Returns log softmax with the lowest float for -inf, so that 0 log 0 is 0."""
    return jnp.maximum(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)), jnp.finfo(jnp.float32).min)


def _same_shape(logits: jax.Array, others: jax.Array, name: str) -> jax.Array:
    others = jnp.asarray(others, jnp.float32)
    if others.shape != jnp.shape(logits):
        raise ValueError(f"{name} need the shape of the logits, {jnp.shape(logits)}; got {others.shape}")
    return others
