"""Recall between images and captions against values worked out by hand and brute force."""

import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.evaluators import image_text

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(23, 6)).astype(np.float32)
COUNT = RNG.integers(1, 4, 23)  # captions of each image, 3 at most
TEXTS = (IMAGES[:, None] + 1.5 * RNG.normal(size=(23, 3, 6))).astype(np.float32)


def evaluate(images, texts, count, batch_size=8, **options):
    """Padding repeats row 0, which must not count twice."""

    def open_split(name):
        assert name == "test"
        for start in range(0, len(images), batch_size):
            rows = np.arange(start, start + batch_size)
            mask = rows < len(images)
            rows = np.where(mask, rows, 0)
            text = (np.arange(texts.shape[1]) < count[rows][:, None])[..., None] * np.array([9, 0])
            yield {
                "image": jnp.asarray(images[rows]),
                "embedded": jnp.asarray(texts[rows]),
                "text": jnp.asarray(text, jnp.int32),
                "label": jnp.zeros(batch_size, jnp.int32),
                "mask": jnp.asarray(mask),
            }

    def predict(params, objective_state, batch):
        return {"embedding": params * batch["image"], "text_embedding": batch["embedded"]}

    made = image_text.make(predict, open_split, task=None, split="test", **options)
    return made(jnp.float32(2.0), {})


def brute_force(k):
    """Recall at k by sorting every list of candidates in float64."""
    unit = lambda a: np.float64(a) / np.linalg.norm(a, axis=-1, keepdims=True)  # noqa: E731
    own = [(i, j) for i in range(len(IMAGES)) for j in range(COUNT[i])]
    texts = np.stack([unit(TEXTS)[pair] for pair in own])
    of = np.array([i for i, _ in own])
    cosines = unit(IMAGES) @ texts.T
    to_text = [i in of[np.argsort(-row)[:k]] for i, row in enumerate(cosines)]
    to_image = [i in np.argsort(-column)[:k] for i, column in zip(of, cosines.T, strict=True)]
    return np.mean(to_text), np.mean(to_image), len(own)


def test_recall_equals_brute_force_with_different_numbers_of_captions(monkeypatch):
    monkeypatch.setattr(image_text, "ROWS", 5)
    found = evaluate(IMAGES, TEXTS, COUNT, k=(1, 3))
    for k in (1, 3):
        to_text, to_image, captions = brute_force(k)
        assert found[f"image_to_text_recall_k{k}"] == pytest.approx(to_text)
        assert found[f"text_to_image_recall_k{k}"] == pytest.approx(to_image)
    assert 0 < found["text_to_image_recall_k1"] < found["text_to_image_recall_k3"] < 1
    assert (found["num_examples"], found["num_captions"]) == (23, captions)


def test_by_hand():
    # Image 0 finds a caption of image 1 before its own; image 1 its own. Captions of image 0: one is right.
    images = np.array([[1, 0], [0, 1]], np.float32)
    texts = np.array([[[0.6, 0.8], [0.8, 0.6]], [[0.9, 0.1], [0.0, 1.0]]], np.float32)
    found = evaluate(images, texts, np.array([2, 2]), batch_size=2, k=1)
    assert found == {
        "num_examples": 2,
        "num_captions": 4,
        "image_to_text_recall_k1": 0.5,
        "text_to_image_recall_k1": 0.5,
    }


def test_an_embedding_that_is_the_same_for_all_finds_nothing():
    same = np.ones((12, 4), np.float32)
    found = evaluate(same, np.ones((12, 2, 4), np.float32), np.full(12, 2))
    assert found["image_to_text_recall_k10"] == found["text_to_image_recall_k10"] == 0


def test_refuses():
    with pytest.raises(ValueError, match="k of at least 1"):
        evaluate(IMAGES, TEXTS, COUNT, k=(0, 1))
    with pytest.raises(ValueError, match="no image of the split 'test' has a caption"):
        evaluate(IMAGES, TEXTS, np.zeros(23, int))
