"""Patches and masked reconstruction against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.losses import masked_reconstruction, patchify, unpatchify

RNG = np.random.default_rng(0)
PATCHES = jnp.asarray(RNG.normal(size=(3, 6, 12)), jnp.float32)
PREDICTED = jnp.asarray(RNG.normal(size=(3, 6, 12)), jnp.float32)
MASK = jnp.asarray([[1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1], [1, 1, 1, 0, 0, 0]])


def test_patches_list_row_column_channel():
    images = jnp.arange(4 * 6 * 2).reshape(1, 4, 6, 2)  # value 12 row + 2 column + channel
    patches = patchify(images, patch=2)
    assert patches.shape == (1, 6, 8)
    np.testing.assert_array_equal(patches[0, 1], [4, 5, 6, 7, 16, 17, 18, 19])  # rows 0-1, columns 2-3
    np.testing.assert_array_equal(patches[0, 3], [24, 25, 26, 27, 36, 37, 38, 39])  # rows 2-3, columns 0-1


@pytest.mark.parametrize("shape, patch", [((2, 8, 8, 3), 4), ((3, 4, 12, 1), 2), ((1, 5, 5, 2), 5)])
def test_unpatchify_is_the_inverse(shape, patch):
    images = jnp.asarray(RNG.normal(size=shape))
    patches = patchify(images, patch=patch)
    np.testing.assert_array_equal(unpatchify(patches, patch=patch, image_size=shape[1:3]), images)


def test_only_masked_patches_count():
    losses = masked_reconstruction(PREDICTED, PATCHES, MASK)
    errors = np.mean((np.asarray(PREDICTED) - np.asarray(PATCHES)) ** 2, axis=-1)
    np.testing.assert_allclose(losses, (errors * MASK).sum(1) / 3, rtol=1e-5)
    np.testing.assert_allclose(jnp.mean(losses), (errors * MASK).sum() / MASK.sum(), rtol=1e-5)
    seen = jnp.where(MASK[..., None] == 1, PATCHES, 7.0)
    np.testing.assert_array_equal(masked_reconstruction(PREDICTED, seen, MASK), losses)
    np.testing.assert_array_equal(masked_reconstruction(PREDICTED, PATCHES, MASK.astype(bool)), losses)
    gradient = jax.grad(lambda x: jnp.sum(masked_reconstruction(x, PATCHES, MASK)))(PREDICTED)
    assert np.all((jnp.abs(gradient).sum(-1) > 0) == (MASK == 1))
    assert np.all(masked_reconstruction(PREDICTED, PATCHES, jnp.zeros((3, 6))) == 0)


def test_normalised_pixels():
    patches = jnp.asarray(RNG.normal(size=(2, 4, 768)), jnp.float32)
    mask = jnp.ones((2, 4))
    losses = masked_reconstruction(jnp.zeros_like(patches), patches, mask, norm_pix=True)
    np.testing.assert_allclose(losses, 0.998698, atol=1e-5)  # 767 / 768, the unbiased variance's
    changed = 3.0 * patches + 5.0  # brightness and contrast drop out
    predicted = jnp.asarray(RNG.normal(size=(2, 4, 768)), jnp.float32)
    np.testing.assert_allclose(
        masked_reconstruction(predicted, changed, mask, norm_pix=True),
        masked_reconstruction(predicted, patches, mask, norm_pix=True),
        rtol=1e-4,
    )
    flat = jnp.full((1, 2, 16), 0.7)
    assert np.all(masked_reconstruction(jnp.zeros((1, 2, 16)), flat, jnp.ones((1, 2)), norm_pix=True) < 1e-6)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_jit_and_vmap_equal_eager(norm_pix):
    def loss(*arrays):
        return masked_reconstruction(*arrays, norm_pix=norm_pix)

    eager = loss(PREDICTED, PATCHES, MASK)
    np.testing.assert_allclose(jax.jit(loss)(PREDICTED, PATCHES, MASK), eager, rtol=1e-5)
    twice = [jnp.stack([array, array[::-1]]) for array in (PREDICTED, PATCHES, MASK)]
    np.testing.assert_allclose(jax.vmap(loss)(*twice), jnp.stack([eager, eager[::-1]]), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
def test_extremes_stay_finite(dtype, value):
    predicted, patches = jnp.full((1, 2, 8), -value, dtype), jnp.full((1, 2, 8), value, dtype)
    for norm_pix in (False, True):
        loss, gradient = jax.value_and_grad(
            lambda x, n=norm_pix: masked_reconstruction(x, patches, jnp.ones((1, 2)), norm_pix=n)[0]
        )(predicted)
        assert loss.dtype == jnp.float32 and np.isfinite(loss)
        assert np.all(np.isfinite(gradient.astype(jnp.float32)))


def test_errors():
    with pytest.raises(ValueError, match="10x8 do not divide into patches of 4"):
        patchify(jnp.zeros((1, 10, 8, 3)), patch=4)
    with pytest.raises(ValueError, match=r"need \[B, 4, 16 \* C\]; got \(1, 3, 16\)"):
        unpatchify(jnp.zeros((1, 3, 16)), patch=4, image_size=(8, 8))
    with pytest.raises(ValueError, match="one shape"):
        masked_reconstruction(PREDICTED, PATCHES, MASK[:, :5])
    with pytest.raises(ValueError, match="two values"):
        masked_reconstruction(PREDICTED[..., :1], PATCHES[..., :1], MASK, norm_pix=True)
