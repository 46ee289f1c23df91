"""What MAE computes, beyond the laws that all objectives keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.models import simpleconv3, vit
from imgcls_jax.objectives import mae

TASK = Task(num_classes=4, num_examples=32, steps_per_epoch=4, total_steps=8, image_shape=(8, 12, 1))
BACKBONE = vit.build("vit_tiny", patch=2, width=16, depth=2, position="sincos")
LENGTH = 24
OPTIONS = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
RNG = jax.random.key(5)


def batch(rows=4):
    rng = np.random.default_rng(0)
    return {"image": rng.normal(size=(rows, *TASK.image_shape)).astype(np.float32)}


def make(backbone=BACKBONE, task=TASK, **options):
    return mae.make(backbone, task, **(OPTIONS | options))


@pytest.fixture(scope="module")
def state():
    return jax.jit(make().init)(jax.random.key(0), batch())


def test_masks():
    keep, restore, mask = mae.random_masking(RNG, 64, LENGTH, 6)
    assert keep.shape == (64, 6) and mask.dtype == bool
    assert np.all(mask.sum(axis=1) == 18)
    order = np.argsort(restore, axis=1)  # visible first, then hidden
    np.testing.assert_array_equal(order[:, :6], keep)
    listed = jnp.arange(LENGTH) * jnp.ones((64, 1))
    shuffled = np.take_along_axis(np.asarray(listed), order, axis=1)
    np.testing.assert_array_equal(np.take_along_axis(shuffled, np.asarray(restore), axis=1), listed)
    assert not np.any(np.take_along_axis(np.asarray(mask), np.asarray(keep), axis=1))
    assert len({tuple(row) for row in np.asarray(mask).tolist()}) == 64  # each image its own
    chosen = np.asarray(mae.random_masking(RNG, 4000, 8, 2)[2]).mean(axis=0)
    np.testing.assert_allclose(chosen, 0.75, atol=0.04)  # five standard deviations


@pytest.mark.parametrize("norm_pix", [False, True])
def test_the_loss_is_the_error_of_the_hidden_patches_as_decoded_from_the_visible(state, norm_pix):
    params, objective_state = state
    images = batch()["image"]
    rng_mask, _ = jax.random.split(RNG)
    keep, restore, mask = mae.random_masking(rng_mask, 4, LENGTH, 6)
    loss = jax.jit(make(norm_pix=norm_pix).loss)
    value, (new_carry, metrics) = loss(params, objective_state, {"image": images}, RNG, jnp.int32(0))
    assert new_carry == {} and metrics["loss"] == value

    tokens = BACKBONE.apply({"params": params["backbone"]}, images, train=False, keep=keep, method="tokens")
    decoder = BACKBONE.decoder(channels=1, width=16, depth=1, heads=2)
    predicted = np.asarray(decoder.apply({"params": params["decoder"]}, tokens, restore, (4, 6)), np.float64)
    target = images.reshape(4, 4, 2, 6, 2).swapaxes(2, 3).reshape(4, LENGTH, 4).astype(np.float64)
    if norm_pix:
        mean, std = target.mean(-1, keepdims=True), np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
        target = (target - mean) / std
    errors = ((predicted - target) ** 2).mean(axis=-1)
    np.testing.assert_allclose(value, errors[np.asarray(mask)].mean(), rtol=1e-4)


def test_hidden_pixels_reach_the_target_alone(state):
    """The encoder's gradient with respect to hidden pixels, through a loss that ignores the target, is 0."""
    params, _ = state
    rng_mask, _ = jax.random.split(RNG)
    keep, restore, mask = mae.random_masking(rng_mask, 4, LENGTH, 6)
    decoder = BACKBONE.decoder(channels=1, width=16, depth=1, heads=2)

    @jax.jit
    @jax.grad
    def gradient(images):
        tokens = BACKBONE.apply(
            {"params": params["backbone"]}, images, train=False, keep=keep, method="tokens"
        )
        return jnp.sum(decoder.apply({"params": params["decoder"]}, tokens, restore, (4, 6)) ** 2)

    moved = np.asarray(gradient(batch()["image"])).reshape(4, 4, 2, 6, 2).swapaxes(2, 3).reshape(4, LENGTH, 4)
    np.testing.assert_array_equal(np.any(moved != 0, axis=-1), ~np.asarray(mask))


def test_each_step_hides_other_patches(state):
    loss = jax.jit(make().loss)
    values = {float(loss(*state, batch(), jax.random.key(seed), jnp.int32(0))[0]) for seed in (0, 0, 1, 2)}
    assert len(values) == 3


def test_prediction_is_the_backbones_embedding_of_the_whole_image(state):
    params, objective_state = state
    for pool in ("token", "mean"):
        backbone = BACKBONE.clone(pool=pool)
        out = make(backbone).predict(params, objective_state, batch())
        features = backbone.apply({"params": params["backbone"]}, batch()["image"], train=False)
        assert set(out) == {"embedding"}
        np.testing.assert_array_equal(out["embedding"], features.embedding)


def test_errors():
    with pytest.raises(ValueError, match="Simpleconv3 reads whole images; set config.model.name = 'vit'"):
        make(simpleconv3.build())
    with pytest.raises(ValueError, match="8x12 do not divide into the backbone's patches of 5"):
        make(BACKBONE.clone(patch=5))
    for mask_ratio in (0.0, 0.99, 1.0):
        with pytest.raises(ValueError, match="objective.mask_ratio"):
            make(mask_ratio=mask_ratio)
    with pytest.raises(ValueError, match="decoder_width"):
        make(decoder_width=18)
