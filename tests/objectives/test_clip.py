"""What CLIP computes, beyond the laws that all objectives keep."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.layers.features import Features
from imgcls_jax.losses import INITIAL_LOG_SCALE
from imgcls_jax.objectives import clip
from imgcls_jax.train import sharding
from imgcls_jax.train.state import TrainState
from imgcls_jax.train.step import make_train_step

TASK = Task(num_classes=2, num_examples=32, steps_per_epoch=4, total_steps=8, image_shape=(2, 2, 1))
SMALL = {"dim": 5, "text_width": 8, "text_depth": 1, "context_length": 6, "vocab_size": 530}
ROWS = 8


class Flat:
    """A backbone without params, whose embedding is the image's pixels."""

    def init_with_output(self, rng, images, *, train):
        return self._features(images), {"params": {}}

    def apply(self, variables, images, *, train, mutable=None, rngs=None):
        return (self._features(images), {}) if mutable else self._features(images)

    def _features(self, images):
        return Features(images, images.reshape(len(images), -1))


OBJECTIVE = clip.make(Flat(), TASK, **SMALL)


def batch():
    rng = np.random.default_rng(0)
    text = np.zeros((ROWS, 3, 6), np.int32)
    text[:, :2, 0], text[:, :2, 1], text[:, :2, 2] = 516, rng.integers(1, 500, (ROWS, 2)), 517
    text[::2, 1] = 0  # every other image has one caption
    return {"image": rng.normal(size=(ROWS, 2, 2, 1)).astype(np.float32), "text": text}


@pytest.fixture(scope="module")
def params():
    params, objective_state = jax.jit(OBJECTIVE.init)(jax.random.key(0), batch())
    assert objective_state == {"batch_stats": {}}
    return params


predict = jax.jit(OBJECTIVE.predict)


def test_the_loss_is_the_symmetric_cross_entropy_of_the_drawn_captions(params):
    values = batch()
    values["text"] = values["text"][:, :1]
    found = predict(params, {"batch_stats": {}}, values)
    cosines = np.float64(found["embedding"]) @ np.float64(found["text_embedding"][:, 0]).T
    logits = np.exp(INITIAL_LOG_SCALE) * cosines
    right = np.diag(logits)
    expected = np.mean(
        [np.log(np.exp(logits).sum(axis=axis)) - right for axis in (0, 1)]
    )  # over texts and over images
    value, (objective_state, metrics) = jax.jit(OBJECTIVE.loss)(
        params, {"batch_stats": {}}, values, jax.random.key(1), jnp.int32(0)
    )
    assert value == pytest.approx(expected, rel=1e-4)
    assert metrics["scale"] == pytest.approx(1 / 0.07, rel=1e-5)
    image = values["image"].reshape(ROWS, -1) @ np.asarray(params["projection"]["kernel"])
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    np.testing.assert_allclose(found["embedding"], image, rtol=1e-4, atol=1e-5)


def test_each_of_an_images_own_captions_is_drawn_equally_often():
    text = jnp.zeros((3, 4, 5), jnp.int32)
    for row, count in enumerate((1, 3, 4)):
        text = text.at[row, :count, :].set(jnp.arange(1, count + 1)[:, None])
    keys = jax.random.split(jax.random.key(0), 3000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: clip.draw_captions(key, text)))(keys))[:, :, 0]
    counts = np.stack([np.bincount(column, minlength=5) for column in drawn.T])
    expected = np.array([[0, 3000, 0, 0, 0], [0, 1000, 1000, 1000, 0], [0, 750, 750, 750, 750]])
    assert np.abs(counts - expected).max() < 120  # over four standard deviations


