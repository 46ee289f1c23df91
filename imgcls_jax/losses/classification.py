"""Losses of classification with one label an example (softmax) or several (sigmoid), and class weights.

Every loss takes logits float [..., K] and returns float32 [...] in nats, one value per example; reductions
are the caller's. `targets` are class indices, integer [...] in [0, K), or probabilities, float [..., K]. The
sigmoid losses take a target in [0, 1] for each label, [..., K], and sum over the labels.
"""

from __future__ import annotations

import math

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
      class_weights: float [K], >= 0; None weighs all classes 1. `mean_over` divides by their sum.

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


def softmax_focal(
    logits: jax.Array, targets: jax.Array, *, gamma: float = 2.0, class_weights: jax.Array | None = None
) -> jax.Array:
    """Focal loss over classes that exclude each other: easy examples weigh little.

    Eq.: l = -w_y (1 - p_y)^gamma log p_y, p = softmax(z). With the margin m = z_y - logsumexp(the other
    logits), log p_y = -softplus(-m) and log(1 - p_y) = -softplus(m), exact where p_y rounds to 1.

    Args:
      logits: float [..., K], K >= 2, any range; computed in float32.
      targets: integer [...] in [0, K).
      gamma: >= 0; 0 is the cross-entropy.
      class_weights: float [K], >= 0, the paper's alpha a class; None weighs all classes 1.

    Returns:
      float32 [...], nats.

    Raises:
      ValueError: gamma is negative, or targets are no class indices of the logits' shape.

    Reference:
      Lin et al. 2017, arXiv:1708.02002, equation 5, there for two classes.
    """
    _check_gamma(gamma)
    logits = jnp.asarray(logits, jnp.float32)
    targets = jnp.asarray(targets)
    if not _check_targets(logits, targets):
        raise ValueError("softmax_focal takes class indices; got probabilities of each class")
    own = jnp.arange(logits.shape[-1]) == targets[..., None]
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)
    margin = jnp.sum(jnp.where(own, logits, 0.0), axis=-1) - others
    loss = jnp.exp(-gamma * jax.nn.softplus(margin)) * jax.nn.softplus(-margin)
    return loss if class_weights is None else loss * jnp.asarray(class_weights, jnp.float32)[targets]


def sigmoid_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    positive_weight: float | jax.Array = 1.0,
    observed: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy of K labels, each of which applies or not whatever the others do, summed over them.

    Eq.: l = sum_k w_k t_k softplus(-z_k) + (1 - t_k) softplus(z_k). PyTorch's BCEWithLogitsLoss divides the
    sum by K; where labels are missing the usual divisor is the number observed.

    Args:
      logits: float [..., K], any range; computed in float32.
      targets: bool, integer or float [..., K] in [0, 1].
      positive_weight: w, a number or float [K], >= 0, on the terms of the labels that apply.
      observed: bool [..., K], the labels that are known; the others' targets are not read. None for all.

    Returns:
      float32 [...], nats.

    Raises:
      ValueError: the shapes of logits and targets differ.
    """
    logits, targets = _label_pairs(logits, targets, observed)
    losses = positive_weight * targets * jax.nn.softplus(-logits) + (1 - targets) * jax.nn.softplus(logits)
    return jnp.sum(losses, axis=-1, where=observed)


def sigmoid_focal(
    logits: jax.Array,
    targets: jax.Array,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    observed: jax.Array | None = None,
) -> jax.Array:
    """Focal loss of K labels, each of which applies or not whatever the others do, summed over them.

    Eq.: l = sum_k alpha t_k (1 - p_k)^gamma softplus(-z_k) + (1 - alpha) (1 - t_k) p_k^gamma softplus(z_k),
    p = sigmoid(z). Detection divides the sum over a batch by the number of positives, classification by that
    of examples.

    Args:
      logits: float [..., K], any range; computed in float32.
      targets: bool, integer or float [..., K] in [0, 1].
      alpha: in [0, 1], of the labels that apply; 1 - alpha of the others.
      gamma: >= 0; 0 with alpha = 1/2 is half the cross-entropy.
      observed: bool [..., K], the labels that are known; the others' targets are not read. None for all.

    Returns:
      float32 [...], nats.

    Raises:
      ValueError: gamma is negative, alpha lies outside [0, 1], or the shapes differ.

    Reference:
      Lin et al. 2017, arXiv:1708.02002, equation 5.
    """
    _check_gamma(gamma)
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is the weight of the labels that apply, in [0, 1]; got {alpha}")
    logits, targets = _label_pairs(logits, targets, observed)
    surprise, opposite = jax.nn.softplus(-logits), jax.nn.softplus(logits)  # -log p, -log(1 - p)
    positive = alpha * targets * jnp.exp(-gamma * opposite) * surprise
    negative = (1 - alpha) * (1 - targets) * jnp.exp(-gamma * surprise) * opposite
    return jnp.sum(positive + negative, axis=-1, where=observed)


def sigmoid_asymmetric(
    logits: jax.Array,
    targets: jax.Array,
    *,
    positive_gamma: float = 0.0,
    negative_gamma: float = 4.0,
    shift: float = 0.05,
    observed: jax.Array | None = None,
) -> jax.Array:
    """Focal loss of K labels that quiets those that do not apply more than those that do, summed over them.

    Eq.: l = sum_k t_k (1 - p_k)^g+ softplus(-z_k) - (1 - t_k) q_k^g- log(1 - q_k), p = sigmoid(z),
    q = max(p - shift, 0): a label that does not apply costs nothing below a probability of `shift`.

    Difference: the gradient passes through the powers, as in the paper. The authors' code can stop it there.

    Args:
      logits: float [..., K], any range; computed in float32.
      targets: bool, integer or float [..., K] in [0, 1].
      positive_gamma, negative_gamma: g+ and g-, >= 0. The authors' code also has g+ = 1.
      shift: m, in [0, 1).
      observed: bool [..., K], the labels that are known; the others' targets are not read. None for all.

    Returns:
      float32 [...], nats.

    Raises:
      ValueError: a gamma is negative, shift lies outside [0, 1), or the shapes differ.

    Reference:
      Ridnik et al. 2020, arXiv:2009.14119, equations 5 to 7.
    """
    _check_gamma(positive_gamma)
    _check_gamma(negative_gamma)
    if not 0.0 <= shift < 1.0:
        raise ValueError(f"shift is taken off the probability, in [0, 1); got {shift}")
    logits, targets = _label_pairs(logits, targets, observed)
    surprise, opposite = jax.nn.softplus(-logits), jax.nn.softplus(logits)  # -log p, -log(1 - p)
    positive = targets * jnp.exp(-positive_gamma * opposite) * surprise
    if shift:
        opposite = -jnp.logaddexp(-opposite, math.log(shift))  # -log(1 - p + m)
    seen = opposite > 0
    opposite = jnp.where(seen, opposite, 1.0)  # so that the power of 0 has no part in the gradient
    negative = (1 - targets) * jnp.where(seen, (-jnp.expm1(-opposite)) ** negative_gamma * opposite, 0.0)
    return jnp.sum(positive + negative, axis=-1, where=observed)


def _label_pairs(
    logits: jax.Array, targets: jax.Array, observed: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Returns logits and targets as float32, 0 for the targets that are not known."""
    logits, targets = jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.float32)
    if logits.shape != targets.shape:
        raise ValueError(f"targets need one number a label, shape {logits.shape}; got {targets.shape}")
    return logits, targets if observed is None else jnp.where(observed, targets, 0.0)


