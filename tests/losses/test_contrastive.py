"""NT-Xent and CLIP's loss against closed forms, and the gathered forms against the whole batch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from imgcls_jax.losses import (
    INITIAL_LOG_SCALE,
    LOG_SCALE_RANGE,
    clip_loss,
    l2_normalize,
    normalized_distance,
    nt_xent,
    queue_info_nce,
    sigmoid_pair_loss,
)

REPLICAS = 4
FIRST = jnp.array([[1.0, 0.0], [0.0, 1.0]])
SECOND = jnp.array([[0.5**0.5, 0.5**0.5], [0.0, 1.0]])
LOSSES = {
    "nt_xent": partial(nt_xent, temperature=0.5),
    "clip_loss": partial(clip_loss, log_scale=jnp.log(2.0)),
}


def sum_form(losses):
    return jnp.sum(jnp.mean(losses, axis=1))


def drawn(rows=8, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=(rows, dim)), jnp.float32) for _ in range(2))


def by_hand(first, second, temperature):
    """NT-Xent in float64, an anchor at a time."""
    views = np.concatenate([first, second]).astype(np.float64)
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    size, losses = len(first), []
    for i in range(2 * size):
        similar = np.exp(views @ views[i] / temperature)
        losses.append(-np.log(similar[(i + size) % (2 * size)] / (similar.sum() - similar[i])))
    return np.reshape(losses, (2, size))


def test_nt_xent_values():
    losses = nt_xent(FIRST, SECOND, temperature=0.5)
    np.testing.assert_allclose(losses, [[0.3962, 0.5259], [1.0986, 0.5259]], atol=5e-5)
    np.testing.assert_allclose(jnp.mean(losses), 0.6367, atol=5e-5)
    np.testing.assert_allclose(sum_form(losses), 1.2733, atol=1e-4)
    np.testing.assert_allclose(sum_form(losses), 2 * jnp.mean(losses), rtol=1e-6)


def test_nt_xent_of_identical_and_of_orthonormal_rows():
    same = jnp.ones((8, 3))
    np.testing.assert_allclose(sum_form(nt_xent(same, same, temperature=0.1)), 2 * np.log(15), rtol=1e-6)
    rows = jnp.eye(8)
    np.testing.assert_allclose(sum_form(nt_xent(rows, rows, temperature=0.5)), 2.12576, atol=1e-5)
    assert np.all(nt_xent(rows[:1], rows[:1], temperature=0.5) == 0)  # no negatives


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
def test_nt_xent_against_float64(temperature):
    first, second = drawn()
    expected = by_hand(first, second, temperature)
    np.testing.assert_allclose(nt_xent(first, second, temperature=temperature), expected, rtol=2e-5)


def test_clip_values():
    losses = clip_loss(FIRST, SECOND, log_scale=np.log(2.0))
    np.testing.assert_allclose(jnp.mean(losses, axis=1), [0.3301, 0.4100], atol=5e-5)
    np.testing.assert_allclose(jnp.mean(losses), 0.3701, atol=5e-5)
    same = jnp.ones((6, 3))
    np.testing.assert_allclose(clip_loss(same, same, log_scale=1.0), np.full((2, 6), np.log(6)), rtol=1e-6)
    rows = jnp.eye(6)
    matched = np.log1p(5 * np.exp(-2.0))
    np.testing.assert_allclose(clip_loss(rows, rows, log_scale=np.log(2.0)), matched, rtol=1e-5)
    np.testing.assert_allclose(np.exp(INITIAL_LOG_SCALE), 14.2857, atol=1e-4)
    np.testing.assert_allclose(np.exp(LOG_SCALE_RANGE), [1, 100], rtol=1e-6)


def test_sigmoid_pair_loss_asks_each_pair_by_itself():
    """By hand, of 2 pairs, and of a replica's own images with the texts of all."""
    cosines = np.array([[0.5**0.5, 0.0], [0.5**0.5, 1.0]])
    signed = np.array([[1, -1], [-1, 1]]) * (2 * cosines - 0.5)
    loss = partial(sigmoid_pair_loss, log_scale=np.log(2.0), bias=-0.5)
    found = loss(3 * FIRST, SECOND)
    np.testing.assert_allclose(found, np.log1p(np.exp(-signed)).sum(axis=1), rtol=1e-5)
    of_replicas = jax.vmap(partial(loss, axis_name="replicas"), axis_name="replicas")
    np.testing.assert_allclose(of_replicas(FIRST[:, None], SECOND[:, None])[:, 0], found, rtol=1e-5)
    far = sigmoid_pair_loss(FIRST, -FIRST, log_scale=np.log(1e4), bias=0.0)
    np.testing.assert_allclose(far, 1e4 + np.log(2), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_invariances(name):
    loss, (first, second) = LOSSES[name], drawn()
    losses = loss(first, second)
    np.testing.assert_allclose(loss(second, first), losses[::-1], rtol=1e-5)
    scales = jnp.arange(1.0, 9.0)[:, None]
    np.testing.assert_allclose(loss(scales * first, 5 * second), losses, rtol=1e-5)
    rotation, _ = jnp.linalg.qr(drawn(5, 5, seed=3)[0])
    np.testing.assert_allclose(loss(first @ rotation, second @ rotation), losses, rtol=1e-4)
    order = jnp.array([3, 1, 7, 0, 2, 6, 5, 4])
    np.testing.assert_allclose(loss(first[order], second[order]), losses[:, order], rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_orthogonal_to_each_row(name):
    first, second = drawn()
    gradient = jax.grad(lambda z: jnp.sum(LOSSES[name](z, second)))(first)
    assert np.all(np.linalg.norm(gradient, axis=1) > 1e-3)
    np.testing.assert_allclose(jnp.sum(gradient * first, axis=1), np.zeros(8), atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_jit_and_vmap_equal_eager(name):
    loss = LOSSES[name]
    pairs = [drawn(seed=seed) for seed in range(3)]
    eager = jnp.stack([loss(*pair) for pair in pairs])
    np.testing.assert_allclose(jax.jit(loss)(*pairs[0]), eager[0], rtol=1e-5)
    batched = [jnp.stack(side) for side in zip(*pairs, strict=True)]
    np.testing.assert_allclose(jax.vmap(loss)(*batched), eager, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scale", [1e-20, 1e30, 0.0])
def test_extremes_stay_finite(dtype, scale):
    sides = [(scale * side).astype(dtype) for side in drawn()]
    for loss in (partial(nt_xent, temperature=0.01), partial(clip_loss, log_scale=LOG_SCALE_RANGE[1])):
        value, gradients = jax.value_and_grad(lambda a, b, f=loss: jnp.mean(f(a, b)), argnums=(0, 1))(*sides)
        assert value.dtype == jnp.float32 and np.isfinite(value)
        for gradient in gradients:
            assert gradient.dtype == dtype and np.all(np.isfinite(gradient.astype(jnp.float32)))


def test_l2_normalize():
    vectors = jnp.array([[3.0, 4.0], [3e30, 4e30], [3e-25, 4e-25], [0.0, 0.0]])
    np.testing.assert_allclose(l2_normalize(vectors), [[0.6, 0.8]] * 3 + [[0, 0]], rtol=1e-6)
    gradients = jax.grad(lambda x: jnp.sum(l2_normalize(x)[:, 0]))(vectors)
    assert np.all(np.isfinite(gradients))
    np.testing.assert_allclose(gradients[0], [0.8**2 / 5, -0.6 * 0.8 / 5], rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("mapped", ["vmap", "pmap", "shard_map"])
def test_gathered_negatives_are_those_of_the_whole_batch(name, mapped):
    """A replica's loss and the averaged gradient of a shared weight, against the whole batch's."""
    loss, (first, second) = LOSSES[name], drawn()
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), jnp.float32)

    def mean_loss(weight, first, second, axis_name=None):
        losses = loss(first @ weight, second @ weight, axis_name=axis_name)
        return jnp.mean(losses), losses

    whole = jax.value_and_grad(mean_loss, has_aux=True)
    (_, expected), expected_gradient = whole(weight, first, second)

    def replica(first, second):
        local = jax.lax.pcast(weight, "batch", to="varying") if mapped == "shard_map" else weight
        (_, losses), gradient = whole(local, first, second, "batch")
        return losses, jax.lax.pmean(gradient, "batch")

    shards = [side.reshape(REPLICAS, -1, 5) for side in (first, second)]
    if mapped == "shard_map":
        mesh = Mesh(np.array(jax.devices()[:REPLICAS]), ("batch",))
        rows = PartitionSpec("batch")
        step = jax.shard_map(
            replica,
            mesh=mesh,
            in_specs=(rows, rows),
            out_specs=(PartitionSpec(None, "batch"), PartitionSpec()),
        )
        losses, gradient = jax.jit(step)(first, second)
    else:
        if mapped == "vmap":
            step = jax.vmap(replica, axis_name="batch")
        else:
            step = jax.pmap(replica, axis_name="batch", devices=jax.devices()[:REPLICAS])
        losses, gradients = step(*shards)  # [replicas, 2, b], [replicas, 5, 3]
        losses, gradient = jnp.moveaxis(losses, 0, 1).reshape(2, -1), gradients[0]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_a_sharded_batch_under_jit_is_the_whole_batch():
    mesh = Mesh(np.array(jax.devices()[:REPLICAS]), ("data",))
    rows = jax.sharding.NamedSharding(mesh, PartitionSpec("data"))
    sides = drawn()
    for loss in LOSSES.values():
        placed = [jax.device_put(side, rows) for side in sides]
        np.testing.assert_allclose(jax.jit(loss)(*placed), loss(*sides), rtol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match=r"one shape \[B, D\].*\(2, 2\) and \(3, 2\)"):
        nt_xent(FIRST, jnp.ones((3, 2)), temperature=0.5)
    with pytest.raises(ValueError, match=r"one shape \[B, D\]"):
        clip_loss(FIRST[0], SECOND[0], log_scale=0.0)
    with pytest.raises(ValueError, match="temperature"):
        nt_xent(FIRST, SECOND, temperature=0.0)


def test_queue_info_nce_values():
    """Cosines 1/sqrt 2 and 1 with the own key, 1 and 0 with the queue's one row, at temperature 1/2."""
    queue = jnp.array([[1.0, 0.0]])
    losses = queue_info_nce(3 * FIRST, 7 * SECOND, queue, temperature=0.5)
    own, other = np.array([2**0.5, 2.0]), np.array([2.0, 0.0])
    np.testing.assert_allclose(losses, np.log(np.exp(own) + np.exp(other)) - own, rtol=1e-6)


def test_normalized_distance_values():
    np.testing.assert_allclose(normalized_distance(3 * FIRST, SECOND), [2 - 2**0.5, 0], atol=1e-6)
    np.testing.assert_allclose(normalized_distance(FIRST, -FIRST), [4, 4], rtol=1e-6)