@pytest.mark.parametrize("start", [np.log(100.0), 0.0])
def test_the_scale_stays_in_its_range_and_comes_back_at_once(params, start):
    """At a bound a gradient that points outward moves nothing, and one that points back moves all."""
    outward = -1.0 if start else 1.0  # of the gradient: descent goes the other way

    def loss(params, objective_state, values, rng, step):
        pull = jnp.where(step < 5, outward, -outward)
        return pull * params["log_scale"], (objective_state, {})

    objective = dataclasses.replace(OBJECTIVE, loss=loss)
    tx = optax.sgd(0.1)
    step = jax.jit(make_train_step(objective, tx, lambda rng, values: values))
    state = params | {"log_scale": jnp.float32(start)}
    state = TrainState(jnp.int32(0), state, {"batch_stats": {}}, tx.init(state), jax.random.key(0))
    scales = []
    for _ in range(7):
        state, _ = step(state, batch())
        scales.append(float(state.params["log_scale"]))
    back = start + 0.1 * outward
    np.testing.assert_allclose(scales, [start] * 5 + [back, start + 0.2 * outward], atol=1e-5)


def test_the_gradient_over_replicas_is_that_of_the_whole_batch(params):
    values = batch()
    values["text"] = values["text"][:, :1]  # one caption: no draw
    spread = clip.make(Flat(), dataclasses.replace(TASK, axis_name=sharding.AXIS), **SMALL)

    def gradient(objective, params, values):
        loss = lambda own: objective.loss(own, {"batch_stats": {}}, values, jax.random.key(1), 0)[0]  # noqa: E731
        return jax.value_and_grad(loss)(params)

    whole = jax.jit(lambda params, values: gradient(OBJECTIVE, params, values))(params, values)
    parts = jax.tree.map(lambda leaf: leaf.reshape(4, 2, *leaf.shape[1:]), values)
    mapped = jax.vmap(lambda own: gradient(spread, params, own), axis_name=sharding.AXIS)
    mean = jax.tree.map(lambda leaf: leaf.mean(axis=0), jax.jit(mapped)(parts))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), whole, mean)


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "bpe_simple_vocab_16e6.txt"
    path.write_text("#\nj a\nja y</w>\no w\now l</w>\n", encoding="utf-8")
    return str(path)  # 518 symbols


def test_class_prompts_make_a_classifier(params, vocabulary):
    options = {"class_prompts": ("owl", "jay"), "templates": ("a {}", "{} o"), "vocabulary": vocabulary}
    objective = clip.make(Flat(), TASK, **SMALL, **options)
    found = jax.jit(objective.predict)(params, {"batch_stats": {}}, {"image": batch()["image"]})
    assert found.keys() == {"embedding", "logits"}  # without captions no embedding of them
    a, o = 256 + ord("a") - 33, 256 + ord("o") - 33
    sentences = [[[516, a, word, 517], [516, word, o, 517]] for word in (515, 513)]
    kernel = []
    for own in sentences:
        text = np.zeros((1, 2, 6), np.int32)
        text[0, :, :4] = own
        values = {"image": batch()["image"][:1], "text": text}
        embedded = np.asarray(predict(params, {"batch_stats": {}}, values)["text_embedding"])[0]
        mean = embedded.mean(axis=0)
        kernel.append(mean / np.linalg.norm(mean))
    expected = np.asarray(found["embedding"]) @ np.stack(kernel, axis=1) / 0.07
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_prompts": ("owl",)}, "has 1 classes, and the data have 2"),
        ({"class_prompts": ("owl", "jay"), "vocabulary": ""}, "needs objective.vocabulary"),
        ({"class_prompts": ("owl owl owl owl owl", "jay"), "templates": "{}"}, "at most 4 tokens"),
        (
            {"class_prompts": ("owl", "jay"), "templates": "{}", "vocab_size": 9},
            "is less than the vocabulary",
        ),
        ({"text_width": 12, "text_heads": 5}, "text_width divides among text_heads"),
        ({"dim": 0}, "objective.dim is at least 1"),
    ],
)
def test_refuses(vocabulary, fields, message):
    with pytest.raises(ValueError, match=message):
        clip.make(Flat(), TASK, **SMALL | {"vocabulary": vocabulary} | fields)
