"""RandAugment: each change against numpy or Pillow, and the laws of device operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from imgcls_jax.data.rand_augment import (
    INVERT,
    SOLARIZE_ADD,
    TIMM_OUTSIDE,
    Change,
    apply_changes,
    apply_fixmatch,
    apply_timm,
    rand_augment,
)

QUICK = {"xla_backend_optimization_level": 0}
LEVEL = 1 / 255
quick = jax.jit(apply_changes, compiler_options=QUICK)
SIDES = 15, 12


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """uint8 [15, 12, 3], smooth, so that the histogram has gaps."""
    small = np.random.default_rng(0).integers(20, 200, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(SIDES[::-1], Image.Resampling.BILINEAR))


def changed(pixels: np.ndarray, kind: Change, strength: float, sign: float = 1.0) -> np.ndarray:
    """One change of one image, with 14 others beside it that are changed in the other ways."""
    images = np.repeat(pixels[None].astype(np.float32) / 255, len(Change) + 1, axis=0)
    kinds = np.array([kind, *Change])
    return np.asarray(
        quick(images, kinds, np.full(len(kinds), strength, np.float32), np.full(len(kinds), sign, np.float32))
    )[0]


@pytest.mark.parametrize("kind", [kind for kind in Change if kind < Change.SOLARIZE])
def test_no_magnitude_is_no_change(pixels, kind):
    np.testing.assert_allclose(changed(pixels, kind, 0.0), pixels * np.float32(LEVEL), atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_enhancements_are_pillows(pixels, sign):
    image, factor = Image.fromarray(pixels), 1 + 0.9 * 0.5 * sign
    for kind, enhance in (
        (Change.BRIGHTNESS, ImageEnhance.Brightness),
        (Change.SATURATION, ImageEnhance.Color),
        (Change.CONTRAST, ImageEnhance.Contrast),
        (Change.SHARPNESS, ImageEnhance.Sharpness),
    ):
        expected = np.asarray(enhance(image).enhance(factor)) / 255
        np.testing.assert_allclose(
            changed(pixels, kind, 0.5, sign), expected, atol=2.1 * LEVEL, err_msg=kind.name
        )


def test_tables_are_pillows(pixels):
    image = Image.fromarray(pixels)
    for kind, strength, expected in (
        (Change.POSTERIZE, 1.0, ImageOps.posterize(image, 4)),
        (Change.POSTERIZE, 0.3, ImageOps.posterize(image, 7)),
        (Change.SOLARIZE, 0.6, ImageOps.solarize(image, 102)),
        (Change.AUTOCONTRAST, 0.3, ImageOps.autocontrast(image)),
    ):
        atol = LEVEL if kind is Change.AUTOCONTRAST else 1e-6
        np.testing.assert_allclose(changed(pixels, kind, strength), np.asarray(expected) / 255, atol=atol)


@pytest.mark.parametrize("channels", [1, 3])
def test_equalize_is_pillows(channels):
    rng = np.random.default_rng(1)
    skewed = (255 * rng.beta(2, 5, (40, 50, channels))).astype(np.uint8)
    few = np.repeat(skewed[:4, :5], 2, axis=0)  # 40 pixels: too few for 255 steps, so it stays
    for pixels in (skewed, few):
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        expected = np.asarray(ImageOps.equalize(image)).reshape(pixels.shape) / 255
        images = jnp.asarray(pixels, jnp.float32)[None] / 255
        result = quick(images, jnp.array([Change.EQUALIZE]), jnp.ones(1), jnp.ones(1))
        np.testing.assert_allclose(result[0], expected, atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_geometry_by_a_loop(pixels, sign):
    height, width = SIDES
    strength, image = 0.8, pixels / 255
    angle, shear = np.radians(30 * strength * sign), 0.3 * strength * sign
    down, across = int(150 / 331 * height * strength) * sign, int(150 / 331 * width * strength) * sign
    center = (height - 1) / 2, (width - 1) / 2
    sources = {
        Change.SHEAR_X: lambda y, x: (y, x + shear * (y + 0.5)),
        Change.SHEAR_Y: lambda y, x: (y + shear * (x + 0.5), x),
        Change.TRANSLATE_X: lambda y, x: (y, x - across),
        Change.TRANSLATE_Y: lambda y, x: (y - down, x),
        Change.ROTATE: lambda y, x: (
            center[0] + np.cos(angle) * (y - center[0]) + np.sin(angle) * (x - center[1]),
            center[1] + np.cos(angle) * (x - center[1]) - np.sin(angle) * (y - center[0]),
        ),
    }
    for kind, source in sources.items():
        expected = np.zeros_like(image)
        for y, x in np.ndindex(height, width):
            row, column = (round(at) for at in source(y, x))
            if 0 <= row < height and 0 <= column < width:
                expected[y, x] = image[row, column]
        assert (expected == 0).all(axis=-1).any()
        np.testing.assert_allclose(
            changed(pixels, kind, strength, sign), expected, atol=1e-6, err_msg=kind.name
        )


# ---- FixMatch's levels


def by_fixmatch(pixels, kind, level, sign=1.0, times=1):
    """FixMatch's change of one image, once or more; its pixels and their alpha."""
    images = np.concatenate([pixels / 255, np.ones((*pixels.shape[:2], 1))], axis=-1)[None].astype(np.float32)
    for _ in range(times):
        images = apply_fixmatch(
            jnp.asarray(images), jnp.array([kind]), jnp.float32([level / 10]), jnp.float32([sign])
        )
    return np.asarray(images[0, ..., :-1]), np.asarray(images[0, ..., -1])


