"""AugMix: the mixture by its equation, and each change by hand."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from imgcls_jax.data import augmix

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
IMAGE = Image.fromarray(PIXELS)


def mixed(seed=3, **arguments):
    return np.asarray(augmix.augmix(**arguments)(IMAGE, np.random.default_rng(seed)))


def test_the_mixture_is_the_papers(monkeypatch):
    """With inversion as the only change: one makes (1 - m) x + m (255 - x), two make x again."""
    monkeypatch.setattr(augmix, "CHANGES", (lambda image, strength, sign: ImageOps.invert(image),))
    rng = np.random.default_rng(3)
    rng.dirichlet([0.5] * 4)
    share = rng.beta(0.5, 0.5)
    expected = (1 - share) * PIXELS + share * (255.0 - PIXELS)
    np.testing.assert_allclose(mixed(width=4, depth=1, alpha=0.5), expected, atol=0.51)
    np.testing.assert_array_equal(mixed(width=4, depth=2, alpha=0.5), PIXELS)


def test_chains_have_one_to_three_changes_no_stronger_than_the_severity(monkeypatch):
    seen = []

    def change(image, strength, sign):
        seen.append((strength, sign))
        return image

    monkeypatch.setattr(augmix, "CHANGES", (change,))
    lengths = []
    for seed in range(200):
        before = len(seen)
        np.testing.assert_array_equal(mixed(seed, width=1, severity=5), PIXELS)
        lengths.append(len(seen) - before)
    assert np.bincount(lengths)[1:] == pytest.approx([67, 67, 67], abs=22)
    strengths, signs = np.array(seen).T
    assert 0.01 <= strengths.min() < 0.03 and 0.47 < strengths.max() <= 0.5
    assert set(signs) == {-1, 1} and abs(signs.mean()) < 0.15


def test_translations_by_hand():
    """A third of 12 columns and of 9 rows, half of it: 2 columns and 1 row, to the left and downwards."""
    moved = np.asarray(augmix.translate_x(IMAGE, 0.5, 1.0))
    np.testing.assert_array_equal(moved, np.pad(PIXELS[:, 2:], ((0, 0), (0, 2), (0, 0))))
    moved = np.asarray(augmix.translate_y(IMAGE, 0.5, -1.0))
    np.testing.assert_array_equal(moved, np.pad(PIXELS[:-1], ((1, 0), (0, 0), (0, 0))))


def test_values_by_hand():
    """Strength 0.3 leaves 4 - 1 bits, and inverts from 256 - 76 on."""
    np.testing.assert_array_equal(augmix.posterize(IMAGE, 0.3, 1.0), PIXELS & 0b11100000)
    expected = np.where(PIXELS >= 180, 255 - PIXELS, PIXELS)
    np.testing.assert_array_equal(augmix.solarize(IMAGE, 0.3, 1.0), expected)


def test_shears_and_rotation_by_symmetry():
    """What is the same in a row stays so under a shear along it; less than a degree is no rotation."""
    rows = np.repeat(PIXELS[:, :1], 30, axis=1)
    for sign in (1.0, -1.0):
        sheared = np.asarray(augmix.shear_x(Image.fromarray(rows), 1.0, sign))
        np.testing.assert_array_equal(sheared[:, 5:-5], rows[:, 5:-5])
        sheared = np.asarray(augmix.shear_y(Image.fromarray(rows.swapaxes(0, 1)), 1.0, sign))
        np.testing.assert_array_equal(sheared[5:-5], rows.swapaxes(0, 1)[5:-5])
    assert (sheared != rows.swapaxes(0, 1)).any()
    np.testing.assert_array_equal(augmix.rotate(IMAGE, 0.03, 1.0), PIXELS)


def test_gray_images_and_the_generator():
    gray = IMAGE.convert("L")
    op = augmix.augmix()
    assert op(gray, np.random.default_rng(0)).mode == "L"
    np.testing.assert_array_equal(mixed(1), mixed(1))
    assert (mixed(1) != mixed(2)).any()
