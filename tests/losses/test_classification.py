"""Losses and class weights against values worked out by hand or printed with the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.losses import (
    effective_number_weights,
    inverse_frequency_weights,
    mean_over,
    prior_bias,
    sigmoid_asymmetric,
    sigmoid_cross_entropy,
    sigmoid_focal,
    smooth_labels,
    softmax_cross_entropy,
    softmax_focal,
    zero_one,
)

LOGITS = jnp.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
LABELS = jnp.array([0, 2])
CLASS_WEIGHTS = jnp.array([1.0, 2.0, 3.0])
APPLIES = jnp.array([[1, 0, 0], [0, 1, 1]])  # of the sigmoid losses
EVERY_LOSS = [
    (softmax_cross_entropy, LABELS),
    (softmax_focal, LABELS),
    (sigmoid_cross_entropy, APPLIES),
    (sigmoid_focal, APPLIES),
    (sigmoid_asymmetric, APPLIES),
]


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
    np.testing.assert_allclose(mean_over(losses, jnp.sum(CLASS_WEIGHTS[LABELS])), 0.9259, atol=1e-4)
    soft = jax.nn.one_hot(LABELS, 3)
    losses = softmax_cross_entropy(LOGITS, soft, class_weights=CLASS_WEIGHTS)
    np.testing.assert_allclose(mean_over(losses, jnp.sum(CLASS_WEIGHTS[LABELS])), 0.9259, atol=1e-4)
    ones = jnp.ones(3)
    np.testing.assert_allclose(
        softmax_cross_entropy(LOGITS, LABELS, class_weights=ones), softmax_cross_entropy(LOGITS, LABELS)
    )


def test_weights_that_were_not_met_give_zero_and_a_finite_gradient():
    def total(logits):
        weights = jnp.array([0.0, 1.0, 1.0])
        losses = softmax_cross_entropy(logits, jnp.array([0, 0]), class_weights=weights)
        return mean_over(losses, jnp.sum(weights[jnp.array([0, 0])]))

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


@pytest.mark.parametrize("loss", [softmax_cross_entropy, softmax_focal])
def test_shift_and_permutation_leave_the_loss(loss):
    rng = np.random.default_rng(0)
    logits, labels = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32), jnp.asarray(rng.integers(0, 5, 6))
    plain = loss(logits, labels)
    np.testing.assert_allclose(loss(logits + 7, labels), plain, atol=1e-5)
    permutation = rng.permutation(5)
    np.testing.assert_allclose(
        loss(logits[:, permutation], jnp.argsort(permutation)[labels]), plain, atol=1e-6
    )


@pytest.mark.parametrize("loss, targets", EVERY_LOSS)
def test_jit_and_vmap_equal_eager(loss, targets):
    plain = loss(LOGITS, targets)
    assert plain.shape == (2,) and plain.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(loss)(LOGITS, targets), plain, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(loss)(LOGITS, targets), plain, rtol=1e-6)


def test_softmax_focal_values():
    np.testing.assert_allclose(softmax_focal(LOGITS, LABELS), [0.0457, 0.4883], atol=5e-5)
    np.testing.assert_allclose(
        softmax_focal(LOGITS, LABELS, gamma=0.0), softmax_cross_entropy(LOGITS, LABELS), rtol=1e-6
    )
    np.testing.assert_allclose(
        softmax_focal(LOGITS, LABELS, class_weights=CLASS_WEIGHTS), [0.0457, 3 * 0.4883], atol=2e-4
    )


def test_sigmoid_cross_entropy_values():
    logits = jnp.array([[0.0], [2.0], [-2.0]])
    ones, zeros = jnp.ones((3, 1)), jnp.zeros((3, 1), bool)
    np.testing.assert_allclose(sigmoid_cross_entropy(logits, ones), [0.6931, 0.1269, 2.1269], atol=5e-5)
    np.testing.assert_allclose(sigmoid_cross_entropy(logits, zeros), [0.6931, 2.1269, 0.1269], atol=5e-5)
    np.testing.assert_allclose(
        sigmoid_cross_entropy(jnp.array([[0.0, 2.0, -2.0]]), jnp.array([[1, 1, 0]])),
        [0.6931 + 0.1269 + 0.1269],
        atol=2e-4,
    )
    weighted = sigmoid_cross_entropy(logits, jnp.full((3, 1), 0.5), positive_weight=3.0)
    np.testing.assert_allclose(weighted, [4 / 2 * 0.6931, 1.5 * 0.1269 + 1.0635, 3.1904 + 0.0635], atol=2e-4)


def test_sigmoid_of_one_logit_is_softmax_of_zero_and_that_logit():
    z = jnp.array([-3.0, 0.5, 4.0])
    pairs = jnp.stack([jnp.zeros(3), z], axis=-1)
    for label in (0, 1):
        labels = jnp.full(3, label)
        np.testing.assert_allclose(
            sigmoid_cross_entropy(z[:, None], labels[:, None]),
            softmax_cross_entropy(pairs, labels),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            sigmoid_focal(z[:, None], labels[:, None], alpha=0.5),
            softmax_focal(pairs, labels) / 2,
            rtol=1e-5,
        )


def test_sigmoid_focal_values():
    logits = jnp.array([[0.0], [2.0], [-2.0]])
    positive, negative = jnp.ones((3, 1), jnp.int32), jnp.zeros((3, 1), jnp.int32)
    np.testing.assert_allclose(sigmoid_focal(logits[:1], positive[:1]), [0.0433217], rtol=1e-6)
    np.testing.assert_allclose(sigmoid_focal(logits, positive), [0.0433, 0.0005, 0.4125], atol=5e-5)
    np.testing.assert_allclose(sigmoid_focal(logits, negative), [0.1300, 1.2376, 0.0014], atol=5e-5)
    np.testing.assert_allclose(
        sigmoid_focal(LOGITS, APPLIES, alpha=0.5, gamma=0.0),
        sigmoid_cross_entropy(LOGITS, APPLIES) / 2,
        rtol=1e-6,
    )


def test_sigmoid_asymmetric_values():
    """By hand: -ln p of 0 and 2; .45^4 times -ln .55; 0.01798621 is the sigmoid of -4, below the shift."""
    logits = jnp.array([[0.0], [2.0], [0.0], [-4.0]])
    targets = jnp.array([[1], [1], [0], [0]])
    expected = [0.693147, 0.126928, 0.04100625 * 0.597837, 0.0]
    np.testing.assert_allclose(sigmoid_asymmetric(logits, targets), expected, atol=1e-6)
    np.testing.assert_allclose(
        sigmoid_asymmetric(logits, targets, positive_gamma=1.0, negative_gamma=0.0),
        [0.5 * 0.693147, 0.119203 * 0.126928, 0.597837, 0.0],
        atol=1e-6,
    )


def test_sigmoid_asymmetric_without_its_own_is_cross_entropy_and_focal():
    plain = sigmoid_asymmetric(LOGITS, APPLIES, negative_gamma=0.0, shift=0.0)
    np.testing.assert_allclose(plain, sigmoid_cross_entropy(LOGITS, APPLIES), rtol=1e-6)
    focal = sigmoid_asymmetric(LOGITS, APPLIES, positive_gamma=2.0, negative_gamma=2.0, shift=0.0)
    np.testing.assert_allclose(focal, 2 * sigmoid_focal(LOGITS, APPLIES, alpha=0.5), rtol=1e-5)


@pytest.mark.parametrize("loss, targets", EVERY_LOSS[2:])
def test_labels_that_are_not_observed_change_nothing(loss, targets):
    observed = jnp.array([[True, True, False], [False, False, False]])
    unknown = jnp.where(observed, targets, jnp.nan)
    value, gradient = jax.value_and_grad(lambda z: jnp.sum(loss(z, unknown, observed=observed)))(LOGITS)
    np.testing.assert_allclose(value, loss(LOGITS[:1, :2], targets[:1, :2])[0], rtol=1e-6)
    assert np.all((gradient != 0) == observed)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradients_are_the_slopes(gamma):
    def focal(z):
        softmax = softmax_focal(z, LABELS, gamma=gamma).sum() + sigmoid_focal(z, APPLIES, gamma=gamma).sum()
        return softmax + sigmoid_asymmetric(z, APPLIES, positive_gamma=gamma, negative_gamma=gamma).sum()

    logits = np.asarray(LOGITS) + 0.3
    gradient = jax.grad(focal)(jnp.asarray(logits))
    for place in np.ndindex(logits.shape):
        nudge = np.zeros_like(logits)
        nudge[place] = 1e-2
        slope = (focal(logits + nudge) - focal(logits - nudge)) / 2e-2
        np.testing.assert_allclose(gradient[place], slope, atol=2e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_focal_and_sigmoid_extremes_stay_finite(dtype, gamma, scale):
    logits = jnp.array([[scale, 0.0, -scale]], dtype)

    def total(z):
        applies = jnp.array([[1, 1, 0]])
        return (
            softmax_focal(z, jnp.array([0]), gamma=gamma)[0]
            + sigmoid_focal(z, applies, gamma=gamma)[0]
            + sigmoid_cross_entropy(z, applies)[0]
            + sigmoid_asymmetric(z, applies, negative_gamma=gamma, shift=0.0)[0]
            + sigmoid_asymmetric(z, applies, positive_gamma=gamma, negative_gamma=gamma)[0]
        )

    value, gradient = jax.value_and_grad(total)(logits)
    assert np.isfinite(value) and np.all(np.isfinite(gradient.astype(jnp.float32)))


def test_class_weights_from_counts():
    counts = jnp.array([8, 2, 0])
    np.testing.assert_allclose(inverse_frequency_weights(counts), [10 / 24, 10 / 6, 0], rtol=1e-6)
    np.testing.assert_allclose(
        inverse_frequency_weights(counts, power=0.5), np.sqrt([10 / 24, 10 / 6, 0]), rtol=1e-6
    )
    # 1 - 0.5^n: 1/2 and 3/4, so the weights are as 2 to 4/3.
    np.testing.assert_allclose(
        effective_number_weights(jnp.array([1, 2]), beta=0.5), [2 * 0.6, 2 * 0.4], rtol=1e-6
    )
    assert effective_number_weights(counts, beta=0.9)[2] == 0
    np.testing.assert_allclose(effective_number_weights(counts, beta=0.0), [1.5, 1.5, 0], rtol=1e-6)
    np.testing.assert_allclose(
        effective_number_weights(jnp.array([900, 100]), beta=1 - 1e-7), [0.2, 1.8], rtol=1e-3
    )
    with pytest.raises(ValueError, match="beta"):
        effective_number_weights(counts, beta=1.0)


def test_prior_bias_gives_back_the_prior():
    assert round(prior_bias(0.01), 4) == -4.5951
    np.testing.assert_allclose(jax.nn.sigmoid(prior_bias(0.2)), 0.2, rtol=1e-6)
    with pytest.raises(ValueError, match="prior"):
        prior_bias(1.0)


def test_what_the_focal_and_sigmoid_losses_refuse():
    with pytest.raises(ValueError, match="gamma"):
        softmax_focal(LOGITS, LABELS, gamma=-1.0)
    with pytest.raises(ValueError, match="takes class indices"):
        softmax_focal(LOGITS, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="alpha"):
        sigmoid_focal(LOGITS, APPLIES, alpha=2.0)
    with pytest.raises(ValueError, match="shift"):
        sigmoid_asymmetric(LOGITS, APPLIES, shift=1.0)
    with pytest.raises(ValueError, match="one number a label"):
        sigmoid_cross_entropy(LOGITS, LABELS)


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
