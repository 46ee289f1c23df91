"""Hinge losses against values worked out by hand, and against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import hinge_loss

from imgcls_jax.losses import multiclass_hinge, squared_hinge

LOGITS = jnp.array([[2.0, 0.5, -1.0], [0.0, 0.0, 3.0], [0.5, 0.75, 0.0]])
LABELS = jnp.array([0, 1, 0])


def test_values():
    """By hand: margins of 1.5, -3 and -0.25; then t z = (2, -.5, 1), (0, 0, -3) and (.5, -.75, 0)."""
    np.testing.assert_allclose(multiclass_hinge(LOGITS, LABELS), [0, 4, 1.25])
    np.testing.assert_allclose(squared_hinge(LOGITS, LABELS), [2.25, 1 + 1 + 16, 0.25 + 1.75**2 + 1])


def test_multiclass_hinge_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 4, 20)
    expected = hinge_loss(labels, logits, labels=range(4))
    np.testing.assert_allclose(
        multiclass_hinge(jnp.array(logits), jnp.array(labels)).mean(), expected, rtol=1e-6
    )


def test_the_gradient_moves_the_label_and_its_strongest_rival_alone():
    gradient = jax.grad(lambda z: multiclass_hinge(z, LABELS).sum())(LOGITS)
    np.testing.assert_array_equal(gradient, [[0, 0, 0], [0, -1, 1], [-1, 1, 0]])


@pytest.mark.parametrize("loss", [multiclass_hinge, squared_hinge])
def test_extremes_jit_and_mistakes(loss):
    value, gradient = jax.value_and_grad(lambda z: jax.jit(loss)(z, LABELS).sum())(1e4 * LOGITS)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
    np.testing.assert_allclose(jax.jit(loss)(LOGITS, LABELS), loss(LOGITS, LABELS))
    for targets in (LABELS[:2], jnp.ones((3, 3)), jnp.ones(3)):
        with pytest.raises(ValueError, match="hinge losses take class indices"):
            loss(LOGITS, targets)
