"""MA-CNN: the clusters of a plan, what each epoch trains, what predicts, and messages for mistakes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import batch_norm
from imgcls_jax.losses import part_attention, part_distance, part_diversity, part_target_distance
from imgcls_jax.objectives import ma_cnn
from imgcls_jax.objectives.ma_cnn import channel_peaks, clustered_channels, group_channels
from imgcls_jax.train.optimizer import reset_optimizer

TASK = Task(num_classes=3, num_examples=12, steps_per_epoch=2, total_steps=8, image_shape=(4, 4, 6))
OPTIONS = {"parts": 2, "hidden": 4, "group_epochs": 1}  # epochs: clusters, grouping, classes, grouping
CLUSTERS, GROUPING, CLASSES = 0, 2, 4  # a step of each kind


class Channels(nn.Module):
    """A scale and BatchNorm for each channel of the images, which are the map."""

    @nn.compact
    def __call__(self, images, *, train):
        scale = self.param("scale", nn.initializers.ones, images.shape[-1:])
        x = nn.relu(batch_norm(use_running_average=not train)(images * scale))
        return Features(x, jnp.mean(x, axis=(1, 2)))


def batch(rows=6):
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 1, (rows, *TASK.image_shape)).astype(np.float32)
    return {"image": images, "label": np.int32(np.arange(rows) % 3)}


@functools.lru_cache
def started(**options):
    objective = ma_cnn.make(Channels(), TASK, **OPTIONS | options)
    params, objective_state = jax.jit(objective.init)(jax.random.key(0), batch())
    params["grouping"] = jax.tree.map(
        lambda a: a + 0.3 * jnp.cos(jnp.arange(a.size).reshape(a.shape)), params["grouping"]
    )
    objective_state["targets"] = jnp.float32([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]])
    return objective, params, objective_state


@functools.lru_cache
def compiled():
    """One program for every epoch: the step is traced."""
    return jax.jit(jax.value_and_grad(started()[0].loss, has_aux=True))


@functools.lru_cache
def gradient_at(step):
    _, params, objective_state = started()
    (value, (after, metrics)), grads = compiled()(
        params, objective_state, batch(), jax.random.key(1), jnp.int32(step)
    )
    return value, after, metrics, grads


def moves(tree):
    return any(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(tree))


def features_of(params, state):
    variables = {"params": params["backbone"], "batch_stats": state["batch_stats"]}
    return Channels().apply(variables, batch()["image"], train=False)


def blobs(count=40):
    """Maps in which channels 0, 2, 3 and 7 peak at one place, 1, 4 and 5 at another, and 6 is silent."""
    rng = np.random.default_rng(0)
    maps = rng.uniform(0, 0.2, (count, 8, 8, 8)).astype(np.float32)
    maps[..., 6] = 0
    for image, (first, second) in enumerate(rng.integers(0, 8, (count, 2, 2))):
        maps[image, *first, [0, 2, 3, 7]] = rng.uniform(0.5, 1, 4)
        maps[image, *second, [1, 4, 5]] = rng.uniform(0.5, 1, 3)
        maps[image, :, :, rng.integers(8)] = 0  # silent in this image
    return maps


def test_channels_of_one_place_make_a_part_and_silent_ones_none():
    peaks = np.asarray(channel_peaks(jnp.asarray(blobs())))
    assert peaks.shape == (40, 16) and peaks.min() == -1 and peaks.max() == 1
    for seed in range(3):
        targets = clustered_channels(peaks, jax.random.key(seed), num_parts=2)
        first = targets[targets[:, 0] == 1][0]
        np.testing.assert_array_equal(first, [1, 0, 1, 1, 0, 0, 0, 1])
        np.testing.assert_array_equal(targets.sum(0), [1, 1, 1, 1, 1, 1, 0, 1])
    with pytest.raises(ValueError, match="objective.parts is 8, and 7 channels .* are active"):
        clustered_channels(peaks, jax.random.key(0), num_parts=8)


def test_peaks_are_rows_and_columns_on_0_to_1():
    maps = np.zeros((1, 3, 5, 2), np.float32)
    maps[0, 1, 4, 0] = 2
    np.testing.assert_array_equal(channel_peaks(jnp.asarray(maps)), [[0.5, 1, -1, -1]])


def test_the_plan_of_the_first_epoch_holds_the_clusters():
    objective, params, objective_state = started()
    peaks = np.asarray(channel_peaks(jnp.asarray(blobs()[..., :6])))
    asked = []

    def embed(key):
        asked.append(key)
        return peaks

    plans = [
        objective.plan_epoch(params, objective_state, epoch, embed, jax.random.key(1)) for epoch in range(4)
    ]
    assert asked == ["peaks"]
    targets = plans[0].objective_state["targets"]
    assert targets.shape == (2, 6) and targets.dtype == np.float32
    assert sorted(plans[0].metrics.values()) == [3, 3]
    assert [plan.reset for plan in plans] == [(), (), ("grouping",), ("backbone", "heads")]
    assert all(plan.objective_state is objective_state for plan in plans[1:])


def test_epochs_of_the_grouping_train_nothing_else_and_keep_the_statistics():
    for step in (CLUSTERS, GROUPING):
        _, after, _, grads = gradient_at(step)
        assert moves(grads["grouping"]) and not moves(grads["backbone"]) and not moves(grads["heads"])
        jax.tree.map(np.testing.assert_array_equal, after, started()[2])
    _, after, _, grads = gradient_at(CLASSES)
    assert moves(grads["backbone"]) and moves(grads["heads"]) and not moves(grads["grouping"])
    assert moves(jax.tree.map(jnp.subtract, after["batch_stats"], started()[2]["batch_stats"]))


def test_momentum_does_not_move_what_an_epoch_leaves_still():
    _, params, _ = started()
    tx = optax.sgd(0.1, momentum=0.9)
    *_, grads = gradient_at(CLASSES)
    _, opt_state = tx.update(grads, tx.init(params))
    *_, grads = gradient_at(GROUPING)
    assert moves(tx.update(grads, opt_state)[0]["heads"])
    updates, _ = tx.update(grads, reset_optimizer(tx, opt_state, params, ("backbone", "heads")))
    assert moves(updates["grouping"]) and not moves(updates["heads"]) and not moves(updates["backbone"])


def test_the_losses_are_those_of_the_paper():
    objective, params, state = started()
    features = features_of(params, state)
    pooled = np.asarray(features.embedding)
    weights = jax.nn.sigmoid(group_channels(params["grouping"], pooled))
    first = params["grouping"]["fc1"], params["grouping"]["fc2"]
    by_hand = [
        np.tanh(pooled @ first[0]["kernel"][i] + first[0]["bias"][i]) @ first[1]["kernel"][i]
        + first[1]["bias"][i]
        for i in range(2)
    ]
    np.testing.assert_allclose(weights, 1 / (1 + np.exp(-np.stack(by_hand, 1))), rtol=1e-4)
    likelihood = np.where(state["targets"] == 1, weights, 1 - weights)
    np.testing.assert_allclose(gradient_at(CLUSTERS)[0], -np.log(likelihood).sum((1, 2)).mean(), rtol=1e-4)
    maps = 100 * part_attention(features.map, weights)
    distance, diversity = part_distance(maps).sum(1).mean(), part_diversity(maps).sum(1).mean()
    value, _, metrics, _ = gradient_at(GROUPING)
    np.testing.assert_allclose(value, distance + 2 * diversity, rtol=1e-4)
    np.testing.assert_allclose([metrics["distance"], metrics["diversity"]], [distance, diversity], rtol=1e-4)


def test_the_other_forms_of_attention_and_distance():
    objective, params, state = started(attention="paper", distance="target", diversity=0.5)
    feature_map = features_of(params, state).map
    weights = jax.nn.sigmoid(group_channels(params["grouping"], feature_map.mean(axis=(1, 2))))
    maps = part_attention(feature_map, weights, form="paper")
    expected = (part_target_distance(maps) + 0.5 * part_diversity(maps)).sum(axis=1).mean()
    value, _ = objective.loss(params, state, batch(), jax.random.key(1), jnp.int32(GROUPING))
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_prediction_is_the_mean_of_the_streams():
    objective, params, state = started()
    found = jax.jit(objective.predict)(params, state, batch())
    assert found["stream_logits"].shape == (6, 3, 3) and found["part_attention"].shape == (6, 2, 4, 4)
    assert found["peaks"].shape == (6, 12) and found["embedding"].shape == (6, 6)
    streams = jax.nn.softmax(found["stream_logits"], axis=-1)
    np.testing.assert_allclose(jax.nn.softmax(found["logits"]), streams.mean(axis=1), rtol=1e-5)
    features = features_of(params, state)
    pooled = np.einsum("bhwd,bhw->bd", features.map, found["part_attention"][:, 1]) / 16
    own = jax.tree.map(lambda a: a[1], params["heads"]["parts"]["classifier"])
    expected = pooled @ own["kernel"] + own["bias"]
    np.testing.assert_allclose(found["stream_logits"][:, 1], expected, rtol=1e-4, atol=1e-6)
    own = params["heads"]["whole"]["classifier"]
    expected = features.embedding @ own["kernel"] + own["bias"]
    np.testing.assert_allclose(found["stream_logits"][:, 2], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "softmax"}, "objective.attention is one of release, paper; got 'softmax'"),
        ({"distance": "far"}, "objective.distance is one of squared, target"),
        ({"parts": 0}, "objective.parts is at least 1"),
        ({"alternation_epochs": (1, 0)}, r"at least one for the classifiers; got \(1, 0\)"),
    ],
)
def test_mistakes_become_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        ma_cnn.make(Channels(), TASK, **options)
