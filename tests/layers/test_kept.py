"""What is kept is the identity, and XLA computes it once for all that read it on a CPU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.kept import kept
from imgcls_jax.models.densenet import DenseNet

X = np.linspace(-1, 1, 2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3)
ON_A_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="of a CPU alone")


def test_it_is_the_identity_with_all_its_derivatives():
    function = lambda x: jnp.sum(jnp.sin(kept(x)) ** 2)  # noqa: E731
    plain = lambda x: jnp.sum(jnp.sin(x) ** 2)  # noqa: E731
    for derived in (lambda f: f, jax.grad, lambda f: jax.jvp(f, (X,), (X,))[1], jax.jit):
        ours, theirs = derived(function), derived(plain)
        if callable(ours):
            ours, theirs = ours(X), theirs(X)
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(jax.vmap(kept)(X), X)
    np.testing.assert_array_equal(jax.hessian(function)(X[0, 0, 0]), jax.hessian(plain)(X[0, 0, 0]))
    assert kept(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16


def absolute_values(function, *arrays):
    """Returns how often a compiled program computes one."""
    return len(re.findall(r" abs\(", jax.jit(function).lower(*arrays).compile().as_text()))


def readers(x):
    """Returns what two loops make of x, which no loop can make at once."""
    return x[..., ::-1] + 1, x[:, ::-1].transpose(0, 3, 1, 2) * 2


@ON_A_CPU
def test_xla_computes_it_once_for_all_its_readers():
    assert absolute_values(lambda x: readers(jnp.abs(x)), X) > 1  # else XLA has mended it: do without
    assert absolute_values(lambda x: readers(kept(jnp.abs(x))), X) == 1


@ON_A_CPU
def test_its_gradient_too_is_computed_once():
    def pulled(x, *gradients):
        return readers(jax.vjp(kept, x)[1](functools.reduce(jnp.add, map(jnp.abs, gradients)))[0])

    assert absolute_values(pulled, X, X, 2 * X) == 2


def test_programs_that_are_split_or_exported_have_none_of_it():
    function = jax.jit(lambda x: readers(kept(jnp.abs(x))))
    assert 'inlineable = "false"' in function.lower(X).as_text() or jax.default_backend() != "cpu"
    assert "inlineable" not in jax.export.export(function)(X).mlir_module()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    assert "inlineable" not in function.lower(jax.device_put(X, rows)).as_text()


@ON_A_CPU
def test_a_dense_block_sums_the_gradients_of_a_map_once():
    network = DenseNet(layers=(6,), growth=4, small_images=True)
    variables = network.init(jax.random.key(0), X, train=False)

    def loss(params):
        others = {"batch_stats": variables["batch_stats"]}
        return network.apply({"params": params, **others}, X, train=True, mutable=True)[0].embedding.sum()

    text = jax.jit(jax.grad(loss)).lower(variables["params"]).as_text()
    assert len(re.findall('inlineable = "false"', text)) >= 2 * 6  # the maps and their gradients
