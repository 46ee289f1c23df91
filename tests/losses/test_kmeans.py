"""k-means against scikit-learn's, on one device and on eight, and PCA-whitening."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from imgcls_jax.losses import kmeans_loss
from imgcls_jax.losses.kmeans import kmeans, kmeans_plus_plus, lloyd, nearest_centroid, pca_whiten

module = importlib.import_module("imgcls_jax.losses.kmeans")  # the package's own `kmeans` is the function


def blobs(seed=0, num_points=1500, width=8, num_blobs=12, distance=4.0):
    rng = np.random.default_rng(seed)
    centres = distance * rng.normal(size=(num_blobs, width))
    return (centres[rng.integers(0, num_blobs, num_points)] + rng.normal(size=(num_points, width))).astype(
        np.float32
    )


def rows_over_eight():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data"))


@pytest.fixture(params=["whole", "parts"])
def points_at_once(request, monkeypatch):
    """A test with all points in one part, and with many parts of 64."""
    if request.param == "parts":
        monkeypatch.setattr(module, "DISTANCES_AT_ONCE", {"cpu": 1})
        monkeypatch.setattr(module, "MIN_POINTS_AT_ONCE", 64)
        jax.clear_caches()
    yield
    if request.param == "parts":
        jax.clear_caches()


def test_iterations_are_scikit_learns(points_at_once):
    points = blobs(distance=0.7)
    start = points[:20]
    ours = lloyd(jax.random.key(0), points, start, num_iterations=6)
    theirs = KMeans(20, init=start, n_init=1, max_iter=6, tol=0, algorithm="lloyd").fit(points)
    np.testing.assert_array_equal(ours.assignments, theirs.labels_)
    np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, atol=1e-4)
    np.testing.assert_allclose(ours.objectives[-1], theirs.inertia_ / len(points), rtol=1e-5)


def test_the_objective_never_rises_and_is_the_one_of_the_result():
    points = blobs(1)
    result = kmeans(jax.random.key(1), points, num_clusters=30, num_iterations=12, start="random")
    assert result.objectives.shape == (13,) and np.all(np.diff(result.objectives) <= 1e-5)
    mean = jnp.mean(kmeans_loss(points, result.centroids, result.assignments))
    np.testing.assert_allclose(result.objectives[-1], mean, rtol=1e-5)
    again = kmeans(jax.random.key(1), points, num_clusters=30, num_iterations=12, start="random")
    jax.tree.map(np.testing.assert_array_equal, result, again)


def test_the_nearest_centroid_is_the_nearest_one_far_from_the_origin_too(points_at_once):
    points = blobs(2)
    centroids = points[:50] + 0.1
    for offset in (0.0, 1000.0):
        assignments, distances = nearest_centroid(points + offset, centroids + offset)
        exact = ((points[:, None] - centroids) ** 2).sum(-1)
        np.testing.assert_allclose(distances, exact.min(1), rtol=1e-2, atol=1e-2)
        np.testing.assert_array_equal(assignments, exact.argmin(1))


def test_ties_go_to_the_first_centroid():
    assignments, _ = nearest_centroid(jnp.zeros((3, 2)), jnp.array([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]))
    np.testing.assert_array_equal(assignments, 0)


def test_as_many_clusters_as_points_leave_no_distance():
    points = blobs(3, num_points=40)
    for start in ("kmeans++", "random"):
        result = kmeans(jax.random.key(0), points, num_clusters=40, num_iterations=2, start=start)
        assert sorted(result.assignments.tolist()) == list(range(40))
        np.testing.assert_allclose(result.objectives[-1], 0, atol=1e-5)


def test_empty_clusters_are_filled_by_splitting():
    points = blobs(4)
    far = np.full((10, 8), 1e3, np.float32) + np.arange(10, dtype=np.float32)[:, None]
    start = np.concatenate([points[:10], far])  # the last ten attract nothing
    assert len(np.unique(nearest_centroid(points, start)[0])) == 10
    result = lloyd(jax.random.key(0), points, start, num_iterations=10)
    assert len(np.unique(result.assignments)) == 20
    kept = lloyd(jax.random.key(0), points, start[:10], num_iterations=10)
    assert result.objectives[-1] < 0.7 * kept.objectives[-1]


def test_a_split_is_symmetric_and_small_and_leaves_the_others():
    centroids = jnp.array([[0.0, 0.0], [5.0, 5.0], [9.0, 9.0], [7.0, 7.0]])
    counts, spreads = jnp.array([4, 0, 3, 1]), jnp.array([1.0, 0.0, 2.0, 9.0])
    halves = np.asarray(module._split(jax.random.key(0), centroids, counts, spreads, jnp.float32(0.01)))
    np.testing.assert_array_equal(halves[[0, 3]], [[0, 0], [7, 7]])  # a single point cannot be split
    np.testing.assert_allclose(halves[1] + halves[2], [18, 18], rtol=1e-6)
    np.testing.assert_allclose(np.abs(halves[1] - 9), 0.01, rtol=1e-3)


def test_more_clusters_than_distinct_points_stay_finite():
    points = np.repeat(blobs(5, num_points=5), 20, axis=0)
    result = kmeans(jax.random.key(0), points, num_clusters=9, num_iterations=4)
    assert np.all(np.isfinite(result.centroids))
    np.testing.assert_allclose(result.objectives[-1], 0, atol=1e-3)


def test_kmeans_plus_plus_finds_separated_blobs():
    points = blobs(6, distance=50.0)
    best = KMeans(12, n_init=5, random_state=0).fit(points).inertia_ / len(points)
    found = [
        float(kmeans(jax.random.key(s), points, num_clusters=12, num_iterations=5).objectives[-1])
        for s in range(3)
    ]
    np.testing.assert_allclose(found, best, rtol=1e-3)
    centroids = kmeans_plus_plus(jax.random.key(0), points, num_clusters=12, sample_size=600)
    assert all((centroid == points).all(1).any() for centroid in np.asarray(centroids))
    assert len(np.unique(centroids, axis=0)) == 12


def test_rows_on_eight_devices_are_clustered_as_on_one():
    points = blobs(7, num_points=1600)
    split = jax.device_put(points, rows_over_eight())
    compiled = (
        jax.jit(lambda rng, x: lloyd(rng, x, x[:25], num_iterations=8))
        .lower(jax.random.key(0), split)
        .compile()
    )
    eight, one = (
        compiled(jax.random.key(0), split),
        lloyd(jax.random.key(0), points, points[:25], num_iterations=8),
    )
    assert len(eight.assignments.sharding.device_set) == 8
    np.testing.assert_array_equal(eight.assignments, one.assignments)
    np.testing.assert_allclose(eight.centroids, one.centroids, atol=1e-4)


def test_a_start_on_eight_devices_is_the_one_on_one():
    points = blobs(7, num_points=1600)
    split = jax.device_put(points, rows_over_eight())
    eight, one = (
        kmeans_plus_plus(jax.random.key(3), x, num_clusters=10, sample_size=160) for x in (split, points)
    )
    np.testing.assert_array_equal(eight, one)


def test_no_array_has_points_times_clusters_entries():
    points, centroids = jax.ShapeDtypeStruct((100_000, 16), jnp.float32), jnp.zeros((1000, 16))
    compiled = (
        jax.jit(lambda x: lloyd(jax.random.key(0), x, centroids, num_iterations=3)).lower(points).compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes < 40e6  # the matrix would take 400 MB


def test_one_hot_products_sum_as_the_scattered_sum():
    points = blobs(8, num_points=300)
    clusters = jnp.asarray(np.random.default_rng(0).integers(0, 7, 300), jnp.int32)
    points = jnp.asarray(points)
    expected = jax.ops.segment_sum(points, clusters, 7)
    product = export.export(
        jax.jit(lambda x, a: module._sums_by_cluster(x, a, 7)), platforms=["cpu", "cuda"]
    )(points, clusters)
    assert "dot_general" in product.mlir_module()
    np.testing.assert_allclose(product.call(points, clusters), expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(module._multiply(points, clusters, 7), expected, rtol=1e-5, atol=1e-4)


def test_whitened_points_have_covariance_one(points_at_once):
    points = blobs(9) @ np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32) + 3
    white = np.asarray(pca_whiten(points, dim=5))
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(5), atol=1e-3)
    theirs = PCA(5, whiten=True, svd_solver="full").fit_transform(points) * np.sqrt(
        len(points) / (len(points) - 1)
    )
    np.testing.assert_allclose(np.abs(white), np.abs(theirs), atol=5e-3)


def test_components_without_variance_become_zero():
    points = blobs(10)[:, :3] @ np.ones((3, 6), np.float32)  # rank 1
    white = np.asarray(pca_whiten(points, dim=6))
    np.testing.assert_allclose(white.std(0), [1, 0, 0, 0, 0, 0], atol=1e-3)


def test_kmeans_refuses_what_does_not_fit():
    points = blobs(num_points=10)
    with pytest.raises(ValueError, match="1 <= num_clusters <= N"):
        kmeans(jax.random.key(0), points, num_clusters=11)
    with pytest.raises(ValueError, match="'kmeans\\+\\+' or from 'random'"):
        kmeans(jax.random.key(0), points, num_clusters=2, start="farthest")
    with pytest.raises(ValueError, match="sample_size"):
        kmeans_plus_plus(jax.random.key(0), points, num_clusters=4, sample_size=3)
    with pytest.raises(ValueError, match="dim counts"):
        pca_whiten(points, dim=9)