@pytest.mark.parametrize("level", range(1, 10))
def test_fixmatch_levels_are_the_authors_through_pillow(pixels, level):
    image = Image.fromarray(pixels).convert("RGBA")
    affine = lambda *matrix: image.transform(image.size, Image.Transform.AFFINE, matrix)  # noqa: E731
    enhance = level * 1.8 / 10 + 0.1
    for kind, expected in (
        (Change.TRANSLATE_X, affine(1, 0, -level, 0, 1, 0)),
        (Change.TRANSLATE_Y, affine(1, 0, 0, 0, 1, -level)),
        (Change.SHEAR_X, affine(1, level * 0.3 / 10, 0, 0, 1, 0)),
        (Change.SHEAR_Y, affine(1, 0, 0, level * 0.3 / 10, 1, 0)),
        (Change.POSTERIZE, ImageOps.posterize(image.convert("RGB"), 4 - int(level * 4 / 10)).convert("RGBA")),
        (
            Change.SOLARIZE,
            ImageOps.solarize(image.convert("RGB"), 256 - int(level * 256 / 10)).convert("RGBA"),
        ),
        (Change.BRIGHTNESS, ImageEnhance.Brightness(image).enhance(enhance)),
        (Change.SATURATION, ImageEnhance.Color(image).enhance(enhance)),
        (Change.CONTRAST, ImageEnhance.Contrast(image).enhance(enhance)),
    ):
        expected = np.asarray(expected) / 255
        color, alpha = by_fixmatch(pixels, kind, level)
        off = np.abs(color - expected[..., :3]).max(axis=-1) > 2.1 * LEVEL
        assert off.mean() < 0.04, (kind.name, level)  # a shear meets half a pixel in one row or column
        assert (alpha != expected[..., 3]).mean() < 0.04, (kind.name, level)


def test_what_comes_from_outside_is_gray_at_the_end_unless_a_change_forgets_it(pixels):
    moved, alpha = by_fixmatch(pixels, Change.TRANSLATE_X, 9)
    assert (alpha[:, :9] == 0).all() and (alpha[:, 9:] == 1).all() and (moved[:, :9] == 0).all()
    op = rand_augment(2, 9, 1.0, "fixmatch")
    images = jnp.ones((64, 32, 32, 3))
    changed = np.asarray(op(jax.random.key(0), images))
    corners = changed[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert {0.5, 0.0, 1.0} <= set(np.unique(corners))
    assert changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 1


def test_fixmatch_draws_whole_levels(monkeypatch):
    ((_, strengths, _),) = draws(monkeypatch, 900, num_ops=1, magnitude=None, p=0.5, levels="fixmatch")
    levels = np.round(strengths * 10, 5)
    assert sorted(set(levels)) == list(range(1, 10))
    with pytest.raises(ValueError, match=r"magnitude must lie in \[0, 10\] for the levels of fixmatch"):
        rand_augment(magnitude=11, levels="fixmatch")
    with pytest.raises(ValueError, match="levels must be one of torchvision, fixmatch, timm, got 'tim'"):
        rand_augment(levels="tim")


# ---- timm's levels


@pytest.mark.parametrize("level", [0, 3, 7, 9, 10])
def test_timm_levels_are_timms_through_pillow(pixels, level):
    image, fill = Image.fromarray(pixels), tuple(round(255 * value) for value in TIMM_OUTSIDE)
    affine = lambda *matrix: image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=fill)  # noqa: E731
    height, width = SIDES
    bits = 4 + int(0.4 * level)
    added = [min(255, i + int(11 * level)) if i < 128 else i for i in range(256)]
    for sign in (1, -1):
        factor, shear, share = max(0.1, 1 + 0.09 * level * sign), 0.03 * level * sign, 0.045 * level * sign
        for kind, expected in (
            (Change.SHEAR_X, affine(1, shear, 0, 0, 1, 0)),
            (Change.SHEAR_Y, affine(1, 0, 0, shear, 1, 0)),
            (Change.TRANSLATE_X, affine(1, 0, -share * width, 0, 1, 0)),
            (Change.TRANSLATE_Y, affine(1, 0, 0, 0, 1, -share * height)),
            (Change.ROTATE, image.rotate(3 * level * sign, fillcolor=fill)),
            (Change.BRIGHTNESS, ImageEnhance.Brightness(image).enhance(factor)),
            (Change.SATURATION, ImageEnhance.Color(image).enhance(factor)),
            (Change.CONTRAST, ImageEnhance.Contrast(image).enhance(factor)),
            (Change.SHARPNESS, ImageEnhance.Sharpness(image).enhance(factor)),
            (Change.POSTERIZE, image.point([i >> bits << bits for i in range(256)] * 3)),
            (Change.SOLARIZE, ImageOps.solarize(image, 256 - int(25.6 * level))),
            (SOLARIZE_ADD, image.point(added * 3)),
            (INVERT, ImageOps.invert(image)),
        ):
            images = jnp.asarray(pixels[None] / 255, jnp.float32)
            found = apply_timm(images, jnp.array([kind]), jnp.float32([level / 10]), jnp.float32([sign]))[0]
            off = np.abs(found - np.asarray(expected) / 255).max(axis=-1) > 2.1 * LEVEL
            assert off.mean() < 0.04, (kind, level, sign)  # where a pixel lies halfway between two


