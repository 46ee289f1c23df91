"""Contrastive losses: NT-Xent of SimCLR (Chen et al. 2020, arXiv:2002.05709), the symmetric InfoNCE of CLIP
(Radford et al. 2021, arXiv:2103.00020), and the sigmoid loss of SigLIP (Zhai et al. 2023, arXiv:2303.15343).

Row i of one argument belongs with row i of the other; all other rows of the batch are negatives. The result
has a row for each direction, [2, B]. Its mean is the loss of both papers; SimCLR's released code minimizes
the sum of the two rows' means, twice that.

On one device, or under jit over a sharded batch, the functions see the whole batch. Inside shard_map, pmap or
vmap each replica sees its own rows alone: with `axis_name` the other replicas' rows are gathered as
negatives. Gradients flow through the gathering, and the mean over replicas of value and gradient is that of
the whole batch.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from imgcls_jax.losses.classification import softmax_cross_entropy

# CLIP's learned scale s: where it starts, and the range to which it is clipped after each step.
INITIAL_LOG_SCALE = math.log(1 / 0.07)
LOG_SCALE_RANGE = (0.0, math.log(100.0))


def l2_normalize(embedding: jax.Array) -> jax.Array:
    """Divides each vector by its Euclidean norm, at any magnitude; a vector of zeros stays zeros.

    Gradients are finite, at zeros too.

    Args:
      embedding: float [..., D].

    Returns:
      float32 [..., D], of norm 1.
    """
    embedding = jnp.asarray(embedding, jnp.float32)
    # Squares of large or tiny entries leave float32's range; a constant factor changes nothing.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(embedding), axis=-1, keepdims=True))
    embedding /= jnp.where(largest > 1e-30, largest, 1.0)
    squared = jnp.sum(embedding**2, axis=-1, keepdims=True)
    return embedding * jax.lax.rsqrt(jnp.where(squared > 0.5, squared, 1.0))


def nt_xent(
    first: jax.Array, second: jax.Array, *, temperature: float, axis_name: str | None = None
) -> jax.Array:
    """Normalized temperature-scaled cross-entropy: to find an example's other view among all views.

    Eq. 1: l_i = -log(exp(s_ip / t) / sum_{k != i} exp(s_ik / t)) over the 2B views k, with s the cosine and p
    the other view of i's example; the paper's loss is the mean over the 2B anchors i.

    Args:
      first, second: float [B, D], the embeddings of two views of the same examples, of any norm.
      temperature: t, positive.
      axis_name: of the mapped axis, for callers that see one replica's rows; None where the batch is whole.

    Returns:
      float32 [2, B], nats: the anchors of `first`, then those of `second`.

    Raises:
      ValueError: the shapes differ or are not [B, D], or temperature is not positive.
    """
    _check_pair(first, second)
    if not temperature > 0:
        raise ValueError(f"temperature divides the cosines and must be positive; got {temperature}")
    views = [l2_normalize(view) for view in (first, second)]
    everyone, rows = _gather(views, axis_name)
    size = len(everyone[0])
    candidates = jnp.concatenate(everyone)  # [2B, D]
    losses = []
    for own, anchors in enumerate(views):
        logits = _cosines(anchors, candidates) / temperature  # [b, 2B]
        itself = jnp.arange(2 * size) == (rows + own * size)[:, None]
        losses.append(softmax_cross_entropy(jnp.where(itself, -jnp.inf, logits), rows + (1 - own) * size))
    return jnp.stack(losses)


def clip_loss(
    images: jax.Array, texts: jax.Array, *, log_scale: jax.Array | float, axis_name: str | None = None
) -> jax.Array:
    """CLIP's symmetric InfoNCE: to find an image's text among all texts, and a text's image among all images.

    Eq.: cross-entropy of softmax(exp(s) I T^T) with the diagonal as target, over rows and over columns; the
    paper's loss is the mean of the two.

    Args:
      images, texts: float [B, D], the embeddings of pairs, of any norm.
      log_scale: s, a param that starts at INITIAL_LOG_SCALE. The loss takes it as it is: objectives/clip.py
        clips it to LOG_SCALE_RANGE after each step, so that logits stay within 100. It does not decay.
      axis_name: of the mapped axis, for callers that see one replica's rows; None where the batch is whole.

    Returns:
      float32 [2, B], nats: image to texts, then text to images.

    Raises:
      ValueError: the shapes differ or are not [B, D].
    """
    _check_pair(images, texts)
    sides = [l2_normalize(side) for side in (images, texts)]
    everyone, rows = _gather(sides, axis_name)
    scale = jnp.exp(jnp.asarray(log_scale, jnp.float32))
    return jnp.stack(
        [
            softmax_cross_entropy(scale * _cosines(anchors, candidates), rows)
            for anchors, candidates in zip(sides, reversed(everyone), strict=True)
        ]
    )


def sigmoid_pair_loss(
    images: jax.Array,
    texts: jax.Array,
    *,
    log_scale: jax.Array | float,
    bias: jax.Array | float,
    axis_name: str | None = None,
) -> jax.Array:
    """SigLIP's loss: whether an image and a text belong together, asked of each pair by itself.

    Eq. 1: l_i = sum_j log(1 + exp(-z_ij (exp(s) x_i y_j + b))), z_ij = 1 for i = j and -1 else; the paper's
    loss is the mean over i.

    Args:
      images, texts: float [B, D], the embeddings of pairs, of any norm.
      log_scale, bias: s and b, params.
      axis_name: of the mapped axis, for callers that see one replica's rows; None where the batch is whole.

    Returns:
      float32 [B], nats.

    Raises:
      ValueError: the shapes differ or are not [B, D].
    """
    _check_pair(images, texts)
    images, texts = l2_normalize(images), l2_normalize(texts)
    (candidates,), rows = _gather([texts], axis_name)
    logits = jnp.exp(jnp.asarray(log_scale, jnp.float32)) * _cosines(images, candidates) + bias
    signs = jnp.where(jnp.arange(len(candidates)) == rows[:, None], 1.0, -1.0)
    return jnp.sum(jax.nn.softplus(-signs * logits), axis=1)


def queue_info_nce(queries: jax.Array, keys: jax.Array, queue: jax.Array, *, temperature: float) -> jax.Array:
    """Cross-entropy of finding a query's own key among it and a queue of others (MoCo, arXiv:1911.05722).

    Eq. 1: l_i = -log(exp(q_i k_i / t) / (exp(q_i k_i / t) + sum_j exp(q_i n_j / t))).

    Args:
      queries, keys: float [B, D], of any norm; they are normalized here.
      queue: float [N, D], the negatives n, of norm 1.
      temperature: t, positive.

    Returns:
      float32 [B], nats.

    Raises:
      ValueError: the shapes differ or are not [B, D], or temperature is not positive.
    """
    _check_pair(queries, keys)
    if not temperature > 0:
        raise ValueError(f"temperature divides the cosines and must be positive; got {temperature}")
    queries, keys = l2_normalize(queries), l2_normalize(keys)
    own = jnp.sum(queries * keys, axis=1, keepdims=True)
    logits = jnp.concatenate([own, _cosines(queries, queue)], axis=1) / temperature
    return softmax_cross_entropy(logits, jnp.zeros(len(queries), jnp.int32))


def normalized_distance(first: jax.Array, second: jax.Array) -> jax.Array:
    """Squared distance of the normalized rows, 2 - 2 cos (BYOL, arXiv:2006.07733, eq. 2).

    Args:
      first, second: float [B, D], of any norm.

    Returns:
      float32 [B], in [0, 4].
    """
    _check_pair(first, second)
    return 2 - 2 * jnp.sum(l2_normalize(first) * l2_normalize(second), axis=1)


def _check_pair(first: jax.Array, second: jax.Array) -> None:
    if jnp.ndim(first) != 2 or jnp.shape(first) != jnp.shape(second):
        raise ValueError(
            "the two sides of a contrastive loss are embeddings of one shape [B, D], row i of both from "
            f"example i; got {jnp.shape(first)} and {jnp.shape(second)}"
        )


def _gather(sides: list[jax.Array], axis_name: str | None) -> tuple[list[jax.Array], jax.Array]:
    """Returns the sides [b, D] of all replicas, [B, D] each, and the rows [b] in them of this replica's."""
    rows = jnp.arange(len(sides[0]))
    if axis_name is None:
        return sides, rows
    gathered = [jax.lax.all_gather(side, axis_name, tiled=True) for side in sides]
    return gathered, rows + jax.lax.axis_index(axis_name) * len(rows)


def _cosines(anchors: jax.Array, candidates: jax.Array) -> jax.Array:
    """Inner products [b, B] in full float32: the low temperatures that divide them magnify rounding."""
    return jnp.matmul(anchors, candidates.T, precision="highest")
