"""Mutual information and the k-means objective against hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads

from imgcls_jax.losses import kmeans_loss, mutual_information_loss

P = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
Q = np.array([[0.8, 0.2], [0.3, 0.7], [0.5, 0.5]], np.float32)


def probabilities(seed, *shape):
    return jax.nn.softmax(2 * jax.random.normal(jax.random.key(seed), shape))


@pytest.mark.parametrize("clusters", [2, 10, 70])
@pytest.mark.parametrize("weight", [1.0, 1.5, 0.0])
def test_perfect_balanced_agreement_is_the_minimum(clusters, weight):
    agreed = jnp.eye(clusters)[jnp.arange(3 * clusters) % clusters]
    loss = mutual_information_loss(agreed, agreed, marginal_weight=weight)
    np.testing.assert_allclose(loss, -(2 * weight - 1) * np.log(clusters), rtol=1e-5)


def test_independent_uniform_and_collapsed_sides_tell_nothing():
    uniform = jnp.full((8, 4), 0.25)
    collapsed = jnp.eye(4)[jnp.zeros(8, int)]
    first, second = jnp.eye(2)[jnp.array([0, 0, 1, 1])], jnp.eye(2)[jnp.array([0, 1, 0, 1])]
    for one, other in ((uniform, uniform), (collapsed, collapsed), (first, second)):
        np.testing.assert_allclose(mutual_information_loss(one, other), 0, atol=1e-6)


def test_hand_computed_values():
    first, second = jnp.eye(2)[jnp.array([0, 0, 1, 1])], jnp.eye(2)[jnp.array([0, 0, 0, 1])]
    np.testing.assert_allclose(mutual_information_loss(first, second), -0.110119, atol=1e-6)
    np.testing.assert_allclose(mutual_information_loss(P, Q), -0.0272, atol=5e-5)
    np.testing.assert_allclose(mutual_information_loss(P, Q, marginal_weight=1.5), -0.7153, atol=5e-5)


def test_invariances_and_bounds():
    p, q = probabilities(0, 40, 6), probabilities(1, 40, 6)
    loss = mutual_information_loss(p, q)
    rows, clusters = (np.random.default_rng(0).permutation(n) for n in (40, 6))
    for one, other in ((q, p), (p[rows], q[rows]), (p[:, clusters], q[:, clusters])):
        np.testing.assert_allclose(mutual_information_loss(one, other), loss, atol=1e-6)
    assert -np.log(6) <= loss <= 0


def test_leading_axes_are_kept_apart_and_copies_may_be_averaged():
    p, q = probabilities(0, 3, 12, 5), probabilities(1, 3, 12, 5)
    loss = mutual_information_loss(p, q)
    np.testing.assert_allclose(
        loss, [mutual_information_loss(a, b) for a, b in zip(p, q, strict=True)], rtol=1e-5
    )
    repeated = mutual_information_loss(jnp.tile(p[0], (3, 1)), q.reshape(36, 5))
    np.testing.assert_allclose(mutual_information_loss(p[0], jnp.mean(q, axis=0)), repeated, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_jit_equals_eager_and_all_is_finite_at_extremes(dtype, scale):
    logits = (scale * jax.random.normal(jax.random.key(0), (2, 16, 5))).astype(dtype)
    logits = logits.at[..., 4].add(jnp.asarray(-3e4, dtype))  # a cluster without mass

    def loss(logits):
        return mutual_information_loss(*jax.nn.softmax(logits))

    value, grad = jax.value_and_grad(loss)(logits)
    assert value.dtype == jnp.float32 and np.isfinite(value) and np.all(np.isfinite(grad))
    np.testing.assert_allclose(jax.jit(loss)(logits), value, atol=1e-5)


def test_gradients_are_the_slopes():
    def loss(logits):
        return mutual_information_loss(*jax.nn.softmax(logits), marginal_weight=1.2)

    check_grads(loss, (jax.random.normal(jax.random.key(0), (2, 8, 3)),), 1, ("rev",), rtol=2e-2)


def test_replicas_see_the_loss_and_the_gradient_of_the_whole_batch():
    p, q = probabilities(0, 16, 4), probabilities(1, 16, 4)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = PartitionSpec("data"), PartitionSpec()

    def on_replicas(p, q):
        return mutual_information_loss(p, q, axis_name="data")

    split = jax.shard_map(on_replicas, mesh=mesh, in_specs=(rows, rows), out_specs=whole)
    value, grad = jax.jit(jax.value_and_grad(split))(p, q)
    expected, expected_grad = jax.value_and_grad(mutual_information_loss)(p, q)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, atol=1e-6)


def test_mutual_information_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"one shape \[..., B, K\]"):
        mutual_information_loss(P, Q[:2])
    with pytest.raises(ValueError, match="marginal_weight"):
        mutual_information_loss(P, Q, marginal_weight=-1.0)


def test_kmeans_loss_is_the_squared_distance_to_the_own_centroid():
    points = jnp.array([[0.0, 0.0], [3.0, 4.0], [1e4, 1e4 + 1]])
    centroids = jnp.array([[0.0, 0.0], [1e4, 1e4]])
    assignments = jnp.array([0, 0, 1])
    np.testing.assert_array_equal(kmeans_loss(points, centroids, assignments), [0.0, 25.0, 1.0])
    np.testing.assert_array_equal(jax.jit(kmeans_loss)(points, centroids, assignments), [0.0, 25.0, 1.0])
    grad = jax.grad(lambda c: jnp.sum(kmeans_loss(points, c, assignments)))(centroids)
    np.testing.assert_array_equal(grad, [[-6.0, -8.0], [0.0, -2.0]])
    exact = kmeans_loss(points[:2].astype(jnp.bfloat16), centroids.astype(jnp.bfloat16), assignments[:2])
    assert exact.dtype == jnp.float32 and exact[1] == 25
    with pytest.raises(ValueError, match=r"assignments \[N\]"):
        kmeans_loss(points, centroids, assignments[:2])
