"""Mixup and CutMix: what is mixed into the image is what is mixed into the targets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.losses import cutmix, mixup

# Image i is constant i, so that its pixels tell where they came from.
IMAGES = jnp.broadcast_to(jnp.arange(8.0)[:, None, None, None], (8, 16, 12, 3))
TARGETS = jnp.eye(8)


@pytest.mark.parametrize("mix", [mixup, cutmix])
@pytest.mark.parametrize("seed", range(5))
def test_targets_say_what_the_pixels_are(mix, seed):
    images, targets = mix(jax.random.key(seed), IMAGES, TARGETS, alpha=1.0)
    np.testing.assert_allclose(jnp.sum(targets, axis=-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(
        jnp.mean(images, axis=(1, 2, 3)), targets @ jnp.arange(8.0), rtol=1e-4, atol=1e-4
    )


def test_mixup_draws_one_coefficient_a_batch():
    _, targets = mixup(jax.random.key(1), IMAGES, TARGETS, alpha=1.0)
    own = np.diag(targets)
    paired = own < 1  # an example may be its own partner
    assert paired.sum() >= 2 and np.ptp(own[paired]) < 1e-6


def test_cutmix_pastes_one_rectangle_at_one_place():
    images, _ = cutmix(jax.random.key(3), IMAGES, TARGETS, alpha=1.0)
    changed = np.asarray(images[..., 0] != IMAGES[..., 0])
    masks = changed[changed.any(axis=(1, 2))]
    assert len(masks) and (masks == masks[0]).all()
    rows, columns = masks[0].any(axis=1), masks[0].any(axis=0)
    np.testing.assert_array_equal(masks[0], rows[:, None] & columns[None, :])


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_jit_equals_eager_and_alpha_is_checked(mix):
    eager = mix(jax.random.key(0), IMAGES, TARGETS, alpha=0.4)
    jitted = jax.jit(lambda *a: mix(*a, alpha=0.4))(jax.random.key(0), IMAGES, TARGETS)
    for one, other in zip(eager, jitted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    with pytest.raises(ValueError, match="alpha"):
        mix(jax.random.key(0), IMAGES, TARGETS, alpha=0.0)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_a_device_hands_on_one_row(mix):
    """No device gathers the images of all."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    images, targets = jnp.ones((32, 16, 16, 3)), jnp.ones((32, 4))
    split = jax.jit(functools.partial(mix, alpha=1.0), in_shardings=(None, rows, rows), out_shardings=rows)
    assert "all-gather" not in split.lower(jax.random.key(0), images, targets).compile().as_text()
