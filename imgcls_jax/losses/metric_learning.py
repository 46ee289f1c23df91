"""Losses that shape the embedding itself, so that images of classes never learned can be compared by it.

Margins on the cosine between an embedding and its class (CosFace, Wang et al. 2018, arXiv:1801.09414;
ArcFace, Deng et al. 2018, arXiv:1801.07698), the centre loss (Wen et al., ECCV 2016) and the triplet loss
(Schroff et al. 2015, arXiv:1503.03832; mined within the batch as Hermans et al. 2017, arXiv:1703.07737).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from imgcls_jax.losses.classification import softmax_cross_entropy

MININGS = ("hard", "all")
LEAST_SQUARE = 1e-12  # below it a square counts as that, so that the gradient of its root is finite


def cosface(cosines: jax.Array, labels: jax.Array, *, margin: float = 0.35, scale: float = 64.0) -> jax.Array:
    """Cross-entropy of cosines whose own class has to win by a margin.

    Eq. 4: l = -log(e^{s (c_y - m)} / (e^{s (c_y - m)} + sum_{j != y} e^{s c_j})). With m = 0 it is the
    softmax of normalized embeddings and weights.

    Args:
      cosines: float [B, K] in [-1, 1], of each embedding and each class, as the head `Cosine` computes them
        (times its scale).
      labels: int [B] in [0, K).
      margin: m >= 0.
      scale: s > 0.

    Returns:
      float32 [B], nats.

    Raises:
      ValueError: margin or scale is out of range, or the shapes do not agree.
    """
    cosines, own = _own_class(cosines, labels, margin, math.inf, scale)
    return softmax_cross_entropy(scale * (cosines - margin * own), labels)


def arcface(cosines: jax.Array, labels: jax.Array, *, margin: float = 0.5, scale: float = 64.0) -> jax.Array:
    """`cosface` with the margin added to the angle: c_y = cos(theta) becomes cos(theta + m).

    Eq. 3; the rest is as in `cosface`. The target is that of `add_angular_margin`.

    Args:
      margin: m in [0, pi / 2), radians.
    """
    cosines, own = _own_class(cosines, labels, margin, math.pi / 2, scale)
    return softmax_cross_entropy(scale * jnp.where(own, add_angular_margin(cosines, margin), cosines), labels)


def add_angular_margin(cosines: jax.Array, margin: float) -> jax.Array:
    """Returns cos(theta + m) for cos(theta), float32 of the same shape.

    cos(theta + m) = c cos m - sqrt(1 - c^2) sin m falls with theta as long as theta + m <= pi. Beyond, the
    value is c - m sin m, as in the authors' code, so that it goes on falling.

    Difference from the authors' later code, which changes the logits without recording it, so that its
    gradient is that of the plain cosine: here the gradient is that of the value. With respect to the cosine
    it grows as theta goes to 0, with respect to the embedding it does not.
    """
    cosines = jnp.asarray(cosines, jnp.float32)
    sines = jnp.sqrt(jnp.maximum(1 - jnp.square(cosines), LEAST_SQUARE))
    moved = cosines * math.cos(margin) - sines * math.sin(margin)
    return jnp.where(cosines > -math.cos(margin), moved, cosines - margin * math.sin(margin))


def center_loss(embedding: jax.Array, labels: jax.Array, centers: jax.Array) -> jax.Array:
    """Half the squared distance of each embedding to the center of its class.

    Eq. 2: l = 1/2 ||x - c_y||^2, the centers taken as constants: `moved_centers` moves them.

    Args:
      embedding: float [B, D].
      labels: int [B] in [0, K).
      centers: float [K, D].

    Returns:
      float32 [B].
    """
    offset = jnp.asarray(embedding, jnp.float32) - jax.lax.stop_gradient(centers)[labels]
    return 0.5 * jnp.sum(jnp.square(offset), axis=-1)


def moved_centers(
    centers: jax.Array, embedding: jax.Array, labels: jax.Array, *, rate: float, axis_name: str | None = None
) -> jax.Array:
    """Moves the centers towards the embeddings of a batch.

    Eq. 4: c_j - rate * sum_{i: y_i = j} (c_j - x_i) / (1 + n_j), n_j the examples of class j in the batch.

    Args:
      centers: float32 [K, D].
      embedding, labels: as in `center_loss`; no gradient flows through them.
      rate: alpha in [0, 1]; the paper's is 0.5.
      axis_name: of the mapped axis, for callers that see one replica's rows; None where the batch is whole.

    Returns:
      float32 [K, D].
    """
    embedding = jax.lax.stop_gradient(jnp.asarray(embedding, jnp.float32))
    counts = jax.ops.segment_sum(jnp.ones(len(labels)), labels, num_segments=len(centers))[:, None]
    sums = jax.ops.segment_sum(embedding, labels, num_segments=len(centers))
    if axis_name is not None:
        counts, sums = jax.lax.psum((counts, sums), axis_name)
    return centers - rate * (counts * centers - sums) / (1 + counts)


def triplet(
    embedding: jax.Array,
    labels: jax.Array,
    *,
    margin: float = 0.2,
    mining: str = "hard",
    axis_name: str | None = None,
) -> jax.Array:
    """Each example as an anchor: another of its class has to be nearer than one of another class.

    With h = max(0, m + d(a, p) - d(a, n)) and d the Euclidean distance:
    "hard" (eq. 5): h of the farthest positive p and the nearest negative n in the batch.
    "all": the mean of h over the triplets of the anchor whose h is positive.

    Difference from Hermans et al. in "all": they average over the positive h of the whole batch, so an anchor
    with many counts more.

    Args:
      embedding: float [B, D], as compared later: with L2 norm 1 where that is by the cosine. "all" takes
        memory of B^3 numbers.
      labels: int [B].
      margin: m >= 0.
      mining: "hard" or "all".
      axis_name: of the mapped axis, for callers that see one replica's rows; None where the batch is whole.

    Returns:
      float32 [B]; 0 for an anchor without another example of its class, or of another, in the batch.

    Raises:
      ValueError: an unknown mining, a negative margin, or shapes that do not agree.
    """
    if mining not in MININGS or not margin >= 0:
        raise ValueError(
            f"a triplet loss has a mining of {', '.join(MININGS)} and a margin of at least 0; got {mining!r} "
            f"and {margin}"
        )
    if jnp.ndim(embedding) != 2 or jnp.shape(labels) != jnp.shape(embedding)[:1]:
        raise ValueError(
            f"a triplet loss compares embeddings [B, D] by labels [B]; got {jnp.shape(embedding)} and "
            f"{jnp.shape(labels)}"
        )
    anchors = jnp.asarray(embedding, jnp.float32)
    everyone, classes, rows = anchors, labels, jnp.arange(len(labels))
    if axis_name is not None:
        everyone, classes = (jax.lax.all_gather(x, axis_name, tiled=True) for x in (anchors, labels))
        rows += jax.lax.axis_index(axis_name) * len(labels)
    distances = _distances(anchors, everyone)  # [b, B]
    same = labels[:, None] == classes
    positive = same & (jnp.arange(len(classes)) != rows[:, None])
    if mining == "hard":
        farthest = jnp.max(jnp.where(positive, distances, -jnp.inf), axis=1)
        nearest = jnp.min(jnp.where(same, jnp.inf, distances), axis=1)
        return jax.nn.relu(margin + farthest - nearest)  # relu(-inf) is 0
    hinge = jax.nn.relu(margin + distances[:, :, None] - distances[:, None, :])  # [b, B, B]
    hinge = jnp.where(positive[:, :, None] & ~same[:, None, :], hinge, 0.0)
    return jnp.sum(hinge, axis=(1, 2)) / jnp.maximum(jnp.sum(hinge > 0, axis=(1, 2)), 1)


def _distances(anchors: jax.Array, others: jax.Array) -> jax.Array:
    """Euclidean distances [b, B]."""
    squares = [jnp.sum(jnp.square(side), axis=1) for side in (anchors, others)]
    products = jnp.matmul(anchors, others.T, precision="highest")
    squared = squares[0][:, None] + squares[1] - 2 * products
    return jnp.sqrt(jnp.maximum(squared, LEAST_SQUARE))


def _own_class(
    cosines: jax.Array, labels: jax.Array, margin: float, most: float, scale: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the cosines in float32, and which of them are of the own class, bool [B, K]."""
    if not 0 <= margin < most or not scale > 0:
        raise ValueError(
            f"a margin lies in [0, {most:.3g}) and a scale is positive; got {margin} and {scale}"
        )
    cosines, labels = jnp.asarray(cosines, jnp.float32), jnp.asarray(labels)
    if cosines.ndim != 2 or labels.shape != cosines.shape[:1]:
        raise ValueError(f"expected cosines [B, K] and labels [B]; got {cosines.shape} and {labels.shape}")
    return cosines, jnp.arange(cosines.shape[1]) == labels[:, None]
