"""The permutations and patches of jigsaw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.models import cifar_resnet, simpleconv3
from imgcls_jax.objectives import jigsaw


def test_permutations_are_distinct_and_far_apart():
    few = jigsaw.far_permutations(4, 24, 0)
    assert len(np.unique(few, axis=0)) == 24
    with pytest.raises(ValueError, match=r"lies in \[2, 24\]"):
        jigsaw.far_permutations(4, 25, 0)
    chosen = jigsaw.far_permutations(9, 30, 0)
    apart = [np.sum(a != b) for i, a in enumerate(chosen) for b in chosen[:i]]
    np.testing.assert_allclose(np.mean(apart), 8.255, atol=0.02)
    drawn = np.stack([np.random.default_rng(i).permutation(9) for i in range(30)])
    assert np.mean([np.sum(a != b) for i, a in enumerate(drawn) for b in drawn[:i]]) < 8.1


def test_patches_lie_in_their_cells_at_every_place_and_have_no_shade():
    """12 x 12 pixels in 9 cells of 4, patches of 2."""
    image = np.zeros((1, 12, 12, 1), np.float32)
    image[0, ::4, ::4] = 1.0  # the first pixel of each cell: seen by a patch that begins there, and no other
    found = []
    for seed in range(60):
        patches = np.asarray(jigsaw.cut_patches(jax.random.key(seed), jnp.asarray(image), 3, 2))
        assert patches.shape == (1, 9, 2, 2, 1)
        bright = patches[0, :, :, :, 0] > 0
        assert np.all(bright.sum(axis=(1, 2)) == bright[:, 0, 0])  # there or nowhere
        found.append(bright[:, 0, 0].mean())
    np.testing.assert_allclose(np.mean(found), 1 / 9, atol=0.04)  # 3 x 3 places
    noise = jax.random.normal(jax.random.key(0), (2, 12, 12, 3))
    patches = jigsaw.cut_patches(jax.random.key(1), 5 * noise + 3, 3, 4)
    np.testing.assert_allclose(jnp.mean(patches, axis=(2, 3, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(jnp.std(patches, axis=(2, 3, 4)), 1, rtol=1e-3)


def test_the_head_reads_all_patches():
    """Its width is that of 4 patches; with a head of zeros every order is as likely."""
    task = Task(3, 8, 2, 4, image_shape=(8, 8, 1))
    backbone = cifar_resnet.build("resnet20", blocks=1, channels=(4, 4, 8))
    objective = jigsaw.make(backbone, task, grid=2, patch=3, num_permutations=24, patch_dim=4)
    batch = {"image": jax.random.normal(jax.random.key(0), (4, 8, 8, 1))}
    params, state = objective.init(jax.random.key(1), batch)
    assert params["head"]["kernel"].shape == (16, 24)
    params["head"] = jax.tree.map(jnp.zeros_like, params["head"])
    value, _ = objective.loss(params, state, batch, jax.random.key(2), jnp.int32(0))
    np.testing.assert_allclose(value, np.log(24), rtol=1e-6)


def test_a_network_whose_params_depend_on_the_size_is_refused():
    task = Task(3, 8, 2, 4, image_shape=(16, 16, 1))
    with pytest.raises(ValueError, match="the params of Simpleconv3 depend on the size"):
        jigsaw.make(simpleconv3.build(), task, grid=2, patch=7, num_permutations=6)
    with pytest.raises(ValueError, match="at most a cell"):
        jigsaw.make(simpleconv3.build(), task, grid=2, patch=9)
