"""What SimCLR computes, beyond the laws that all objectives keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.models import simpleconv3
from imgcls_jax.objectives import simclr
from imgcls_jax.train import sharding

TASK = Task(num_classes=4, num_examples=32, steps_per_epoch=4, total_steps=8, image_shape=(8, 8, 1))
OBJECTIVE = simclr.make(simpleconv3.build(), TASK, temperature=0.5, projection_layers=3, projection_dim=6)


def batch(rows=8):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, rows, *TASK.image_shape)).astype(np.float32)
    return {"views": (first, second)}


@pytest.fixture(scope="module")
def state():
    return jax.jit(OBJECTIVE.init)(jax.random.key(0), batch())


@jax.jit
def loss_of(params, objective_state, values):
    return OBJECTIVE.loss(params, objective_state, values, jax.random.key(1), jnp.int32(0))


def projected_by_hand(params, embedding):
    """The projector in float64 numpy, BatchNorm by the batch."""
    x = np.asarray(embedding, np.float64)
    for layer in (1, 2, 3):
        x = x @ np.asarray(params[f"fc{layer}"]["kernel"], np.float64)
        x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
        norm = params[f"bn{layer}"]
        x = x * np.asarray(norm["scale"]) + np.asarray(norm.get("bias", 0.0))
        x = np.maximum(x, 0) if layer < 3 else x
    return x


def test_the_loss_is_nt_xent_of_the_projections_of_both_views(state):
    params, objective_state = state
    views = batch()["views"]
    features, moved = simpleconv3.build().apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        np.concatenate(views),  # BatchNorm sees both views together
        train=True,
        mutable=["batch_stats"],
    )
    z = projected_by_hand(params["projector"], features.embedding)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    similar = np.exp(z @ z.T / 0.5)
    np.fill_diagonal(similar, 0)
    partner = (np.arange(16) + 8) % 16
    expected = -np.log(similar[np.arange(16), partner] / similar.sum(axis=1)).mean()
    value, (new_carry, metrics) = loss_of(params, objective_state, batch())
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert metrics["loss"] == value
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        new_carry["batch_stats"],
        moved["batch_stats"],
    )
    assert np.any(
        new_carry["projector_stats"]["bn3"]["mean"] != objective_state["projector_stats"]["bn3"]["mean"]
    )


def test_the_projector_has_no_biases_but_those_of_hidden_norms(state):
    shapes = jax.tree.map(jnp.shape, state[0]["projector"])
    assert shapes == {
        "fc1": {"kernel": (128, 128)},
        "bn1": {"scale": (128,), "bias": (128,)},
        "fc2": {"kernel": (128, 128)},
        "bn2": {"scale": (128,), "bias": (128,)},
        "fc3": {"kernel": (128, 6)},
        "bn3": {"scale": (6,)},
    }


def test_the_projector_may_start_from_the_authors_distribution():
    objective = simclr.make(simpleconv3.build(), TASK, projector_std=0.01)
    params, _ = jax.jit(objective.init)(jax.random.key(0), batch())
    for layer in ("fc1", "fc2"):
        assert float(params["projector"][layer]["kernel"].std()) == pytest.approx(0.01, rel=0.05)
    with pytest.raises(ValueError, match="objective.projector_std is at least 0; got -1"):
        simclr.make(simpleconv3.build(), TASK, projector_std=-1.0)


def test_views_may_change_places_and_negatives_span_all_devices(state):
    params, objective_state = state
    value, (new_carry, _) = loss_of(params, objective_state, batch())
    first, second = batch()["views"]
    np.testing.assert_allclose(
        loss_of(params, objective_state, {"views": (second, first)})[0], value, rtol=1e-5
    )
    placed = sharding.place(batch(), sharding.data_mesh())  # one example a device
    assert len(placed["views"][0].sharding.device_set) == 8
    sharded, (sharded_carry, _) = loss_of(params, objective_state, placed)
    np.testing.assert_allclose(sharded, value, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), sharded_carry, new_carry
    )


def test_prediction_is_the_backbones_embedding(state):
    params, objective_state = state
    images = batch()["views"][0]
    out = OBJECTIVE.predict(params, objective_state, {"image": images})
    features = simpleconv3.build().apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]}, images, train=False
    )
    assert set(out) == {"embedding"}
    np.testing.assert_array_equal(out["embedding"], features.embedding)


def test_errors(state):
    one = {"views": batch()["views"][:1]}
    with pytest.raises(ValueError, match="view_transforms"):
        OBJECTIVE.loss(*state, one, jax.random.key(0), jnp.int32(0))
    for options in ({"temperature": 0.0}, {"projection_layers": 0}, {"projection_dim": 0}):
        with pytest.raises(ValueError, match=f"objective.*{next(iter(options))}"):
            simclr.make(simpleconv3.build(), TASK, **options)
