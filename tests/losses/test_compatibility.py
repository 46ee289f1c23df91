"""Ranking losses of compatibilities, against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.losses import ale_loss, devise_loss, sje_loss

# Of the label 1 with margin 1 the violations are 1 + F_j - 2 = (1.5, 0.2, 0.7, 0), so three of them.
SCORES = jnp.array([2.5, 2.0, 1.2, 1.7, -3.0])
LOSSES = (devise_loss, sje_loss, ale_loss)


def test_values_by_hand():
    label = jnp.int32(1)
    np.testing.assert_allclose(devise_loss(SCORES, label, margin=1.0), 2.4, rtol=1e-6)
    np.testing.assert_allclose(sje_loss(SCORES, label), 1.5, rtol=1e-6)
    beta = 1 + 1 / 2 + 1 / 3
    np.testing.assert_allclose(ale_loss(SCORES, label), beta / 3 * 2.4, rtol=1e-6)
    # At DeViSE's margin of 0.1 the first alone violates it.
    np.testing.assert_allclose(devise_loss(SCORES, label), 0.6, rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_label_beyond_the_margin_costs_nothing(loss):
    assert loss(jnp.array([1.0, 2.5, 0.0]), jnp.int32(1)) == 0
    assert loss(jnp.array([3.0]), jnp.int32(0)) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_a_class_at_minus_infinity_takes_no_part(loss):
    rng = np.random.default_rng(0)
    scores, labels = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32), jnp.arange(6) % 4
    more = jnp.concatenate([scores, jnp.full((6, 2), -jnp.inf)], axis=1)
    np.testing.assert_array_equal(loss(more, labels), loss(scores, labels))
    gradients = [jax.grad(lambda z: loss(z, labels).sum())(z) for z in (scores, more)]
    np.testing.assert_allclose(gradients[1][:, :4], gradients[0], rtol=1e-6)
    assert np.all(np.isfinite(gradients[1])) and not np.any(gradients[1][:, 4:])
    # One of many examples at once, with and without jit.
    np.testing.assert_allclose(jax.jit(loss)(scores, labels)[2], loss(scores[2], labels[2]), rtol=1e-6)


def test_the_gradient_pulls_the_label_up_and_each_violation_down():
    gradient = jax.grad(lambda z: devise_loss(z, jnp.int32(1), margin=1.0))(SCORES)
    np.testing.assert_allclose(gradient, [1, -3, 1, 1, 0])
    np.testing.assert_allclose(jax.grad(lambda z: sje_loss(z, jnp.int32(1)))(SCORES), [1, -1, 0, 0, 0])
    weight = (1 + 1 / 2 + 1 / 3) / 3
    gradient = jax.grad(lambda z: ale_loss(z, jnp.int32(1)))(SCORES)
    np.testing.assert_allclose(gradient, weight * np.array([1, -3, 1, 1, 0]), rtol=1e-6)


def test_labels_of_another_form_are_refused():
    for labels in (jnp.zeros((2, 3), jnp.int32), jnp.zeros(2)):
        with pytest.raises(ValueError, match=r"labels are integers of shape \(2,\)"):
            sje_loss(jnp.zeros((2, 3)), labels)
