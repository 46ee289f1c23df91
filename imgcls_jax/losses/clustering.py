"""Losses of learning by clustering: IIC's mutual information (Ji, Henriques, Vedaldi 2019, "Invariant
Information Clustering", arXiv:1807.06653) and the objective of k-means.

Both describe a partition as a whole. The k-means objective still has one value per example; mutual
information is one number for the batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# What IIC's authors clamp probabilities to: the spacing of doubles at 1, whose logarithm is -36 nats.
SMALLEST_PROBABILITY = 2.0**-52


def mutual_information_loss(
    first: jax.Array, second: jax.Array, *, marginal_weight: float = 1.0, axis_name: str | None = None
) -> jax.Array:
    """IIC's loss: minus the mutual information between the cluster of an example and that of its transform.

    Eq. 3: P = sum_i p_i q_i^T, symmetrised and divided by its sum; l = -sum_cd P_cd (log P_cd - w log P_c - w
    log P_d). With w = 1 that is -I, between -log K, where all pairs agree and all clusters are equally
    likely, and 0, where the two sides are independent or one cluster holds everything; w > 1 asks for evener
    clusters. P has K^2 entries, so a batch of fewer pairs overstates the information.

    P is linear in either side: several transforms of an example may come as the mean of their probabilities.

    Args:
      first, second: float [..., B, K], probabilities that sum to 1 over K; row i of both from example i. Any
        axes before the batch, such as one of sub-heads, are kept apart.
      marginal_weight: w, the authors' lambda, at least 0.
      axis_name: of the mapped axis, for callers that see one replica's rows: P is summed over the replicas
        before all else, so that each has the loss of the whole batch. None where the batch is whole.

    Returns:
      float32 [...], nats: one value for each of the leading axes, a scalar where there are none.

    Raises:
      ValueError: the shapes differ or have no batch, or marginal_weight is negative.
    """
    if jnp.ndim(first) < 2 or jnp.shape(first) != jnp.shape(second):
        raise ValueError(
            "the two sides are probabilities of one shape [..., B, K], row i of both from example i; got "
            f"{jnp.shape(first)} and {jnp.shape(second)}"
        )
    if marginal_weight < 0:
        raise ValueError(f"marginal_weight must be at least 0; got {marginal_weight}")
    first, second = jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32)
    joint = jnp.einsum("...bc,...bd->...cd", first, second, precision="highest")
    if axis_name is not None:
        joint = jax.lax.psum(joint, axis_name)
    joint = joint + jnp.swapaxes(joint, -1, -2)
    joint /= jnp.sum(joint, axis=(-2, -1), keepdims=True)
    marginal = jnp.sum(joint, axis=-1)  # [..., K], of both sides, as P is symmetric
    log_marginal = jnp.log(jnp.maximum(marginal, SMALLEST_PROBABILITY))
    independent = log_marginal[..., :, None] + log_marginal[..., None, :]
    joint = jnp.maximum(joint, SMALLEST_PROBABILITY)
    return -jnp.sum(joint * (jnp.log(joint) - marginal_weight * independent), axis=(-2, -1))


def kmeans_loss(points: jax.Array, centroids: jax.Array, assignments: jax.Array) -> jax.Array:
    """The k-means objective: the squared distance of each point to the centroid of its cluster.

    Eq.: l_i = ||x_i - c_a(i)||^2, from the differences themselves, hence exact near 0; `nearest_centroid`
    finds the a(i) that make it smallest.

    Args:
      points: float [N, D].
      centroids: float [K, D].
      assignments: integer [N] in [0, K).

    Returns:
      float32 [N], at least 0, in squared units of the points.

    Raises:
      ValueError: the shapes do not agree.
    """
    points, centroids = jnp.asarray(points, jnp.float32), jnp.asarray(centroids, jnp.float32)
    assignments = jnp.asarray(assignments)
    if points.ndim != 2 or assignments.shape != points.shape[:1] or centroids.shape[1:] != points.shape[1:]:
        raise ValueError(
            "k-means takes points [N, D], centroids [K, D] and assignments [N]; got "
            f"{points.shape}, {centroids.shape} and {assignments.shape}"
        )
    return jnp.sum((points - centroids[assignments]) ** 2, axis=-1)
