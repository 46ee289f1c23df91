"""Margins, the centre loss and triplets against values by hand, brute force, and the replicas' forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from imgcls_jax.losses import (
    add_angular_margin,
    arcface,
    center_loss,
    cosface,
    moved_centers,
    softmax_cross_entropy,
    triplet,
)

COSINES = jnp.array([[0.8, 0.1, -0.3], [0.2, 0.5, 0.9]])
LABELS = jnp.array([0, 1])


def test_targets_of_the_official_code():
    """The target logit of cosine .8: ArcFace 26.522286 with margin .5, CosFace 25.6 with margin .4."""
    np.testing.assert_allclose(64 * add_angular_margin(0.8, 0.5), 26.522286, rtol=1e-6)
    row, label = jnp.array([[0.8, 0.4, -0.3]]), LABELS[:1]
    logits = jnp.array([[26.522286, 25.6, -19.2]])
    np.testing.assert_allclose(arcface(row, label), softmax_cross_entropy(logits, label), rtol=1e-5)
    logits = logits.at[0, 0].set(25.6)
    found = cosface(row, label, margin=0.4)
    np.testing.assert_allclose(found, softmax_cross_entropy(logits, label), rtol=1e-5)


@pytest.mark.parametrize("loss", [cosface, arcface])
def test_without_a_margin_it_is_the_softmax_and_more_margin_costs_more(loss):
    plain = softmax_cross_entropy(10 * COSINES, LABELS)
    np.testing.assert_allclose(loss(COSINES, LABELS, margin=0.0, scale=10.0), plain, rtol=1e-5)
    found = [loss(COSINES, LABELS, margin=m, scale=10.0) for m in (0.1, 0.3, 0.5)]
    assert np.all(np.diff([plain, *found], axis=0) > 0)


def test_beyond_pi_the_margin_goes_on_falling():
    angles = jnp.linspace(0.05, math.pi - 1e-3, 200)
    found = add_angular_margin(jnp.cos(angles), 0.5)
    inside = angles + 0.5 < math.pi
    np.testing.assert_allclose(found[inside], jnp.cos(angles + 0.5)[inside], atol=1e-5)
    beyond = jnp.cos(angles) - 0.5 * math.sin(0.5)
    np.testing.assert_allclose(found[~inside], beyond[~inside], atol=1e-5)
    assert np.all(np.diff(found) < 0)


@pytest.mark.parametrize("cosine", [-1.0, -math.cos(0.5), 0.0, 1.0])
def test_gradients_are_finite_where_the_angle_has_none(cosine):
    row = jnp.array([[cosine, 0.0]])
    for loss in (cosface, arcface):
        gradient = jax.grad(lambda c, loss=loss: jnp.sum(loss(c, LABELS[:1])))(row)
        assert np.all(np.isfinite(gradient))


def test_center_loss_and_its_centers():
    x, labels = jnp.array([[1.0, 2.0], [3.0, 0.0], [5.0, 5.0]]), jnp.array([0, 0, 2])
    centers = jnp.array([[1.0, 0.0], [7.0, 7.0], [5.0, 1.0]])
    np.testing.assert_allclose(center_loss(x, labels, centers), [2.0, 2.0, 8.0])
    # c_0 - .5 ((0, -2) + (-2, 0)) / 3; class 1 has no example; c_2 - .5 (0, -4) / 2
    expected = [[4 / 3, 1 / 3], [7.0, 7.0], [5.0, 2.0]]
    np.testing.assert_allclose(moved_centers(centers, x, labels, rate=0.5), expected, rtol=1e-6)
    gradient = jax.grad(lambda c: jnp.sum(center_loss(x, labels, c)))(centers)
    assert np.all(gradient == 0)


def by_hand(x, labels, margin, mining):
    """Triplets one by one, in float64."""
    losses = []
    for a in range(len(x)):
        d = np.linalg.norm(np.float64(x) - x[a], axis=1)
        positives = [p for p in range(len(x)) if p != a and labels[p] == labels[a]]
        negatives = [n for n in range(len(x)) if labels[n] != labels[a]]
        if mining == "hard" and positives and negatives:
            losses.append(max(0, margin + max(d[positives]) - min(d[negatives])))
        else:
            hinges = [margin + d[p] - d[n] for p in positives for n in negatives]
            above = [h for h in hinges if h > 0]
            losses.append(sum(above) / max(len(above), 1) if mining == "all" else 0)
    return losses


def drawn(rows=16, dim=5):
    x = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)
    return jnp.asarray(x), jnp.arange(rows) % 3


@pytest.mark.parametrize("mining", ["hard", "all"])
def test_triplets_against_loops(mining):
    x, labels = drawn()
    found = jax.jit(lambda x: triplet(x, labels, margin=0.5, mining=mining))(x)
    np.testing.assert_allclose(found, by_hand(x, labels, 0.5, mining), rtol=1e-5, atol=1e-6)
    assert 0 < np.count_nonzero(found)
    labels = jnp.where(labels == 2, jnp.arange(len(x)), labels)  # classes of one image
    np.testing.assert_allclose(
        triplet(x, labels, margin=0.5, mining=mining), by_hand(x, labels, 0.5, mining), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("mining", ["hard", "all"])
def test_triplets_have_finite_gradients_at_equal_points_and_without_partners(mining):
    for x, labels in (
        (jnp.ones((4, 3)), jnp.array([0, 0, 1, 1])),
        (drawn(4)[0], jnp.zeros(4, int)),
        (drawn(4)[0], jnp.arange(4)),
    ):
        losses, gradient = jax.value_and_grad(
            lambda x, labels=labels: jnp.sum(triplet(x, labels, mining=mining))
        )(x)
        assert np.isfinite(losses) and np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(triplet(x, labels, mining=mining), 0)


def test_replicas_see_the_other_rows():
    x, labels = drawn()
    mesh, rows = Mesh(jax.devices()[:4], "data"), PartitionSpec("data")

    def both(x, labels, axis_name):
        centers = moved_centers(jnp.ones((3, 5)), x, labels, rate=0.5, axis_name=axis_name)
        return triplet(x, labels, axis_name=axis_name), centers

    mapped = jax.shard_map(
        lambda x, labels: both(x, labels, "data"),
        mesh=mesh,
        in_specs=(rows, rows),
        out_specs=(rows, PartitionSpec()),
    )
    for found, expected in zip(jax.jit(mapped)(x, labels), both(x, labels, None), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match=r"margin lies in \[0, 1.57\)"):
        arcface(COSINES, LABELS, margin=2.0)
    with pytest.raises(ValueError, match="scale is positive"):
        cosface(COSINES, LABELS, scale=0.0)
    with pytest.raises(ValueError, match="labels"):
        cosface(COSINES, LABELS[:1])
    with pytest.raises(ValueError, match="hard, all"):
        triplet(COSINES, LABELS, mining="soft")
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(1,\)"):
        triplet(COSINES, LABELS[:1])
