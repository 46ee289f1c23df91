"""Guesses, sharpening and distances between predictions, against values worked out by hand or printed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.losses import (
    entropy,
    jensen_shannon,
    kl_divergence,
    pseudo_labels,
    sharpen,
    softened_divergence,
    softmax_cross_entropy,
    softmax_squared_error,
)

LOGITS = jnp.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
TARGETS = jnp.array([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
FUNCTIONS = {
    "sharpen": lambda z: sharpen(jax.nn.softmax(z), temperature=0.5),
    "softmax_squared_error": lambda z: softmax_squared_error(z, jnp.broadcast_to(TARGETS[0], z.shape)),
    "entropy": entropy,
    "kl_divergence": lambda z: kl_divergence(z, z[..., ::-1]),
    "pseudo_labels": pseudo_labels,
    "jensen_shannon": lambda z: jensen_shannon([z, z[..., ::-1], 0.5 * z]),
    "softened_divergence": lambda z: softened_divergence(z, z[..., ::-1], temperature=4.0),
}


def test_sharpen_values():
    np.testing.assert_allclose(sharpen(jnp.array([0.6, 0.4]), temperature=0.5), [0.6923, 0.3077], atol=1e-4)
    np.testing.assert_allclose(sharpen(TARGETS, temperature=1.0), TARGETS, rtol=1e-6)
    np.testing.assert_allclose(sharpen(TARGETS, temperature=1e-4), [[0, 1, 0], [0, 1, 0]])
    np.testing.assert_allclose(sharpen(jnp.full((4,), 0.25), temperature=1e-4), [0.25] * 4)
    np.testing.assert_allclose(sharpen(TARGETS[0], temperature=1e6), [1 / 3] * 3, rtol=1e-5)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature must be positive"):
            sharpen(TARGETS, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 3.0])
def test_sharpen_has_a_finite_gradient_where_a_class_has_no_probability(temperature):
    p = jnp.array([[1.0, 0.0, 0.0], [0.7, 0.3, 0.0], [1e-30, 1e-38, 1e-20]])
    value = sharpen(p, temperature=temperature)
    np.testing.assert_allclose(jnp.sum(value, axis=-1), 1, rtol=1e-6)
    gradient = jax.grad(lambda p: jnp.sum(sharpen(p, temperature=temperature)[:, 0]))(p)
    assert np.all(np.isfinite(gradient))


def test_sharpen_gradient_by_finite_differences():
    p, direction = jnp.array([0.5, 0.3, 0.2]), jnp.array([0.3, -0.1, 0.2])
    first = lambda p: sharpen(p, temperature=0.5)[0]  # noqa: E731
    slope = (first(p + 1e-2 * direction) - first(p - 1e-2 * direction)) / 2e-2
    np.testing.assert_allclose(jax.grad(first)(p) @ direction, slope, rtol=1e-2)


def test_squared_error_is_divided_by_the_classes():
    one_hot, opposite = jax.nn.one_hot(3, 10), jax.nn.one_hot(7, 10)
    np.testing.assert_allclose(softmax_squared_error(jnp.zeros(10), one_hot), 0.09, rtol=1e-5)
    np.testing.assert_allclose(softmax_squared_error(1e4 * one_hot, opposite), 0.2, rtol=1e-6)
    assert softmax_squared_error(1e4 * one_hot, one_hot) == 0


def test_mixmatch_toy():
    labeled = softmax_cross_entropy(jnp.array([[2.0, 0.0]]), jnp.array([[0.75, 0.25]]))
    unlabeled = softmax_squared_error(
        jnp.array([[0.0, 1.0], [1.0, 1.0]]), jnp.array([[0.1, 0.9], [0.5, 0.5]])
    )
    np.testing.assert_allclose(jnp.mean(labeled), 0.6269, atol=1e-4)
    np.testing.assert_allclose(jnp.mean(unlabeled), 0.014271, atol=1e-6)
    np.testing.assert_allclose(jnp.mean(labeled) + 75 * jnp.mean(unlabeled), 1.6972, atol=1e-4)


def test_entropy_values():
    np.testing.assert_allclose(entropy(LOGITS), [0.8324, np.log(3)], atol=1e-4)
    np.testing.assert_allclose(entropy(LOGITS + 300), entropy(LOGITS), atol=1e-4)


def test_kl_values():
    p, q = jnp.array([0.7, 0.2, 0.1]), jnp.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(kl_divergence(jnp.log(p), jnp.log(q)), 0.0993, atol=1e-4)
    np.testing.assert_allclose(kl_divergence(jnp.log(p) + 5, jnp.log(q) - 3), 0.0993, atol=1e-4)
    np.testing.assert_allclose(kl_divergence(LOGITS, LOGITS), 0, atol=1e-7)
    uniform = jnp.zeros_like(LOGITS)
    np.testing.assert_allclose(kl_divergence(LOGITS, uniform), np.log(3) - entropy(LOGITS), atol=1e-6)


def test_kl_is_cross_entropy_less_entropy_to_the_second_prediction():
    rng = np.random.default_rng(0)
    one, other = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)
    expected = softmax_cross_entropy(other, jax.nn.softmax(one)) - entropy(one)
    np.testing.assert_allclose(kl_divergence(one, other), expected, atol=1e-6)
    gradient = jax.grad(lambda z: jnp.sum(kl_divergence(one, z)))(other)
    np.testing.assert_allclose(gradient, jax.nn.softmax(other) - jax.nn.softmax(one), atol=1e-6)


def test_pseudo_labels_and_their_confidence():
    labels, confidence = pseudo_labels(jnp.array([[5.0, 0, 0], [0, 1.0, 0]]))
    np.testing.assert_array_equal(labels, [0, 1])
    np.testing.assert_allclose(confidence, [0.9867, 0.5761], atol=1e-4)
    assert labels.dtype == jnp.int32
    gradient = jax.grad(lambda z: jnp.sum(pseudo_labels(z)[1]))(LOGITS)
    assert np.all(gradient == 0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jit_and_vmap_equal_eager(name):
    function = FUNCTIONS[name]
    eager = jax.tree.leaves(function(LOGITS))
    for other in (jax.jit(function)(LOGITS), jax.vmap(function)(LOGITS)):
        for one, two in zip(eager, jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scale", [1e4, -1e4, 1e-4])
def test_extremes_stay_finite(name, dtype, scale):
    logits = scale * jnp.array([[1.0, 0.0, -1.0], [1.0, 1.0, -1.0]], dtype)
    values, pullback = jax.vjp(FUNCTIONS[name], logits)
    floats = [leaf for leaf in jax.tree.leaves(values) if leaf.dtype != jnp.int32]
    assert all(leaf.dtype == jnp.float32 and np.all(np.isfinite(leaf)) for leaf in floats)
    ones = jax.tree.map(
        lambda leaf: (
            np.zeros(leaf.shape, jax.dtypes.float0) if leaf.dtype == jnp.int32 else jnp.ones_like(leaf)
        ),
        values,
    )
    assert np.all(np.isfinite(pullback(ones)[0].astype(jnp.float32)))


def test_a_class_of_logit_minus_infinity_has_no_part():
    logits = jnp.array([0.0, 0.0, -jnp.inf])
    np.testing.assert_allclose(softmax_squared_error(logits, jnp.array([0.5, 0.5, 0.0])), 0, atol=1e-7)
    np.testing.assert_allclose(pseudo_labels(logits)[1], 0.5)
    np.testing.assert_allclose(entropy(logits), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(kl_divergence(logits, jnp.zeros(3)), np.log(1.5), rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(entropy)(logits)))


@pytest.mark.parametrize("function", [softmax_squared_error, kl_divergence])
def test_shapes_must_agree(function):
    with pytest.raises(ValueError, match=r"need the shape of the logits, \(2, 3\); got \(3,\)"):
        function(LOGITS, jnp.zeros(3))


def test_softened_divergence_is_the_kl_of_softened_logits_times_the_temperature_squared():
    t, s = np.array([2.0, 0.0, -1.0]), np.array([0.0, 1.0, 0.0])
    p, q = (np.exp(z / 2) / np.exp(z / 2).sum() for z in (t, s))
    np.testing.assert_allclose(
        softened_divergence(t, s, temperature=2.0), 4 * (p * np.log(p / q)).sum(), rtol=1e-5
    )
    np.testing.assert_allclose(
        softened_divergence(t, s, temperature=1.0), kl_divergence(jnp.array(t), jnp.array(s)), rtol=1e-5
    )
    # At a high temperature: half the mean squared distance of centered logits, whatever T (section 2.1).
    centered = (t - t.mean()) - (s - s.mean())
    np.testing.assert_allclose(
        softened_divergence(t, s, temperature=300.0), (centered**2).sum() / 6, rtol=2e-2
    )
    with pytest.raises(ValueError, match="temperature must be positive"):
        softened_divergence(t, s, temperature=0.0)


def test_jensen_shannon_values():
    sure = jnp.array([[100.0, 0.0], [0.0, 100.0]])
    np.testing.assert_allclose(jensen_shannon([sure, sure, sure]), [0, 0], atol=1e-6)
    np.testing.assert_allclose(jensen_shannon([sure, sure[::-1]]), [np.log(2)] * 2, rtol=1e-5)
    p = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    m = p.mean(axis=0)
    expected = np.mean([(row * np.log(row / m)).sum() for row in p])
    found = jensen_shannon([jnp.log(row) for row in p])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(jensen_shannon([jnp.log(row) for row in p[::-1]]), found, rtol=1e-6)
    with pytest.raises(ValueError, match="logits need the shape"):
        jensen_shannon([sure, sure[0]])