def test_timm_draws_fifteen_changes_and_a_level_about_its_own(monkeypatch):
    arguments = dict(num_ops=1, magnitude=9, levels="timm", spread=0.5)
    ((kinds, strengths, _),) = draws(monkeypatch, 15000, **arguments)
    counts = np.bincount(kinds, minlength=16)
    assert counts[Change.IDENTITY] == 0 and counts[1:].min() > 880 and counts[1:].max() < 1120
    assert strengths.mean() == pytest.approx(0.9, abs=0.003) and strengths.max() == 1  # clipped
    assert np.std(strengths) == pytest.approx(0.05, abs=0.003)
    with pytest.raises(ValueError, match=r"spread lies in \[0, 10\] and goes with a magnitude, got 0.5 and"):
        rand_augment(magnitude=None, levels="timm", spread=0.5)


# ---- laws


def draws(monkeypatch, count: int, **arguments) -> list[tuple[np.ndarray, ...]]:
    """The (kinds, strengths, signs) of each layer."""
    from imgcls_jax.data import rand_augment as module

    recorded = []

    def record(images, *numbers):
        recorded.append(tuple(np.asarray(number) for number in numbers))
        return images

    monkeypatch.setattr(module, "apply_changes", record)
    monkeypatch.setattr(module, "apply_fixmatch", record)
    monkeypatch.setattr(module, "apply_timm", record)
    rand_augment(**arguments)(jax.random.key(0), np.zeros((count, 2, 2, 1), np.float32))
    return recorded


def test_each_change_is_drawn_equally_often_and_independently(monkeypatch):
    first, second = draws(monkeypatch, 14000)
    for kinds, strengths, signs in (first, second):
        counts = np.bincount(kinds, minlength=14)
        assert counts.min() > 880 and counts.max() < 1120  # 1000 each, standard deviation 30
        np.testing.assert_allclose(strengths, 0.3, rtol=1e-6)
        assert set(signs) == {-1, 1} and abs(signs.mean()) < 0.04
    assert (first[0] == second[0]).mean() == pytest.approx(1 / 14, abs=0.01)


def test_fixmatch_draws_the_magnitude_and_leaves_out_half(monkeypatch):
    ((kinds, strengths, _),) = draws(monkeypatch, 4000, num_ops=1, magnitude=None, p=0.5)
    assert 0 <= strengths.min() < 0.01 and 0.99 < strengths.max() <= 1
    assert strengths.mean() == pytest.approx(0.5, abs=0.02)
    assert (kinds == Change.IDENTITY).mean() == pytest.approx(0.5 + 0.5 / 14, abs=0.03)


def test_laws():
    images = np.random.default_rng(0).random((16, 9, 8, 3), dtype=np.float32)
    op = jax.jit(rand_augment(2, None), compiler_options=QUICK)
    result = np.asarray(op(jax.random.key(1), images))
    assert result.shape == images.shape and result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 1
    np.testing.assert_array_equal(result, op(jax.random.key(1), images))
    assert (result != op(jax.random.key(2), images)).any()
    others = np.concatenate([images[:8], 1 - images[8:]])
    np.testing.assert_array_equal(result[:8], op(jax.random.key(1), others)[:8])
    np.testing.assert_allclose(result[:4], op(jax.random.key(1), images[:4]), atol=1e-6)
    repeated = np.asarray(op(jax.random.key(1), np.repeat(images[:1], 16, axis=0)))
    assert len({image.tobytes() for image in repeated}) > 8
    untouched = jax.jit(rand_augment(2, None, 0.0), compiler_options=QUICK)(jax.random.key(1), images)
    np.testing.assert_array_equal(untouched, images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_ops": 0}, "num_ops must be a whole number, at least 1, got 0"),
        ({"magnitude": 31}, r"must lie in \[0, 30\] for the levels of torchvision, or be None, got 31"),
        ({"p": -0.5}, r"p is a probability, in \[0, 1\], got -0.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        rand_augment(**arguments)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"needs gray or RGB images .* got \(2, 4, 4, 2\)"):
        jax.eval_shape(rand_augment().function, jax.random.key(0), jnp.zeros((2, 4, 4, 2)))
