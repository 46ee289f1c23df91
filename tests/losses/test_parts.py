"""Part attention and its losses against hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.losses import (
    part_attention,
    part_distance,
    part_diversity,
    part_response,
    part_target_distance,
    peak_positions,
)


def one_channel():
    """A map of which one channel is 30 at the first position, and weights of that channel alone."""
    feature_map = np.zeros((1, 2, 2, 3), np.float32)
    feature_map[0, 0, 0, 0] = 30
    return feature_map, np.array([[[1, 0, 0]]], np.float32)


def deltas(*places, side=4, mass=1.0):
    maps = np.zeros((len(places), side, side), np.float32)
    for number, place in enumerate(places):
        maps[number][place] = mass
    return maps


def test_golden_values_of_the_release_form():
    feature_map, weights = one_channel()
    np.testing.assert_allclose(part_response(feature_map, weights)[0, 0, 0, 0], 0.761594, atol=1e-6)
    expected = [[0.712636, 0.095788], [0.095788, 0.095788]]
    np.testing.assert_allclose(part_attention(feature_map, weights)[0, 0], expected, atol=1e-6)
    nothing = part_attention(np.zeros((1, 28, 28, 5), np.float32), np.ones((1, 4, 5), np.float32))
    np.testing.assert_allclose(nothing, 1 / 784, rtol=1e-5)


def test_the_papers_form_is_a_sigmoid_of_the_sum():
    feature_map, weights = one_channel()
    found = part_attention(feature_map / 10, weights, form="paper")[0, 0]
    np.testing.assert_allclose(found, [[0.952574, 0.5], [0.5, 0.5]], atol=1e-6)
    with pytest.raises(ValueError, match="one of release, paper; got 'sigmoid'"):
        part_attention(feature_map, weights, form="sigmoid")


def test_attention_sums_to_1_and_its_contrast_is_bounded():
    rng = np.random.default_rng(0)
    feature_map = rng.uniform(0, 50, (2, 7, 5, 6)).astype(np.float32)
    feature_map[0, 3, 2] = 1e6
    attention = part_attention(feature_map, rng.uniform(size=(2, 3, 6)).astype(np.float32))
    assert attention.shape == (2, 3, 7, 5)
    np.testing.assert_allclose(attention.sum((2, 3)), 1, rtol=1e-5)
    largest = (np.log1p(np.e) / np.log(2)) ** 4
    np.testing.assert_allclose(largest, 12.89, atol=0.02)
    assert np.all(attention.max((2, 3)) <= 1.001 * largest * attention.min((2, 3)))


def test_the_place_of_a_part_does_not_move_with_the_scale_of_its_weights():
    rng = np.random.default_rng(1)
    feature_map, weights = rng.uniform(size=(4, 6, 6, 8)), rng.uniform(size=(4, 3, 8))
    at = [peak_positions(part_response(jnp.asarray(feature_map), scale * weights)) for scale in (0.1, 1, 3)]
    np.testing.assert_array_equal(at[0], at[1])
    np.testing.assert_array_equal(at[1], at[2])
    summed = np.einsum("bhwd,bnd->bnhw", feature_map, weights).reshape(4, 3, 36)
    np.testing.assert_array_equal(at[1][..., 0] * 6 + at[1][..., 1], summed.argmax(-1))


def test_golden_values_of_the_distance():
    two = deltas((0, 0), mass=0.5) + deltas((0, 3), mass=0.5)
    np.testing.assert_allclose(part_distance(two), [4.5])
    np.testing.assert_allclose(part_distance(deltas((2, 1), (3, 3))), [0, 0])
    np.testing.assert_allclose(part_distance(2 * two), [9])
    np.testing.assert_array_equal(peak_positions(two), [[0, 0]])


def test_the_gradient_of_the_distance_is_the_squared_distance_to_the_peak():
    maps = np.full((1, 3, 4), 0.1, np.float32)
    maps[0, 1, 2] = 1
    found = jax.grad(lambda m: part_distance(m).sum())(jnp.asarray(maps))
    np.testing.assert_array_equal(found[0], [[5, 2, 1, 2], [4, 1, 0, 1], [5, 2, 1, 2]])


def test_the_target_form_is_0_for_its_own_bump():
    squared = (np.arange(5)[:, None] - 2) ** 2 + (np.arange(5) - 1) ** 2
    bump = np.float32(1 / (1 + squared))
    np.testing.assert_allclose(bump[2, 1:4], [1, 0.5, 0.2])
    np.testing.assert_allclose(part_target_distance(7 * bump[None]), [0], atol=1e-6)
    np.testing.assert_allclose(part_target_distance(deltas((0, 0), side=2)), [(0.25 + 0.25 + 1 / 9) / 2])
    gradient = jax.grad(lambda m: part_target_distance(m).sum())(jnp.zeros((2, 3, 3)))
    assert np.all(np.isfinite(gradient))


def test_golden_values_of_the_diversity():
    apart, same = deltas((0, 0), (3, 3)), deltas((1, 1), (1, 1))
    np.testing.assert_allclose(part_diversity(apart).sum(), -0.04, atol=1e-7)
    np.testing.assert_allclose(part_diversity(same).sum(), 1.96, rtol=1e-6)
    uniform = np.full((4, 28, 28), 1 / 784, np.float32)
    np.testing.assert_allclose(part_diversity(uniform).sum(), -0.074898, atol=1e-6)
    np.testing.assert_allclose(part_diversity(apart, margin=0.5), [-0.5, -0.5])
    np.testing.assert_allclose(part_diversity(apart[:1]), [-0.02], rtol=1e-6)


def test_the_diversity_has_gradients_through_both_factors():
    maps = jnp.asarray(deltas((0, 0), (0, 0), (1, 1), side=2)) * jnp.array([3.0, 2, 1])[:, None, None]
    gradient = jax.grad(lambda m: part_diversity(m, margin=0.0).sum())(maps)
    # At (0, 0) the others' largest is 2, 3 and 3: map 0 for the maps 1 and 2, map 1 for the map 0.
    np.testing.assert_allclose(gradient[:, 0, 0], [2 + 2 + 0, 3 + 3, 3])


def test_a_batch_is_its_examples_and_shapes_must_agree():
    maps = np.random.default_rng(2).uniform(size=(3, 4, 5, 5)).astype(np.float32)
    for loss in (part_distance, part_target_distance, part_diversity):
        whole = jax.jit(loss)(maps)
        assert whole.shape == (3, 4)
        np.testing.assert_allclose(whole[1], loss(maps[1]), rtol=1e-5)
    with pytest.raises(ValueError, match=r"weights \[B, N, D\]; got \(3, 5, 5, 4\) and \(3, 2, 5\)"):
        part_attention(np.zeros((3, 5, 5, 4)), np.zeros((3, 2, 5)))
