"""Single-label losses against values worked out by hand or printed with the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.losses import class_weighted_mean, smooth_labels, softmax_cross_entropy, zero_one

LOGITS = jnp.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
LABELS = jnp.array([0, 2])
CLASS_WEIGHTS = jnp.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize("num_classes, value", [(10, 2.302585), (1000, 6.907755)])
def test_cross_entropy_of_equal_logits_is_log_k(num_classes, value):
    loss = softmax_cross_entropy(jnp.zeros((1, num_classes)), jnp.array([3]))
    np.testing.assert_allclose(loss, [value], rtol=1e-6)


def test_cross_entropy_values():
    np.testing.assert_allclose(softmax_cross_entropy(LOGITS, LABELS), [0.407606, 1.098612], atol=1e-6)
    np.testing.assert_allclose(
        softmax_cross_entropy(LOGITS, jax.nn.one_hot(LABELS, 3)), [0.407606, 1.098612], atol=1e-6
    )


def test_label_smoothing_value():
    targets = smooth_labels(jnp.array([0]), num_classes=3, epsilon=0.1)
    np.testing.assert_allclose(targets, [[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]], rtol=1e-6)
    logits = jnp.array([[2.0, 0.0, 0.0]])
    np.testing.assert_allclose(softmax_cross_entropy(logits, targets), [0.372878], atol=1e-6)
    np.testing.assert_allclose(softmax_cross_entropy(logits, jnp.array([0])), [0.239545], atol=1e-6)
    with pytest.raises(ValueError, match="epsilon"):
        smooth_labels(jnp.array([0]), num_classes=3, epsilon=1.5)


def test_class_weights():
    losses = softmax_cross_entropy(LOGITS, LABELS, class_weights=CLASS_WEIGHTS)
    np.testing.assert_allclose(jnp.mean(losses), 1.8517, atol=1e-4)
    np.testing.assert_allclose(
        class_weighted_mean(losses, LABELS, class_weights=CLASS_WEIGHTS), 0.9259, atol=1e-4
    )
    soft = jax.nn.one_hot(LABELS, 3)
    losses = softmax_cross_entropy(LOGITS, soft, class_weights=CLASS_WEIGHTS)
    np.testing.assert_allclose(
        class_weighted_mean(losses, soft, class_weights=CLASS_WEIGHTS), 0.9259, atol=1e-4
    )
    ones = jnp.ones(3)
    np.testing.assert_allclose(
        softmax_cross_entropy(LOGITS, LABELS, class_weights=ones), softmax_cross_entropy(LOGITS, LABELS)
    )


def test_weights_that_were_not_met_give_zero_and_a_finite_gradient():
    def total(logits):
        weights = jnp.array([0.0, 1.0, 1.0])
        losses = softmax_cross_entropy(logits, jnp.array([0, 0]), class_weights=weights)
        return class_weighted_mean(losses, jnp.array([0, 0]), class_weights=weights)

    value, gradient = jax.value_and_grad(total)(LOGITS)
    assert value == 0 and np.all(gradient == 0)


def test_gradient_is_softmax_minus_target():
    for targets in (LABELS, smooth_labels(LABELS, num_classes=3, epsilon=0.3)):
        gradient = jax.grad(lambda z, t=targets: jnp.sum(softmax_cross_entropy(z, t)))(LOGITS)
        probabilities = targets if targets.ndim == 2 else jax.nn.one_hot(targets, 3)
        np.testing.assert_allclose(gradient, jax.nn.softmax(LOGITS) - probabilities, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extremes_stay_finite(dtype, scale):
    logits = jnp.array([[scale, 0.0, -scale]], dtype)
    for targets in (jnp.array([0]), jnp.array([[0.5, 0.5, 0.0]])):
        value, gradient = jax.value_and_grad(lambda z, t=targets: softmax_cross_entropy(z, t)[0])(logits)
        assert np.isfinite(value) and np.all(np.isfinite(gradient.astype(jnp.float32)))


def test_shift_and_permutation_leave_the_loss():
    rng = np.random.default_rng(0)
    logits, labels = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32), jnp.asarray(rng.integers(0, 5, 6))
    plain = softmax_cross_entropy(logits, labels)
    np.testing.assert_allclose(softmax_cross_entropy(logits + 7, labels), plain, atol=1e-5)
    permutation = rng.permutation(5)
    np.testing.assert_allclose(
        softmax_cross_entropy(logits[:, permutation], jnp.argsort(permutation)[labels]), plain, atol=1e-6
    )


def test_jit_and_vmap_equal_eager():
    plain = softmax_cross_entropy(LOGITS, LABELS)
    np.testing.assert_array_equal(jax.jit(softmax_cross_entropy)(LOGITS, LABELS), plain)
    np.testing.assert_allclose(jax.vmap(softmax_cross_entropy)(LOGITS, LABELS), plain, rtol=1e-6)


def test_shapes_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match="integer targets need shape"):
        softmax_cross_entropy(LOGITS, jnp.zeros((2, 3), jnp.int32))
    with pytest.raises(ValueError, match="probability targets need the shape"):
        softmax_cross_entropy(LOGITS, jnp.zeros((2, 4)))


def test_zero_one_counts_ties_and_nans_as_errors():
    logits = jnp.array(
        [[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [jnp.nan, 0.0, 0.0], [5.0, jnp.nan, 0.0], [0.0, 1.0, 2.0]]
    )
    np.testing.assert_array_equal(zero_one(logits, jnp.array([0, 0, 0, 0, 0])), [0, 1, 1, 1, 1])
