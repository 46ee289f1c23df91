"""TrivialAugment and AutoAugment: the tables, what is drawn, and the wide ranges."""

import jax
import numpy as np
import pytest
from PIL import Image

from imgcls_jax.data import auto_augment as module
from imgcls_jax.data.auto_augment import POLICIES, auto_augment, read_policy, trivial_augment
from imgcls_jax.data.rand_augment import WIDE_RANGES, Change, apply_changes

QUICK = {"xla_backend_optimization_level": 0}


def draws(monkeypatch, op, count: int) -> list[tuple[np.ndarray, ...]]:
    """The (kinds, strengths, signs) of each layer for so many images."""
    recorded = []

    def record(images, *numbers):
        recorded.append(tuple(np.asarray(number) for number in numbers[:3]))
        return images

    monkeypatch.setattr(module, "apply_changes", record)
    op(jax.random.key(0), np.zeros((count, 2, 2, 1), np.float32))
    return recorded


def test_policies_of_the_paper():
    """Rows and counts of its tables; an inversion is to solarize from 0 on."""
    tables = {name: read_policy(table) for name, table in POLICIES.items()}
    assert all(table.shape == (25, 2, 3) for table in tables.values())
    assert tables["imagenet"][0].tolist() == [
        [Change.POSTERIZE, np.float32(0.4), np.float32(8 / 9)],
        [Change.ROTATE, np.float32(0.6), 1],
    ]
    assert tables["svhn"][0, 1].tolist() == [Change.SOLARIZE, np.float32(0.2), 1]
    assert tables["cifar10"][24, 0].tolist() == [Change.TRANSLATE_Y, np.float32(0.7), 1]
    counts = {
        name: np.bincount(table[..., 0].astype(int).ravel(), minlength=14) for name, table in tables.items()
    }
    assert counts["imagenet"][Change.EQUALIZE] == 17 and counts["cifar10"][Change.EQUALIZE] == 9
    assert counts["svhn"][Change.SHEAR_Y] == 8
    assert not counts["imagenet"][[Change.TRANSLATE_X, Change.TRANSLATE_Y, Change.BRIGHTNESS]].any()


def test_auto_augment_draws_a_pair_and_then_each_change_by_its_probability(monkeypatch):
    monkeypatch.setitem(POLICIES, "svhn", "shear_x 1.0 9, invert 0.25\nrotate 0.5 3, shear_y 0.0 6")
    (first, strengths, signs), (second, _, _) = draws(monkeypatch, auto_augment("svhn"), 4000)
    shares = [(first == kind).mean() for kind in (Change.SHEAR_X, Change.ROTATE, Change.IDENTITY)]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.03)
    assert set(second[first == Change.SHEAR_X]) == {Change.IDENTITY, Change.SOLARIZE}
    assert (second[first == Change.SHEAR_X] == Change.SOLARIZE).mean() == pytest.approx(0.25, abs=0.03)
    assert set(second[first == Change.ROTATE]) == {Change.IDENTITY}
    np.testing.assert_allclose(strengths[first == Change.ROTATE], 1 / 3, rtol=1e-6)
    assert abs(signs.mean()) < 0.06


def test_trivial_augment_draws_one_change_and_one_of_31_levels(monkeypatch):
    ((kinds, strengths, _),) = draws(monkeypatch, trivial_augment(), 14000)
    counts = np.bincount(kinds, minlength=14)
    assert counts.min() > 880 and counts.max() < 1120  # 1000 each, standard deviation 30
    assert len(np.unique(np.round(strengths * 30, 4))) == 31 and strengths.max() == 1


@pytest.mark.parametrize("op", [trivial_augment(), auto_augment("imagenet")])
def test_draws_do_not_depend_on_the_other_images(monkeypatch, op):
    for many, few in zip(draws(monkeypatch, op, 40), draws(monkeypatch, op, 10), strict=True):
        for one, other in zip(many, few, strict=True):
            np.testing.assert_array_equal(one[:10], other)


def test_the_widest_changes_by_hand():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    kinds = (Change.TRANSLATE_X, Change.POSTERIZE, Change.BRIGHTNESS, Change.ROTATE, Change.SOLARIZE)
    images = np.repeat(pixels[None] / np.float32(255), len(kinds), axis=0)
    apply = jax.jit(lambda *numbers: apply_changes(*numbers, WIDE_RANGES), compiler_options=QUICK)
    moved, bits, dark, turned, inverted = np.round(
        255 * np.asarray(apply(images, np.array(kinds), np.ones(5, np.float32), np.ones(5, np.float32)))
    )
    np.testing.assert_array_equal(moved[:, 32:], pixels[:, :8])
    assert not moved[:, :32].any()
    np.testing.assert_array_equal(bits, pixels & 0b11000000)
    np.testing.assert_array_equal(dark, np.minimum(255, np.round(1.99 * pixels)))
    np.testing.assert_array_equal(inverted, 255 - pixels)
    rotated = np.asarray(Image.fromarray(pixels).rotate(135))
    assert (turned == rotated).all(axis=-1).mean() > 0.97  # a half may be rounded the other way


def test_bad_arguments():
    with pytest.raises(ValueError, match="policy must be one of imagenet, cifar10, svhn, got 'cifar'"):
        auto_augment("cifar")
    with pytest.raises(ValueError, match="trivial_augment needs gray or RGB images"):
        trivial_augment()(jax.random.key(0), np.zeros((2, 4, 4, 2), np.float32))
