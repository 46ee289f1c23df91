"""Views of an image: where they are cut, and what their average is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.config.settings import ViewSettings
from imgcls_jax.train.views import average_views, cut

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 10, 14, 3), np.uint8)


def predict(params, objective_state, batch):
    pixels = batch["image"].astype(jnp.float32).mean((1, 2)) / 64
    return {"logits": pixels * params, "embedding": pixels}


def test_ten_crops():
    views = cut(IMAGES, ViewSettings(8))
    assert views.shape == (10, 3, 8, 8, 3) and views.dtype == np.uint8
    for number, (y, x) in enumerate([(0, 0), (0, 6), (2, 0), (2, 6), (1, 3)]):
        expected = IMAGES[:, y : y + 8, x : x + 8]
        np.testing.assert_array_equal(views[number], expected)
        np.testing.assert_array_equal(views[number + 5], expected[:, :, ::-1])


def test_the_average_is_of_probabilities():
    views = cut(IMAGES, ViewSettings(8))
    found = jax.jit(average_views(predict, ViewSettings(8)))(2.0, {}, {"image": IMAGES})
    each = [jax.nn.softmax(predict(2.0, {}, {"image": view})["logits"]) for view in views]
    np.testing.assert_allclose(found["probabilities"], np.mean(each, axis=0), rtol=1e-5)
    np.testing.assert_allclose(jax.nn.softmax(found["logits"]), found["probabilities"], rtol=1e-5)
    expected = np.mean([predict(2.0, {}, {"image": view})["embedding"] for view in views], axis=0)
    np.testing.assert_allclose(found["embedding"], expected, rtol=1e-5)


def test_one_view_is_the_plain_prediction():
    whole = IMAGES[:, :, :10]
    found = average_views(predict, ViewSettings(10, corners=False, flip=False))(2.0, {}, {"image": whole})
    expected = jax.nn.softmax(predict(2.0, {}, {"image": whole})["logits"])
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-6)


def test_a_border_is_the_reflection_of_the_image():
    found = cut(IMAGES, ViewSettings(10, flip=False, pad=1))
    padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    assert found.shape == (5, 3, 10, 10, 3)
    np.testing.assert_array_equal(found[0], padded[:, :10, :10])
    np.testing.assert_array_equal(found[4], padded[:, 1:11, 3:13])
    np.testing.assert_array_equal(found[4], IMAGES[:, :, 2:12])


def test_a_border_as_wide_as_the_image_is_refused():
    with pytest.raises(ValueError, match="pad lies between 0 and crop - 1, 9; got 10"):
        ViewSettings(10, pad=10)
    with pytest.raises(ValueError, match="pad, 11, is not below the image's sides, 10x14"):
        cut(IMAGES, ViewSettings(12, pad=11))


def test_views_of_an_even_image_are_alike():
    even = np.full((1, 12, 12, 3), 77, np.uint8)
    views = cut(even, ViewSettings(8, sizes=(8, 16)))
    assert views.shape == (20, 1, 8, 8, 3) and (views == 77).all()


def test_scales():
    views = cut(IMAGES, ViewSettings(8, corners=False, flip=False, sizes=(8, 20)))
    assert views.shape == (2, 3, 8, 8, 3)
    smaller = jax.image.resize(IMAGES.astype(np.float32), (3, 8, 8, 3), "bilinear")
    np.testing.assert_allclose(views[0], smaller, atol=0.5001)


def test_mistakes():
    for fields in ({"crop": 0}, {"crop": 8, "sizes": (6,)}):
        with pytest.raises(ValueError, match="views: crop is positive"):
            ViewSettings(**fields)
    with pytest.raises(ValueError, match="images of 10x14, smaller than the crop of 12"):
        cut(IMAGES, ViewSettings(12))
