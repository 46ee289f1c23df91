"""DeepCluster: what a plan holds, what the loss reads, and the sampler."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from imgcls_jax.contracts.objective import Task
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import batch_norm
from imgcls_jax.losses import softmax_cross_entropy
from imgcls_jax.objectives import deepcluster
from imgcls_jax.objectives.deepcluster import normalized_mutual_information, uniform_order

TASK = Task(num_classes=3, num_examples=60, steps_per_epoch=6, total_steps=12, image_shape=(8, 8, 1))


class Small(nn.Module):
    """A linear layer and BatchNorm, which compile fast."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(20)(images.reshape(len(images), -1))
        x = nn.relu(batch_norm(use_running_average=not train)(x))
        return Features(x.reshape(-1, 2, 2, 5), x)


def batch(rows=10):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(rows, *TASK.image_shape)).astype(np.float32)
    return {"image": images, "index": np.arange(rows, dtype=np.int32)[::-1] * 5}


def initial(objective, values):
    return jax.jit(objective.init)(jax.random.key(0), values)


def make(**options):
    options = {"num_clusters": 4, "hidden": (16, 12), "pca_dim": 3} | options
    return deepcluster.make(Small(), TASK, **options)


def blobs():
    """60 points in four far groups, and the group of each."""
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(4), [30, 15, 10, 5]))
    centres = np.concatenate([np.eye(3), -np.ones((1, 3))])[groups]
    return (5 * centres + rng.normal(size=(60, 3)) / 10).astype(np.float32), groups


def plan(objective, params, objective_state, seed=1, points=None):
    points = blobs()[0] if points is None else points
    return objective.plan_epoch(
        params, objective_state, 0, lambda key: {"embedding": points}[key], jax.random.key(seed)
    )


def test_a_plan_clusters_the_embedding_and_renews_the_head_alone():
    objective = make(kmeans_start="kmeans++")
    params, objective_state = initial(objective, batch())
    assert objective_state["assignments"].dtype == np.int32 and objective_state["assignments"].shape == (60,)
    planned = plan(objective, params, objective_state)
    groups = blobs()[1]
    assert normalized_mutual_info_score(planned.objective_state["assignments"], groups) == 1
    assert planned.reset == ("head",)
    assert not np.any(planned.params["head"]["kernel"] == params["head"]["kernel"])
    assert 0.005 < np.std(planned.params["head"]["kernel"]) < 0.02
    np.testing.assert_array_equal(planned.params["head"]["bias"], 0)
    for room in ("backbone", "projector"):
        jax.tree.map(np.testing.assert_array_equal, planned.params[room], params[room])
    jax.tree.map(
        np.testing.assert_array_equal, planned.objective_state["batch_stats"], objective_state["batch_stats"]
    )
    assert planned.metrics["nmi_with_previous"] == 0 and planned.metrics["clusters_with_members"] == 4
    assert 0 <= planned.metrics["kmeans_objective"] < 0.1
    again = plan(objective, planned.params, planned.objective_state, seed=2)
    np.testing.assert_allclose(again.metrics["nmi_with_previous"], 1)


def test_each_epoch_starts_from_another_seed():
    objective = make(num_clusters=20)
    params, objective_state = initial(objective, batch())
    one, other = (plan(objective, params, objective_state, seed) for seed in (1, 2))
    assert not np.array_equal(one.objective_state["assignments"], other.objective_state["assignments"])
    assert not np.array_equal(one.order, other.order)
    assert not np.array_equal(one.params["head"]["kernel"], other.params["head"]["kernel"])


def test_an_embedding_narrower_than_pca_dim_keeps_all_its_components():
    objective = make(pca_dim=256)
    params, objective_state = initial(objective, batch())
    assert len(np.unique(plan(objective, params, objective_state).objective_state["assignments"])) <= 4


