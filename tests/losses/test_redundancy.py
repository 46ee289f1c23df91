"""Variance and covariance of VICReg against numbers computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.losses import covariance_penalty, variance_hinge

# Columns of unbiased variance 1, 4 and 0; covariance of the first two 2.
ROWS = jnp.array([[-1.0, -2.0, 5.0], [0.0, 0.0, 5.0], [1.0, 2.0, 5.0]])


def test_variance_hinge():
    np.testing.assert_allclose(variance_hinge(ROWS, epsilon=0.0), [0, 0, 1])
    np.testing.assert_allclose(variance_hinge(ROWS, target=3.0, epsilon=0.0), [2, 1, 3])
    np.testing.assert_allclose(variance_hinge(ROWS)[2], 1 - 0.01, rtol=1e-6)
    gradient = jax.grad(lambda z: jnp.sum(variance_hinge(z)))(jnp.zeros((4, 2)))
    assert np.all(np.isfinite(gradient))


def test_covariance_penalty():
    np.testing.assert_allclose(covariance_penalty(ROWS), [4, 4, 0], rtol=1e-6)
    np.testing.assert_allclose(covariance_penalty(ROWS + 100), [4, 4, 0], rtol=1e-4)


def test_replicas_see_all_rows():
    rows = jax.random.normal(jax.random.key(0), (8, 3))
    for function in (variance_hinge, covariance_penalty):
        parts = jax.vmap(lambda own, f=function: f(own, axis_name="replicas"), axis_name="replicas")
        np.testing.assert_allclose(parts(rows.reshape(4, 2, 3))[0], function(rows), rtol=1e-5)
