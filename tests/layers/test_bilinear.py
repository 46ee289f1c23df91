"""Bilinear pooling against values worked out by hand, and the compact forms against what they approximate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import bilinear
from imgcls_jax.layers.bilinear import Bilinear

X = jnp.array([[[1.0, 2], [3, 0], [0, 1], [2, 2]]])
Y = jnp.array([[[1.0, -1], [0, 2], [1, 0], [-2, 1]]])


def descriptor(a, b):
    return bilinear.l2_normalize(bilinear.signed_sqrt(bilinear.gram(a, b).reshape(1, -1)))[0]


def test_worked_examples():
    np.testing.assert_allclose(4 * bilinear.gram(X, X)[0], [[14, 6], [6, 9]], rtol=1e-6)
    np.testing.assert_allclose(descriptor(X, X), [0.6325, 0.4140, 0.4140, 0.5071], atol=1e-4)
    np.testing.assert_allclose(4 * bilinear.gram(X, Y)[0], [[-3, 7], [-1, 0]], rtol=1e-6)
    np.testing.assert_allclose(descriptor(X, Y), [-0.5222, 0.7977, -0.3015, 0], atol=1e-4)


def test_descriptor_is_normal_and_forgets_order_and_scale():
    x = jnp.asarray(np.random.default_rng(0).uniform(0.5, 2, (1, 9, 5)), jnp.float32)
    z = descriptor(x, x)
    np.testing.assert_allclose(jnp.linalg.norm(z), 1, rtol=1e-6)
    np.testing.assert_allclose(descriptor(x[:, ::-1], x[:, ::-1]), z, atol=1e-6)
    np.testing.assert_allclose(descriptor(3 * x, 3 * x), z, atol=1e-5)


def test_tensor_sketch_of_one_location():
    first = {"hash": jnp.array([0, 2, 1]), "sign": jnp.array([1.0, -1, 1])}
    second = {"hash": jnp.array([3, 3, 0]), "sign": jnp.array([-1.0, 1, 1])}
    x = jnp.array([[[1.0, 2, 3]]])
    np.testing.assert_allclose(bilinear.tensor_sketch(bilinear.gram(x, x), first, second, 4), [[6, 7, -6, 1]])


def by_fft(a, b, first, second, dim):
    """The papers' form: sketch each stream, transform, multiply, sum over the locations, transform back
    once."""

    def sketch(x, hashes):
        return np.stack(
            [np.bincount(hashes["hash"], np.asarray(hashes["sign"]) * row, dim) for row in np.asarray(x)]
        )

    spectrum = np.fft.rfft(sketch(a, first)) * np.fft.rfft(sketch(b, second))
    return np.fft.irfft(spectrum.sum(axis=0), dim) / len(a)


def test_tensor_sketch_equals_the_fourier_form():
    rng = np.random.default_rng(0)
    a, b = jnp.asarray(rng.normal(size=(2, 6, 7))), jnp.asarray(rng.normal(size=(2, 6, 5)))
    first, second = (
        bilinear.draw_hashes(jax.random.key(0), 7, 16),
        bilinear.draw_hashes(jax.random.key(1), 5, 16),
    )
    found = bilinear.tensor_sketch(bilinear.gram(a, b), first, second, 16)
    for row in range(2):
        np.testing.assert_allclose(found[row], by_fft(a[row], b[row], first, second, 16), atol=1e-5)


@pytest.mark.parametrize("locations", [2, 12])
def test_random_maclaurin_equals_its_definition_either_way(locations):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, locations, 8)).astype(np.float32)
    first, second = rng.choice([-1.0, 1.0], (2, 32, 8)).astype(np.float32)
    expected = np.mean((a @ first.T) * (a @ second.T), axis=1) / 32**0.5
    np.testing.assert_allclose(
        bilinear.random_maclaurin(jnp.asarray(a), jnp.asarray(a), first, second), expected, atol=1e-5
    )


def sketches(projection, x, seeds, dim):
    """One vector's compact features under many seeds, float32 [seeds, dim]."""
    x = x[None, None]

    def one(seed):
        rng_first, rng_second = jax.random.split(jax.random.key(seed))
        if projection == "tensor_sketch":
            hashes = [bilinear.draw_hashes(rng, x.shape[-1], dim) for rng in (rng_first, rng_second)]
            return bilinear.tensor_sketch(bilinear.gram(x, x), *hashes, dim)[0]
        signs = [
            jax.random.rademacher(rng, (dim, x.shape[-1]), jnp.float32) for rng in (rng_first, rng_second)
        ]
        return bilinear.random_maclaurin(x, x, *signs)[0]

    return jax.vmap(one)(jnp.arange(seeds))