@pytest.mark.parametrize("sizes", [(30, 15, 10, 5), (57, 1, 1, 1), (7, 6, 5, 4, 3, 2, 1)])
def test_the_order_visits_every_cluster_equally_often(sizes):
    rng = np.random.default_rng(0)
    assignments = rng.permutation(np.repeat(3 * np.arange(len(sizes)), sizes))  # not every number is taken
    order = uniform_order(assignments, np.random.default_rng(1))
    assert order.dtype == np.int64 and len(order) == len(assignments)
    visits = np.bincount(assignments[order])[::3]
    assert visits.sum() == len(order) and np.ptp(visits) <= 1
    for cluster, size in enumerate(sizes):
        own = order[assignments[order] == 3 * cluster]
        if size >= len(own):
            assert len(np.unique(own)) == len(own)


def test_the_loss_reads_the_clusters_of_its_examples():
    objective = make(dropout=0.0)
    params, objective_state = initial(objective, batch())
    objective_state["assignments"] = jnp.asarray(blobs()[1], jnp.int32)
    value, (after, metrics) = jax.jit(objective.loss)(
        params, objective_state, batch(), jax.random.key(1), jnp.int32(0)
    )
    features, _ = Small().apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        batch()["image"],
        train=True,
        mutable=["batch_stats"],
    )
    x = features.embedding
    for name in ("fc1", "fc2"):
        x = jax.nn.relu(x @ params["projector"][name]["kernel"] + params["projector"][name]["bias"])
    logits = x @ params["head"]["kernel"] + params["head"]["bias"]
    expected = softmax_cross_entropy(logits, blobs()[1][batch()["index"]]).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert metrics["loss"] == value
    np.testing.assert_array_equal(after["assignments"], objective_state["assignments"])


def test_dropout_may_leave_the_first_layer_alone():
    """With a probability of 1 all that a layer reads is 0: its output is its bias, 0 at first."""
    x = jnp.ones((2, 3))
    outputs = {}
    for first in (True, False):
        projector = deepcluster.Projector((4,), 1.0, first)
        variables = projector.init(jax.random.key(0), x, train=False)
        outputs[first] = projector.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert np.all(outputs[True] == 0) and np.any(outputs[False] != 0)


def test_the_embedding_stands_before_the_last_relu():
    objective = make()
    params, objective_state = initial(objective, batch())
    outputs = jax.jit(objective.predict)(params, objective_state, batch())
    assert outputs["embedding"].shape == (10, 12) and np.any(outputs["embedding"] < 0)
    logits = jax.nn.relu(outputs["embedding"]) @ params["head"]["kernel"]
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-6)
    plain = make(hidden=())
    params, objective_state = initial(plain, batch())
    assert set(params) == {"backbone", "head"}
    assert jax.eval_shape(plain.predict, params, objective_state, batch())["embedding"].shape == (10, 20)
    flat = make(reads="map")
    params, objective_state = initial(flat, batch())
    assert params["projector"]["fc1"]["kernel"].shape == (2 * 2 * 5, 16)


@pytest.mark.parametrize("seed", range(4))
def test_mutual_information_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 3 + seed, 50), rng.integers(0, 4, 50)
    expected = normalized_mutual_info_score(first, second)
    np.testing.assert_allclose(normalized_mutual_information(first, second), expected, atol=1e-12)
    np.testing.assert_allclose(normalized_mutual_information(first, (first + 1) % 7), 1)


def test_mutual_information_of_the_table_and_of_constants():
    first, second = np.repeat([0, 1, 2], 3), np.array([1, 1, 1, 0, 0, 2, 2, 2, 2])
    np.testing.assert_allclose(normalized_mutual_information(first, second), 0.786013, atol=1e-6)
    assert normalized_mutual_information(first, np.zeros(9, int)) == pytest.approx(0, abs=1e-12)
    assert normalized_mutual_information(np.zeros(9, int), np.zeros(9, int)) == 1


@pytest.mark.parametrize(
    "options", [{"num_clusters": 1}, {"num_clusters": 61}, {"pca_dim": 0}, {"hidden": (0,)}, {"reads": "aux"}]
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"objective.*{next(iter(options))}"):
        make(**options)
