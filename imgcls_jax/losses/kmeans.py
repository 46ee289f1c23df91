"""k-means on the device, and the PCA-whitening that usually precedes it.

Lloyd's iterations (Lloyd 1982, "Least squares quantization in PCM") from a random start or from k-means++
(Arthur, Vassilvitskii 2007), in its greedy form and over a sample of the points, so that many clusters stay
affordable. An empty cluster takes half of another, as in faiss; which one, and how far the halves are moved
apart, differ (see `lloyd`).

Points and centroids are float32. Everything is deterministic given the key. Distances are computed for some
points at a time: no array has as many entries as points times clusters. Points may be split over a mesh by
rows: each part of points that is worked on together is spread over all devices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Distances held at once: 256 KiB of float32 leave room in the cache of a CPU's core for points and centroids;
# an accelerator wants large products.
DISTANCES_AT_ONCE = {"cpu": 2**16}
DISTANCES_AT_ONCE_ELSEWHERE = 2**25
MIN_POINTS_AT_ONCE = 128  # enough for fast matrix products, whatever the number of clusters
MULTIPLE_OF_POINTS = 32  # so that the points of a part divide over the devices of a mesh
SAMPLE_PER_CLUSTER = 16  # points that k-means++ draws from, for each cluster it has to find
# Parts of the typical deviation by which the halves of a cluster are moved apart; faiss has this part of the
# centroid's own coordinates, which depends on where the origin is.
SPLIT_DISTANCE = 1 / 1024


class KMeans(NamedTuple):
    """A clustering.

    Attributes:
      centroids: float32 [K, D].
      assignments: int32 [N] in [0, K), the nearest centroid of each point.
      objectives: float32 [iterations + 1], the mean squared distance to the nearest centroid: of the start,
        and after each iteration.
    """

    centroids: jax.Array
    assignments: jax.Array
    objectives: jax.Array


@functools.partial(jax.jit, static_argnames=("num_clusters", "num_iterations", "start"))
def kmeans(
    rng: jax.Array,
    points: jax.Array,
    *,
    num_clusters: int,
    num_iterations: int = 20,
    start: str = "kmeans++",
) -> KMeans:
    """Clusters points by k-means.

    Args:
      rng: key; of the start, and of the directions in which clusters are split.
      points: float [N, D].
      num_clusters: K, in [1, N].
      num_iterations: of Lloyd, at least 0; there is no earlier stop.
      start: "kmeans++", or "random" for points drawn without replacement, as DeepCluster has it.

    Returns:
      KMeans.

    Raises:
      ValueError: a shape or a number does not fit, or an unknown start.
    """
    if jnp.ndim(points) != 2 or not 1 <= num_clusters <= len(points):
        raise ValueError(
            "k-means takes points [N, D] and 1 <= num_clusters <= N; got "
            f"{jnp.shape(points)} and {num_clusters}"
        )
    if start not in ("kmeans++", "random"):
        raise ValueError(f"k-means starts from 'kmeans++' or from 'random' points; got {start!r}")
    rng_start, rng_lloyd = jax.random.split(rng)
    if start == "random":
        centroids = _sample(rng_start, points, num_clusters)
    else:
        centroids = kmeans_plus_plus(rng_start, points, num_clusters=num_clusters)
    return lloyd(rng_lloyd, points, centroids, num_iterations=num_iterations)


@functools.partial(jax.jit, static_argnames=("num_clusters", "sample_size"))
def kmeans_plus_plus(
    rng: jax.Array, points: jax.Array, *, num_clusters: int, sample_size: int = 0
) -> jax.Array:
    """Draws centroids that lie apart: each new one with a chance proportional to its squared distance from
    those before it.

    The greedy form: of 2 + floor(log K) candidates the one that lowers the objective most is taken, which
    costs little more, as the time goes into reading the points.

    Args:
      rng: key.
      points: float [N, D].
      num_clusters: K, in [1, N].
      sample_size: points to draw from, at least K; 0 for 16 K, or all where there are fewer.

    Returns:
      float32 [K, D], points all of them.

    Raises:
      ValueError: sample_size is below K or above N.
    """
    size = sample_size or min(len(points), SAMPLE_PER_CLUSTER * num_clusters)
    if not num_clusters <= size <= len(points):
        raise ValueError(
            f"k-means++ draws {num_clusters} centroids from {size} of {len(points)} points: sample_size lies "
            "between the two numbers"
        )
    rng_sample, rng_first, rng_others = jax.random.split(rng, 3)
    sample = _sample(rng_sample, points, size)
    centered = sample - jnp.mean(sample, axis=0)
    norms = jnp.sum(centered**2, axis=1)
    num_candidates = 2 + int(math.log(num_clusters))

    def distances_to(chosen: jax.Array) -> jax.Array:
        """Returns squared distances [S, T] to the points chosen [T]; 0 where rounding alone makes them
        positive, so that no point is drawn twice while there are others."""
        products = jnp.matmul(centered, centered[chosen].T, precision="highest")
        sums = norms[:, None] + norms[chosen]
        squared = sums - 2 * products
        return jnp.where(squared > 1e-6 * sums, squared, 0.0)

    def add(state: tuple[jax.Array, jax.Array], number: jax.Array) -> tuple[Any, None]:
        chosen, nearest = state
        cumulative = jnp.cumsum(nearest)
        draws = jax.random.uniform(jax.random.fold_in(rng_others, number), (num_candidates,))
        candidates = jnp.searchsorted(cumulative, draws * cumulative[-1], side="right")
        candidates = jnp.minimum(candidates, size - 1)
        with_each = jnp.minimum(nearest[:, None], distances_to(candidates))  # [S, T]
        best = jnp.argmin(jnp.sum(with_each, axis=0))
        return (chosen.at[number].set(candidates[best]), with_each[:, best]), None

    first = jax.random.randint(rng_first, (1,), 0, size)
    chosen = jnp.zeros(num_clusters, jnp.int32).at[0].set(first[0])
    state = (chosen, distances_to(first)[:, 0])
    (chosen, _), _ = jax.lax.scan(add, state, jnp.arange(1, num_clusters))
    return sample[chosen]


@functools.partial(jax.jit, static_argnames=("num_iterations",))
def lloyd(rng: jax.Array, points: jax.Array, centroids: jax.Array, *, num_iterations: int) -> KMeans:
    """Lloyd's iterations: each point to its nearest centroid, each centroid to the mean of its points.

    A cluster without points becomes one half of the cluster with the largest sum of squared distances (faiss
    draws one by its size), the next empty one half of the second, and so on: the two centroids are moved
    apart from the mean along a random diagonal, by a thousandth of the points' typical deviation. An
    iteration that repairs nothing does not raise the objective.

    Args:
      rng: key, of the diagonals.
      points: float [N, D].
      centroids: float [K, D], the start.
      num_iterations: at least 0.

    Returns:
      KMeans. Its assignments belong to its centroids; a cluster may have become empty again.
    """
    points, centroids = jnp.asarray(points, jnp.float32), jnp.asarray(centroids, jnp.float32)
    num_clusters = len(centroids)

    def iterate(centroids: jax.Array, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        assignments, distances = nearest_centroid(points, centroids)
        counts = jax.ops.segment_sum(jnp.ones_like(assignments), assignments, num_clusters)
        sums = _sums_by_cluster(points, assignments, num_clusters)
        means = jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1)[:, None], centroids)
        objective = jnp.mean(distances)

        def repair() -> jax.Array:
            spreads = _sums_by_cluster(distances[:, None], assignments, num_clusters)[:, 0]
            distance = SPLIT_DISTANCE * jnp.sqrt(objective / points.shape[1])
            return _split(rng, means, counts, spreads, distance)

        return jax.lax.cond(jnp.any(counts == 0), repair, lambda: means), objective

    centroids, objectives = jax.lax.scan(iterate, centroids, jax.random.split(rng, num_iterations))
    assignments, distances = nearest_centroid(points, centroids)
    return KMeans(centroids, assignments, jnp.append(objectives, jnp.mean(distances)))


@jax.jit
def nearest_centroid(points: jax.Array, centroids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Finds the nearest centroid of each point.

    Eq.: argmin_k ||c_k||^2 / 2 - x . c_k, with the centroids' mean as the origin, so that data far from 0
    lose no precision. Of equally near centroids the first is taken.

    Args:
      points: float [N, D].
      centroids: float [K, D].

    Returns:
      (int32 [N] in [0, K), float32 [N], the squared distances).
    """
    points, centroids = jnp.asarray(points, jnp.float32), jnp.asarray(centroids, jnp.float32)
    origin = jnp.mean(centroids, axis=0)
    centered = centroids - origin
    half_norms = 0.5 * jnp.sum(centered**2, axis=1)[:, None]
    numbers = jnp.arange(len(centroids), dtype=jnp.int32)[:, None]

    def nearest(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = rows - origin
        # Clusters first, and the minimum before its place: on a CPU both vectorize, unlike argmin by row.
        scores = half_norms - jnp.matmul(centered, rows.T, precision="highest")  # [K, n]
        lowest = jnp.min(scores, axis=0)
        places = jnp.min(jnp.where(scores == lowest, numbers, len(centroids) - 1), axis=0)
        return places, jnp.maximum(jnp.sum(rows**2, axis=1) + 2 * lowest, 0.0)

    return _map_parts(nearest, points, len(centroids))


@functools.partial(jax.jit, static_argnames=("dim",))
def pca_whiten(points: jax.Array, *, dim: int) -> jax.Array:
    """Projects on the principal components and scales each to variance 1.

    Eq.: y = diag(s)^(-1/2) V^T (x - mean), with s, V the largest eigenvalues of the covariance sum (x - mean)
    (x - mean)^T / N and their vectors. A component without variance, to float32's precision, becomes 0.

    Args:
      points: float [N, D].
      dim: number of components, in [1, D].

    Returns:
      float32 [N, dim], the first component that of the largest variance.

    Raises:
      ValueError: dim is outside [1, D].
    """
    points = jnp.asarray(points, jnp.float32)
    num_points, width = points.shape
    if not 1 <= dim <= width:
        raise ValueError(f"dim counts principal components of points with {width} entries; got {dim}")
    mean = jnp.mean(points, axis=0)
    parts, present = _parts(points, width)

    def add(covariance: jax.Array, part: jax.Array) -> tuple[jax.Array, None]:
        rows = jnp.where(present[:, part, None], parts[:, part] - mean, 0.0)
        return covariance + jnp.matmul(rows.T, rows, precision="highest"), None

    total, _ = jax.lax.scan(add, jnp.zeros((width, width)), jnp.arange(parts.shape[1]))
    variances, components = jnp.linalg.eigh(total / num_points)  # ascending
    variances, components = variances[::-1][:dim], components[:, ::-1][:, :dim]
    measurable = variances > variances[0] * width * jnp.finfo(jnp.float32).eps
    scaled = components * jnp.where(measurable, jax.lax.rsqrt(jnp.where(measurable, variances, 1.0)), 0.0)
    return jnp.matmul(points, scaled, precision="highest") - jnp.matmul(mean, scaled, precision="highest")


def _sample(rng: jax.Array, points: jax.Array, size: int) -> jax.Array:
    """Returns float32 [size, D], points drawn without replacement."""
    return jnp.asarray(points, jnp.float32)[jax.random.permutation(rng, len(points))[:size]]


def _parts(points: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    """Cuts points into parts for which `width` numbers a point can be held.

    Returns:
      (points [n, P, D], bool [n, P]): part p is [:, p], every P-th point, so that points split over devices
      by rows stay where they are; False for the zeros at the end that make the division even.
    """
    num_points = len(points)
    numbers = DISTANCES_AT_ONCE.get(jax.default_backend(), DISTANCES_AT_ONCE_ELSEWHERE)
    at_once = max(MIN_POINTS_AT_ONCE, numbers // width // MULTIPLE_OF_POINTS * MULTIPLE_OF_POINTS)
    num_parts = -(-num_points // at_once)
    size = -(-num_points // num_parts)
    if num_parts > 1:
        size += -size % MULTIPLE_OF_POINTS
    padding = num_parts * size - num_points
    padded = jnp.pad(points, ((0, padding), (0, 0))) if padding else points
    present = jnp.arange(num_parts * size) < num_points
    return padded.reshape(size, num_parts, -1), present.reshape(size, num_parts)


def _map_parts(function: Callable[[jax.Array], Any], points: jax.Array, width: int) -> Any:
    """Applies a function of points [n, D] to part after part; returns its outputs [n] as for all points."""
    parts, _ = _parts(points, width)
    outputs = jax.lax.map(lambda part: function(parts[:, part]), jnp.arange(parts.shape[1]))  # [P, n]
    return jax.tree.map(lambda rows: rows.T.reshape(-1)[: len(points)], outputs)


def _sums_by_cluster(values: jax.Array, assignments: jax.Array, num_clusters: int) -> jax.Array:
    """Sums rows of float32 [N, D] by their cluster: [K, D].

    Off the CPU by products with one-hot matrices: there a scattered sum is slow (TPU) or adds in an order
    that changes from run to run (GPU).
    """

    def scatter(values: jax.Array, assignments: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(values, assignments, num_clusters)

    def multiply(values: jax.Array, assignments: jax.Array) -> jax.Array:
        return _multiply(values, assignments, num_clusters)

    return jax.lax.platform_dependent(values, assignments, cpu=scatter, default=multiply)


def _multiply(values: jax.Array, assignments: jax.Array, num_clusters: int) -> jax.Array:
    """The sums of `_sums_by_cluster`, by products with one-hot matrices."""
    parts, present = _parts(values, num_clusters)
    clusters = _parts(assignments[:, None], num_clusters)[0][..., 0]  # [n, P]

    def add(sums: jax.Array, part: jax.Array) -> tuple[jax.Array, None]:
        members = jax.nn.one_hot(clusters[:, part], num_clusters) * present[:, part, None]  # [n, K]
        return sums + jnp.matmul(members.T, parts[:, part], precision="highest"), None

    zeros = jnp.zeros((num_clusters, values.shape[1]))
    return jax.lax.scan(add, zeros, jnp.arange(parts.shape[1]))[0]


def _split(
    rng: jax.Array, centroids: jax.Array, counts: jax.Array, spreads: jax.Array, distance: jax.Array
) -> jax.Array:
    """Gives each empty cluster one half of another; returns centroids float32 [K, D]."""
    num_clusters = len(counts)
    empty = counts == 0
    donors = jnp.argsort(jnp.where(counts > 1, -spreads, jnp.inf))  # those that can be split, widest first
    place = jnp.cumsum(empty) - 1
    splits = empty & (place < jnp.sum(counts > 1))
    donor = donors[jnp.where(splits, place, 0)]
    offsets = distance * jax.random.rademacher(rng, centroids.shape, jnp.float32)
    halves = jnp.where(splits[:, None], centroids[donor] + offsets, centroids)
    return halves.at[jnp.where(splits, donor, num_clusters)].add(-offsets, mode="drop")