@pytest.mark.parametrize("projection", ["tensor_sketch", "random_maclaurin"])
def test_inner_products_are_unbiased_and_their_error_falls_with_the_root_of_d(projection):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=10), jnp.float32) for _ in range(2))
    bound = 2**0.5 * float(x @ x) * float(y @ y)
    deviations = []
    for dim in (16, 256):
        products = np.asarray(
            jnp.sum(sketches(projection, x, 3000, dim) * sketches(projection, y, 3000, dim), axis=1)
        )
        deviations.append(products.std())
        assert abs(products.mean() - float(x @ y) ** 2) < 3 * products.std() / 3000**0.5
        assert products.std() <= bound / dim**0.5
    np.testing.assert_allclose(deviations[0] / deviations[1], 4, rtol=0.15)


@pytest.mark.parametrize("projection", ["full", "tensor_sketch", "random_maclaurin"])
def test_the_head_learns_and_stays_finite_on_a_dead_map(projection):
    head = Bilinear(3, dim=32, projection=projection)
    dead = jnp.zeros((2, 4, 4, 6))
    variables = head.init(jax.random.key(0), dead, train=False)
    assert variables["params"]["classifier"]["kernel"].shape == (36 if projection == "full" else 32, 3)

    def loss(feature_map, params):
        return jnp.sum(head.apply(variables | {"params": params}, feature_map, train=False) ** 2)

    for feature_map in (dead, dead.at[0, 0, 0].set(1.0)):
        grads = jax.grad(loss, argnums=(0, 1))(feature_map, variables["params"])
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))
    again = head.init(jax.random.key(9), dead, train=False)
    jax.tree.map(np.testing.assert_array_equal, variables.get("projections"), again.get("projections"))


def test_two_streams_pool_one_half_with_the_other():
    head = Bilinear(4, streams=2)
    both = jnp.concatenate([X, Y], axis=-1).reshape(1, 2, 2, 4)
    variables = head.init(jax.random.key(0), both, train=False)
    layer = variables["params"]["classifier"]
    np.testing.assert_allclose(
        head.apply(variables, both, train=False)[0],
        descriptor(X, Y) @ layer["kernel"] + layer["bias"],
        atol=1e-5,
    )


def test_reduced_streams_have_a_layer_each():
    head = Bilinear(4, streams=2, reduce=3)
    both = jnp.concatenate([X, Y], axis=-1).reshape(1, 2, 2, 4)
    params = head.init(jax.random.key(0), both, train=False)["params"]
    a, b = X @ params["reduce_0"]["kernel"], Y @ params["reduce_1"]["kernel"]
    np.testing.assert_allclose(
        head.apply({"params": params}, both, train=False)[0],
        descriptor(a, b) @ params["classifier"]["kernel"] + params["classifier"]["bias"],
        atol=1e-5,
    )
    single = Bilinear(4, reduce=3).init(jax.random.key(0), both, train=False)["params"]
    assert set(single) == {"reduce_0", "classifier"} and single["classifier"]["kernel"].shape == (9, 4)


def test_mistakes_are_named():
    x = jnp.ones((1, 2, 2, 3))
    with pytest.raises(ValueError, match="projection is 'full'"):
        Bilinear(3, projection="sketch").init(jax.random.key(0), x, train=False)
    with pytest.raises(ValueError, match="even number of channels"):
        Bilinear(3, streams=2).init(jax.random.key(0), x, train=False)