def _check_gamma(gamma: float) -> None:
    if not gamma >= 0:
        raise ValueError(f"gamma, the exponent that quiets easy examples, is at least 0; got {gamma}")


def mean_over(losses: jax.Array, divisor: jax.Array) -> jax.Array:
    """Sum of losses over another number than their count.

    Eq.: sum_i l_i / d. With class weights d = sum_i w(y_i), so that one rare class does not change the scale.
    That is PyTorch's `mean`, with label smoothing too: w(y) is the weight of the label itself, whatever share
    of the target the smoothing gave to the other classes. Labels that `mixup` and `cutmix` mixed have the
    same sum, for one coefficient holds for the batch.

    Args:
      losses: float [N]; of class weights already weighted (`softmax_cross_entropy(..., class_weights=...)`).
      divisor: d, a number >= 0.

    Returns:
      float32 scalar; 0 where d is 0.
    """
    return jnp.where(divisor > 0, jnp.sum(losses) / jnp.where(divisor > 0, divisor, 1.0), 0.0)


def inverse_frequency_weights(counts: jax.Array, *, power: float = 1.0) -> jax.Array:
    """Class weights that make up for unequal numbers of examples.

    Eq.: w_c = (n / (K n_c))^power, n = sum_c n_c.

    Args:
      counts: integer or float [K], examples a class, >= 0.
      power: 1 makes all classes count alike, 1/2 is the milder square root, 0 gives ones.

    Returns:
      float32 [K], 0 for a class without examples.
    """
    counts = jnp.asarray(counts, jnp.float32)
    share = counts / jnp.sum(counts) * counts.size
    return jnp.where(counts > 0, jnp.where(counts > 0, share, 1.0) ** -power, 0.0)


def effective_number_weights(counts: jax.Array, *, beta: float) -> jax.Array:
    """Class weights by the effective number of examples, of which each new one adds less than the last.

    Eq.: w_c = s (1 - beta) / (1 - beta^n_c), with s such that the weights sum to K.

    Args:
      counts: integer or float [K], examples a class, >= 0.
      beta: in [0, 1); 0 gives ones, 1 - 1/n and beyond comes near to inverse frequencies.

    Returns:
      float32 [K], 0 for a class without examples.

    Raises:
      ValueError: beta lies outside [0, 1).

    Reference:
      Cui et al. 2019, arXiv:1901.05555.
    """
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"beta lies in [0, 1), e.g. 0.999; got {beta}")
    counts = jnp.asarray(counts, jnp.float32)
    numbers = -jnp.expm1(counts * math.log(beta)) if beta else jnp.ones_like(counts)
    weights = jnp.where(counts > 0, 1 / jnp.where(counts > 0, numbers, 1.0), 0.0)
    return weights * counts.size / jnp.sum(weights)


def prior_bias(prior: float) -> float:
    """Bias of a last layer whose sigmoid then begins at the frequency of a rare label.

    Eq.: b = -log((1 - pi) / pi): without it the many negatives swamp the first steps of a focal loss.

    Args:
      prior: pi, in (0, 1).

    Raises:
      ValueError: prior lies outside (0, 1).

    Reference:
      Lin et al. 2017, arXiv:1708.02002, sections 3.3 and 4.1; there pi is 0.01.
    """
    if not 0.0 < prior < 1.0:
        raise ValueError(f"prior is the frequency of the label, in (0, 1); got {prior}")
    return math.log(prior) - math.log1p(-prior)


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
