"""Device operations: golden values, references in numpy, and the laws that every operation keeps."""

import colorsys
import itertools
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from imgcls_jax.data import augment, blurring, erasing, geometric, photometric
from imgcls_jax.data.device_operation import DeviceOp
from imgcls_jax.data.photometric import BRIGHTNESS, CONTRAST, HUE, SATURATION

QUICK = {"xla_backend_optimization_level": 0}  # the compiler's time is nearly all that these tests need
PIXELS = np.array([[[1, 0.5, 0], [0, 0, 1]]], np.float32)  # [H=1, W=2, C]
NOISE = erasing.random_erasing(p=0.8, fill="noise")
OPS = (
    geometric.flip(),
    geometric.vertical_flip(),
    geometric.pad_and_crop(2),
    geometric.pad_and_crop(2, "reflect"),
    geometric.rotate(20),
    geometric.rotate(20, "bilinear"),
    geometric.affine(10, translate=0.2, scale=(0.8, 1.2)),
    photometric.color_jitter(0.4, 0.4, 0.4, 0.1, p=0.8),
    photometric.grayscale(0.5),
    photometric.solarize(0.5, p=0.5),
    photometric.gaussian_blur(),
    photometric.three_augment(),
    blurring.motion_blur(5),
    blurring.median_blur(),
    erasing.cutout(3),
    erasing.random_erasing(),
    NOISE,
    geometric.optical_distortion(),
    geometric.resized_crop(),
    geometric.upsample(12),
    photometric.normalize((0.5, 0.4, 0.3), 0.25),
)
RANDOM = tuple(op for op in OPS if op.random)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((16, 9, 8, 3), dtype=np.float32)


@partial(jax.jit, compiler_options=QUICK)
def run_all(rng: jax.Array, images: jax.Array) -> list[jax.Array]:
    return [op(rng, images) for op in OPS]


def run_random(images: np.ndarray) -> list[np.ndarray]:
    results = run_all(jax.random.key(1), images)
    return [np.asarray(result) for op, result in zip(OPS, results, strict=True) if op.random]


def one(op: DeviceOp, images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(op, compiler_options=QUICK)(jax.random.key(0, impl="unsafe_rbg"), images))


quick_warp = jax.jit(geometric.warp, static_argnames="order", compiler_options=QUICK)
quick_jitter = jax.jit(photometric.jitter, static_argnames="like", compiler_options=QUICK)


# ---- laws


def test_jit_equals_eager(images):
    rng = jax.random.key(1)
    for op, jitted in zip(OPS, run_all(rng, images), strict=True):
        if op.name in ("flip", "rotate", "color_jitter", "normalize"):  # eager, all take half a minute
            np.testing.assert_allclose(jitted, op(rng, images), atol=1e-5, err_msg=op.name)


def test_shapes_and_dtypes(images):
    for op in OPS:
        result = jax.eval_shape(op.function, jax.random.key(0), images)
        sides = (12, 12) if op.name == "upsample" else images.shape[1:3]
        assert result.dtype == jnp.float32 and result.shape == (16, *sides, 3), op.name


def test_values_stay_in_the_unit_range(images):
    for op, result in zip(RANDOM, run_random(images), strict=True):
        if op is not NOISE:
            assert result.min() >= -1e-6 and result.max() <= 1 + 1e-6, op.name


def test_every_image_has_its_own_draw(images):
    for op, result in zip(RANDOM, run_random(np.repeat(images[:1], 16, axis=0)), strict=True):
        different = {image.tobytes() for image in result}
        switches = ("flip", "vertical_flip", "grayscale", "solarize", "median_blur")
        assert len(different) == 2 if op.name in switches else len(different) > 5, op.name


def test_an_image_does_not_depend_on_the_others(images):
    changed = images.copy()
    changed[8:] = 1 - changed[8:]
    results = zip(RANDOM, run_random(images), run_random(changed), strict=True)
    for op, before, after in results:
        np.testing.assert_array_equal(before[:8], after[:8], err_msg=op.name)
        assert (before[8:] != after[8:]).any(), op.name


def test_draws_do_not_depend_on_the_batch_size(images):
    for op, whole in zip(RANDOM, run_random(images), strict=True):
        if op.name in ("pad_and_crop", "random_erasing"):
            part = jax.jit(op, compiler_options=QUICK)(jax.random.key(1), images[:4])
            np.testing.assert_allclose(whole[:4], part, atol=1e-6, err_msg=op.name)


def test_the_key_decides(images):
    again, other = run_all(jax.random.key(1), images), run_all(jax.random.key(2), images)
    for op, a, b, c in zip(OPS, run_all(jax.random.key(1), images), again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any() == op.random, op.name


def test_one_trace_for_all_keys_and_batches():
    traces = []

    def count(rng, images):
        traces.append(images.shape)
        return images

    ops = (geometric.flip(), DeviceOp("count", count, random=False), photometric.normalize(0.5, 0.5))
    step = jax.jit(augment.compose(ops))
    for seed in range(3):
        step(jax.random.key(seed), {"image": np.full((2, 4, 4, 3), seed, np.uint8)})
    assert traces == [(2, 4, 4, 3)]


def test_the_result_is_the_same_on_four_devices():
    program = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from imgcls_jax.data import augment as a
from imgcls_jax.data.geometric import pad_and_crop, rotate
from imgcls_jax.data.photometric import color_jitter
ops = [rotate(20), pad_and_crop(2), color_jitter(.4, .4, .4)]
step = jax.jit(a.compose(ops), compiler_options={"xla_backend_optimization_level": 0})
images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
sharding = NamedSharding(jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data"))
whole = step(jax.random.key(0), {"image": images})["image"]
split = step(jax.random.key(0), {"image": jax.device_put(images, sharding)})["image"]
assert len(split.sharding.device_set) == 4 and len(whole.sharding.device_set) == 1
np.testing.assert_allclose(whole, split, atol=1e-6)
assert abs(np.asarray(whole) - images / 255.0).max() > 0.1
"""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- compose


def test_compose_scales_once_and_leaves_the_rest():
    batch = {"image": np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3), "label": np.array([7])}
    result = augment.compose(())(jax.random.key(0), batch)
    np.testing.assert_allclose(result["image"], batch["image"] / 255, rtol=1e-6)
    assert result["image"].dtype == jnp.float32 and result["label"] is batch["label"]
    assert batch["image"].dtype == np.uint8


def test_compose_gives_each_operation_its_own_key():
    image = np.arange(2, dtype=np.uint8).reshape(1, 1, 2, 1) * 255
    batch = {"image": np.repeat(image, 256, axis=0)}
    result = augment.compose((geometric.flip(), geometric.flip()))(jax.random.key(0), batch)["image"]
    flipped = np.asarray(result)[:, 0, 0, 0].mean()
    assert 0.35 < flipped < 0.65  # with one key for both it would be 0


@pytest.mark.parametrize("image", [np.zeros((1, 4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8)])
def test_compose_refuses_other_images(image):
    with pytest.raises(ValueError, match=r"must be uint8 \[B, H, W, C\], got"):
        augment.compose(())(jax.random.key(0), {"image": image})


# ---- geometry


@pytest.mark.parametrize(
    ("factory", "mirrored"), [(geometric.flip, np.s_[:, :, ::-1]), (geometric.vertical_flip, np.s_[:, ::-1])]
)
def test_flips(factory, mirrored):
    images = np.random.default_rng(0).random((400, 2, 3, 1), dtype=np.float32)
    result = one(factory(0.25), images)
    changed = (result != images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(result[changed], images[mirrored][changed])
    assert 0.18 < changed.mean() < 0.32
    np.testing.assert_array_equal(one(factory(1.0), images), images[mirrored])
    np.testing.assert_array_equal(one(factory(0.0), images), images)


def test_alternating_flips_show_both_sides_in_two_epochs():
    images = np.random.default_rng(0).random((400, 2, 3, 1), dtype=np.float32)
    index, op = jnp.arange(400, dtype=jnp.int32), geometric.alternating_flip()
    turned = [
        (op(jax.random.key(epoch), images, index, jnp.full(400, epoch)) != images).any(axis=(1, 2, 3))
        for epoch in range(3)
    ]
    assert 0.4 < turned[0].mean() < 0.6
    np.testing.assert_array_equal(turned[1], ~turned[0])
    np.testing.assert_array_equal(turned[2], turned[0])
    alone = op(jax.random.key(9), images[7:8], index[7:8], jnp.array([0]))
    assert bool((alone != images[7:8]).any()) == turned[0][7], "not of its index alone"


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_pad_and_crop_uses_every_offset(mode):
    image = np.random.default_rng(0).random((4, 3, 2), dtype=np.float32)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode=mode)
    windows = {padded[y : y + 4, x : x + 3].tobytes() for y in range(3) for x in range(3)}
    result = one(geometric.pad_and_crop(1, mode), np.repeat(image[None], 200, axis=0))
    assert {window.tobytes() for window in result} == windows and len(windows) == 9


def test_reflection_does_not_repeat_the_edge():
    row = np.tile(np.array([1, 2, 3], np.float32)[None, None, :, None], (200, 3, 1, 1))
    result = one(geometric.pad_and_crop(2, "reflect"), row)[:, 0, :, 0]
    golden = [3, 2, 1, 2, 3, 2, 1]
    assert {tuple(window) for window in result} == {tuple(golden[i : i + 3]) for i in range(5)}


@pytest.mark.parametrize("order", ["nearest", "bilinear"])
@pytest.mark.parametrize("side", [4, 5])
def test_quarter_turns_are_counter_clockwise(order, side):
    image = np.random.default_rng(0).random((side, side, 3), dtype=np.float32)
    angles = np.array([0, 0.5, 1, -0.5], np.float32) * np.pi
    turned = quick_warp(np.stack([image] * 4), angles, np.zeros((4, 2)), np.ones(4), order=order)
    for turns, result in zip((0, 1, 2, -1), turned, strict=True):
        atol = 0 if order == "nearest" or turns == 0 else 1e-5
        np.testing.assert_allclose(result, np.rot90(image, turns), rtol=0, atol=atol)


@pytest.mark.parametrize("order", ["nearest", "bilinear"])
def test_warp_against_a_loop_in_numpy(order):
    image = np.random.default_rng(0).random((6, 9, 2), dtype=np.float32)
    angle, shift, scale = 0.5, (0.7, -1.2), 0.8
    expected = np.zeros_like(image)
    for y, x in np.ndindex(6, 9):
        down, right = y - 2.5 - shift[0], x - 4 - shift[1]
        row = 2.5 + (np.cos(angle) * down + np.sin(angle) * right) / scale
        column = 4 + (np.cos(angle) * right - np.sin(angle) * down) / scale
        for r, c in np.ndindex(6, 9):
            near = float(round(row) == r and round(column) == c)
            linear = max(0, 1 - abs(row - r)) * max(0, 1 - abs(column - c))
            expected[y, x] += (near if order == "nearest" else linear) * image[r, c]
    assert (expected == 0).all(axis=-1).any() and (expected > 0).all(axis=-1).any()
    arguments = (jnp.array([angle]), jnp.array([shift]), jnp.array([scale]))
    result = quick_warp(image[None], *arguments, order=order)
    np.testing.assert_allclose(result[0], expected, atol=1e-5)


def test_a_shift_moves_down_and_right():
    images = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
    result = quick_warp(images, jnp.zeros(1), jnp.array([[1.0, 2.0]]), jnp.ones(1), order="bilinear")
    np.testing.assert_array_equal(result[0, :, :, 0], [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 4, 5]])


def test_affine_draws_within_its_bounds(monkeypatch):
    drawn = {}

    def record(images, angles, shifts, scales, *, order):
        drawn.update(
            angles=np.degrees(angles), shifts=np.asarray(shifts), scales=np.asarray(scales), order=order
        )
        return images

    monkeypatch.setattr(geometric, "warp", record)
    images = np.zeros((2000, 10, 20, 1), np.float32)
    geometric.affine(30, 0.1, (0.5, 2.0))(jax.random.key(0), images)
    expected = (("angles", -30, 30), ("scales", 0.5, 2))
    for name, low, high in expected:
        span = high - low
        assert low <= drawn[name].min() < low + 0.01 * span and high - 0.01 * span < drawn[name].max() <= high
        assert abs(drawn[name].mean() - (low + high) / 2) < 0.03 * span
    assert drawn["order"] == "bilinear"
    np.testing.assert_allclose(abs(drawn["shifts"]).max(axis=0), [1, 2], rtol=0.01)
    geometric.rotate(20)(jax.random.key(0), images)
    assert drawn["order"] == "nearest" and 19.5 < abs(drawn["angles"]).max() <= 20.0001
    assert (drawn["shifts"] == 0).all() and (drawn["scales"] == 1).all()


def test_enlarged_is_bilinear_and_the_whole_stays():
    image = np.random.default_rng(0).random((8, 12, 2), dtype=np.float32)
    corners, sizes = jnp.array([[0.0, 0], [2, 3], [4, 0]]), jnp.array([[8.0, 12], [4, 6], [4, 6]])
    enlarged = jax.jit(geometric.enlarged, compiler_options=QUICK)
    whole, part, corner = enlarged(np.stack([image] * 3), corners, sizes)
    np.testing.assert_allclose(whole, image, atol=1e-6)
    expected = jax.image.resize(image[2:6, 3:9], (8, 12, 2), "bilinear")
    np.testing.assert_allclose(part[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-6)
    above = 0.75 * image[2] + 0.25 * image[1]  # a quarter of a pixel beyond the part's first row
    np.testing.assert_allclose(part[0, 1:-1:2], (0.75 * above[3:8] + 0.25 * above[4:9]), atol=1e-6)
    expected = jax.image.resize(image[4:, :6], (8, 12, 2), "bilinear")
    np.testing.assert_allclose(corner[1:, :-1], expected[1:, :-1], atol=1e-6)


def boxes_of(monkeypatch, count: int, height: int, width: int, **arguments) -> tuple[np.ndarray, np.ndarray]:
    drawn = {}

    def record(images, corners, sizes):
        drawn.update(corners=np.asarray(corners), sizes=np.asarray(sizes))
        return images

    monkeypatch.setattr(geometric, "enlarged", record)
    geometric.resized_crop(**arguments)(jax.random.key(0), np.zeros((count, height, width, 1), np.float32))
    return drawn["corners"], drawn["sizes"]


def test_resized_crop_draws_within_its_bounds(monkeypatch):
    corners, sizes = boxes_of(monkeypatch, 4000, 40, 50, scale=(0.2, 0.6))
    assert (corners >= 0).all() and (corners + sizes <= [40, 50]).all()
    assert (corners == np.round(corners)).all() and (sizes == np.round(sizes)).all()
    area, ratio = sizes.prod(axis=1) / 2000, sizes[:, 1] / sizes[:, 0]
    assert 0.19 < area.min() < 0.21 and 0.58 < area.max() < 0.62
    assert area.mean() == pytest.approx(0.4, abs=0.01)
    assert 0.7 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.42
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.03)
    share = corners / np.maximum([40, 50] - sizes, 1)
    assert (share.min(axis=0) == 0).all() and (share.max(axis=0) == 1).all()
    np.testing.assert_allclose(share.mean(axis=0), 0.5, atol=0.02)


def test_resized_crop_takes_the_largest_centered_part_where_no_draw_fits(monkeypatch):
    corners, sizes = boxes_of(monkeypatch, 3, 8, 30, scale=(1.0, 1.0))
    np.testing.assert_array_equal(sizes, [[8, 11]] * 3)
    np.testing.assert_array_equal(corners, [[0, 9]] * 3)


def test_optical_distortion_golden(monkeypatch):
    """On 5 x 5 with k = 0.2 a corner is read at -0.8 and the middle of a side at -0.4: at the edge itself."""
    ramp = (10 * np.arange(5.0)[:, None] + np.arange(5.0)).astype(np.float32)[None, :, :, None]
    inward = np.asarray(geometric.bend(ramp, jnp.array([-0.2])))[0, :, :, 0]
    np.testing.assert_allclose(inward[[0, 0, 1, 2], [0, 2, 1, 2]], [8.8, 6, 12.1, 22], rtol=1e-5)
    outward = np.asarray(geometric.bend(ramp, jnp.array([0.2])))[0, :, :, 0]
    np.testing.assert_allclose(outward[[0, 0, 1], [0, 2, 1]], [0, 2, 9.9], atol=1e-5)
    read = lambda images, rows, columns: (rows, columns)  # noqa: E731
    monkeypatch.setattr(geometric, "read_between", read)
    rows, columns = geometric.bend(ramp, jnp.array([0.2]))
    np.testing.assert_allclose(rows[0, [0, 0, 4], [0, 2, 4]], [-0.8, -0.4, 4.8], rtol=1e-5)
    np.testing.assert_allclose(columns[0, [0, 0, 4], [0, 2, 4]], [-0.8, 2, 4.8], rtol=1e-5)


def test_upsample_golden():
    images = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    golden = [[3.5714, 5.1429], [9.8571, 11.4286]]
    np.testing.assert_allclose(one(geometric.upsample(2), images)[0, :, :, 0], golden, atol=1e-4)
    row = one(geometric.upsample(4), np.array([[[[0.0], [1.0]], [[0.0], [1.0]]]], np.float32))[0, 1, :, 0]
    np.testing.assert_allclose(row, [0, 0.25, 0.75, 1], atol=1e-6)


# ---- color


def jitter_one(image: np.ndarray, factors: tuple, shift: float, order: tuple = (0, 1, 2, 3)) -> np.ndarray:
    arrays = (jnp.array([factors], jnp.float32), jnp.array([shift], jnp.float32), jnp.array([order]))
    return np.asarray(quick_jitter(image[None], *arrays))[0]


@pytest.mark.parametrize(
    ("factors", "shift", "golden"),
    [
        ((1.5, 1, 1), 0, [[1, 0.75, 0], [0, 0, 1]]),
        ((1, 0.5, 1), 0, [[0.6766, 0.4266, 0.1766], [0.1766, 0.1766, 0.6766]]),
        ((1, 1, 0.5), 0, [[0.7962, 0.5462, 0.2962], [0.0570, 0.0570, 0.5570]]),
        ((1, 1, 1), 0.25, [[0, 1, 0], [1, 0, 0.5]]),
        ((1, 1, 1), 0, PIXELS[0]),
    ],
)
def test_color_golden(factors, shift, golden):
    np.testing.assert_allclose(jitter_one(PIXELS, factors, shift)[0], golden, atol=1e-4)


@pytest.mark.parametrize(
    ("factors", "golden"),
    [
        # Of (0.8, 0.4, 0.2): V = 0.8, S = 0.75. A factor of 1.2 makes S 0.9; 2 would make it 1.5, so 1.
        ((1, 1, 1.2), [[0.8, 0.32, 0.08], [0.5, 0.5, 0.5]]),
        ((1, 1, 2), [[0.8, 0.8 / 3, 0], [0.5, 0.5, 0.5]]),
        ((1, 1, 0), [[0.8, 0.8, 0.8], [0.5, 0.5, 0.5]]),
        # The means of the channels are 0.65, 0.45 and 0.35.
        ((1, 0.5, 1), [[0.725, 0.425, 0.275], [0.575, 0.475, 0.425]]),
    ],
)
def test_contrast_and_saturation_of_tensorflow_golden(factors, golden):
    pixels = np.array([[[0.8, 0.4, 0.2], [0.5, 0.5, 0.5]]], np.float32)
    arrays = jnp.array([factors], jnp.float32), None, jnp.arange(4)[None]
    result = quick_jitter(pixels[None], *arrays, like="tensorflow")
    np.testing.assert_allclose(result[0, 0], golden, atol=1e-6)
    black = quick_jitter(np.zeros((1, 1, 1, 3), np.float32), *arrays, like="tensorflow")
    np.testing.assert_array_equal(black, 0)


def test_neutral_jitter_is_the_identity(images):
    same = jnp.tile(jnp.arange(4), (16, 1))
    np.testing.assert_array_equal(quick_jitter(images, jnp.ones((16, 3)), None, same), images)
    np.testing.assert_allclose(
        quick_jitter(images, jnp.ones((16, 3)), jnp.zeros(16), same), images, atol=1e-6
    )


def reference_change(image: np.ndarray, which: int, amount: float, like: str) -> np.ndarray:
    if which == SATURATION and like == "tensorflow":
        hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3)]
        rgb = [colorsys.hsv_to_rgb(h, min(s * amount, 1), v) for h, s, v in hsv]
        return np.array(rgb).reshape(image.shape)
    if which == CONTRAST and like == "tensorflow":
        means = image.mean(axis=(0, 1))
        return np.clip((image - means) * amount + means, 0, 1)
    if which == HUE:
        hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3)]
        rgb = [colorsys.hsv_to_rgb((h + amount) % 1, s, v) for h, s, v in hsv]
        return np.array(rgb).reshape(image.shape)
    gray = image @ np.array([0.2989, 0.587, 0.114])
    base = {BRIGHTNESS: 0.0, CONTRAST: gray.mean(), SATURATION: gray[..., None]}[which]
    return np.clip(amount * image + (1 - amount) * base, 0, 1)


@pytest.mark.parametrize("like", photometric.LIKE)
def test_jitter_in_all_24_orders(images, like):
    orders = np.array(list(itertools.permutations(range(4))))
    amounts = (1.3, 0.6, 1.4, -0.2)  # brightness, contrast, saturation, hue
    batch = np.repeat(images[:1], 24, axis=0)
    arrays = jnp.tile(jnp.array(amounts[:3]), (24, 1)), jnp.full(24, amounts[3]), jnp.array(orders)
    results = np.asarray(quick_jitter(batch, *arrays, like=like))
    for order, result in zip(orders, results, strict=True):
        expected = images[0].astype(np.float64)
        for which in order:
            expected = reference_change(expected, which, amounts[which], like)
        np.testing.assert_allclose(result, expected, atol=2e-6, err_msg=str(order))
    assert len({np.round(result, 4).tobytes() for result in results}) > 10


def test_color_jitter_draws_within_its_bounds(monkeypatch):
    drawn = {}

    def record(images, factors, shifts, order, like):
        drawn.update(factors=np.asarray(factors), shifts=np.asarray(shifts), order=np.asarray(order))
        return images + 1

    monkeypatch.setattr(photometric, "jitter", record)
    images = np.zeros((4800, 1, 1, 3), np.float32)
    result = photometric.color_jitter(0.4, 1.5, 0.2, 0.1, p=0.8)(jax.random.key(0), images)
    np.testing.assert_allclose(drawn["factors"].min(axis=0), [0.6, 0, 0.8], atol=0.01)
    np.testing.assert_allclose(drawn["factors"].max(axis=0), [1.4, 2.5, 1.2], atol=0.01)
    np.testing.assert_allclose([drawn["shifts"].min(), drawn["shifts"].max()], [-0.1, 0.1], atol=0.001)
    counts = np.unique(drawn["order"], axis=0, return_counts=True)[1]
    assert len(counts) == 24 and counts.min() > 140 and counts.max() < 260  # 200 each, standard deviation 14
    assert 0.77 < result.mean() < 0.83


def test_grayscale_golden():
    gray = one(photometric.grayscale(1.0), PIXELS[None])[0, 0]
    np.testing.assert_allclose(gray, [[0.5924] * 3, [0.1140] * 3], atol=1e-6)
    assert [photometric.grayscale(p).random for p in (0, 0.2, 1)] == [False, True, False]


def test_solarize_golden():
    images = np.array([0, 0.49, 0.5, 1], np.float32).reshape(1, 1, 4, 1)
    np.testing.assert_allclose(
        one(photometric.solarize(0.5, p=1), images)[0, 0, :, 0], [0, 0.49, 0.5, 0], atol=1e-7
    )
    assert [photometric.solarize(p=p).random for p in (0, 0.2, 1)] == [False, True, False]


@pytest.mark.parametrize("border", photometric.BORDERS)
def test_blur_against_numpy(images, border):
    sigmas = np.linspace(0.3, 2, 16)
    mode = "constant" if border == "zeros" else border
    quick_blur = jax.jit(partial(photometric.blur, kernel_size=5, border=border), compiler_options=QUICK)
    result = quick_blur(images, sigmas)
    for image, sigma, blurred in zip(images, sigmas, result, strict=True):
        weights = np.exp(-((np.arange(5) - 2) ** 2) / (2 * sigma**2))
        kernel = np.outer(weights, weights) / weights.sum() ** 2
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=mode)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(0, 1))
        np.testing.assert_allclose(blurred, (windows * kernel).sum(axis=(-1, -2)), atol=1e-5)


def test_smear_is_the_mean_along_a_line(images):
    """Against scipy's linear interpolation, at five points of a line that rises to the right."""
    angle, (height, width) = 0.7, images.shape[1:3]
    y, x = np.mgrid[:height, :width].astype(float)
    points = [(y - t * np.sin(angle), x + t * np.cos(angle)) for t in (-2, -1, 0, 1, 2)]
    read = partial(scipy.ndimage.map_coordinates, order=1, mode="nearest")
    expected = np.mean([read(images[0, :, :, 1], point) for point in points], axis=0)
    smeared = blurring.smear(images[:2], jnp.array([angle, 0.0]), 5)
    np.testing.assert_allclose(smeared[0, :, :, 1], expected, atol=1e-5)
    level = scipy.ndimage.uniform_filter1d(images[1], 5, axis=1, mode="nearest")
    np.testing.assert_allclose(smeared[1], level, atol=1e-5)


@pytest.mark.parametrize("size", [3, 5])
def test_median_blur_is_scipys(images, size):
    expected = scipy.ndimage.median_filter(images[:2], (1, size, size, 1), mode="mirror")
    np.testing.assert_array_equal(one(blurring.median_blur(size, p=1), images[:2]), expected)


def test_three_augment_does_one_of_three_things():
    images = np.random.default_rng(1).random((600, 8, 8, 3), dtype=np.float32)
    result = one(photometric.three_augment(), images)
    gray = (np.ptp(result, axis=-1) == 0).all(axis=(1, 2))
    np.testing.assert_allclose(result[gray][..., 0], images[gray] @ [0.2989, 0.587, 0.114], atol=1e-5)
    inverted = np.isclose(result, np.where(images >= 0.5, 1 - images, images)).all(axis=(1, 2, 3))
    for done in (gray, inverted, ~gray & ~inverted):
        assert done.mean() == pytest.approx(1 / 3, abs=0.06)  # three standard deviations
    # a Gaussian narrower than 2 pixels keeps the mean and lowers the spread of noise
    blurred = ~gray & ~inverted
    np.testing.assert_allclose(result[blurred].mean((1, 2)), images[blurred].mean((1, 2)), atol=0.15)
    assert np.mean(result[blurred].std((1, 2)) < 0.9 * images[blurred].std((1, 2))) > 0.7


@pytest.mark.parametrize(("side", "width"), [(8, 3), (32, 3), (48, 5), (224, 23)])
def test_the_kernel_is_a_tenth_of_the_side(side, width):
    images = np.zeros((1, side, side, 1), np.float32)
    images[0, side // 2, side // 2] = 1
    blurred = one(photometric.gaussian_blur((2.0, 2.0), p=1), images)[0, :, :, 0]
    assert (blurred > 0).sum() == width**2 and blurred.sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "op", [photometric.color_jitter(0.4), photometric.grayscale()], ids=lambda op: op.name
)
def test_color_needs_three_channels(op):
    with pytest.raises(ValueError, match=rf"{op.name} needs RGB images .* got \(2, 4, 4, 1\)"):
        jax.eval_shape(op.function, jax.random.key(0), jnp.zeros((2, 4, 4, 1)))


# ---- erasing and normalization


def holes(op: DeviceOp, count: int, height: int, width: int) -> np.ndarray:
    """bool [count, height, width], where the operation filled images of ones with zeros."""
    result = one(op, np.ones((count, height, width, 2), np.float32))
    assert set(np.unique(result)) <= {0, 1} and (result[..., 0] == result[..., 1]).all()
    return result[..., 0] == 0


def check_rectangles(hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    heights, widths = hole.any(axis=2).sum(axis=1), hole.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(hole.sum(axis=(1, 2)), heights * widths)
    return heights, widths


def test_cutout_is_a_square_clipped_at_the_border():
    hole = holes(erasing.cutout(4), 2000, 10, 12)
    heights, widths = check_rectangles(hole)
    assert set(heights) == set(widths) == {2, 3, 4}
    whole = (heights == 4) & (widths == 4)
    assert hole.mean(axis=0).min() > 0 and whole.mean() == pytest.approx(7 / 10 * 9 / 12, abs=0.05)
    some = holes(erasing.cutout(4, p=0.3), 2000, 10, 12).any(axis=(1, 2))
    assert some.mean() == pytest.approx(0.3, abs=0.05)


def test_random_erasing_keeps_area_and_ratio():
    hole = holes(erasing.random_erasing(p=0.5), 2000, 40, 50)
    erased = hole.any(axis=(1, 2))
    heights, widths = check_rectangles(hole[erased])
    area, ratio = heights * widths / 2000, heights / widths
    assert erased.mean() == pytest.approx(0.5, abs=0.05)
    assert area.min() > 0.015 and 0.3 < area.max() < 0.345 and area.mean() == pytest.approx(0.175, abs=0.02)
    assert ratio.min() > 0.26 and ratio.max() < 3.8 and np.median(ratio) == pytest.approx(1, abs=0.15)
    assert hole.any(axis=0).mean() > 0.99


def test_random_erasing_skips_what_does_not_fit():
    assert not holes(erasing.random_erasing(p=1, scale=(1, 1), ratio=(1, 1)), 5, 8, 8).any()
    assert (
        holes(erasing.random_erasing(p=1, scale=(0.25, 0.25), ratio=(1, 1)), 5, 8, 8).sum(axis=(1, 2)) == 16
    ).all()


def test_random_erasing_with_noise_fills_the_same_places():
    images = np.full((200, 20, 20, 3), 5, np.float32)
    zeros, noise = [one(erasing.random_erasing(fill=fill), images) for fill in erasing.FILLS]
    np.testing.assert_array_equal(noise[zeros == 5], 5)
    drawn = noise[zeros == 0]
    assert drawn.size > 10_000 and abs(drawn.mean()) < 0.02 and drawn.std() == pytest.approx(1, abs=0.02)
    assert len(np.unique(drawn)) > 0.99 * drawn.size


def test_sobel_golden():
    y, x = np.mgrid[:6, :7]
    ramps = np.stack([np.full((6, 7), 3.0), 0.5 * x, 0.25 * y]).astype(np.float32)
    images = np.repeat(ramps[..., None], 3, axis=-1) * np.float32([0.5, 1, 1.5])  # their mean is the ramp
    inner = one(photometric.sobel(), images)[:, 1:-1, 1:-1]
    assert inner.shape == (3, 4, 5, 2)
    np.testing.assert_allclose(inner[0], 0, atol=1e-5)
    np.testing.assert_allclose(inner[1], np.broadcast_to([-4, 0], (4, 5, 2)), atol=1e-5)  # 8 a, and a = 1/2
    np.testing.assert_allclose(inner[2], np.broadcast_to([0, -2], (4, 5, 2)), atol=1e-5)


def test_sobel_is_the_two_filters_over_zeros():
    image = np.random.default_rng(0).random((5, 4, 1), dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image[..., 0], 1), (3, 3))
    across = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    down = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
    expected = np.stack([(windows * kernel).sum(axis=(-1, -2)) for kernel in (across, down)], axis=-1)
    np.testing.assert_allclose(one(photometric.sobel(), image[None])[0], expected, atol=1e-5)


def test_normalize():
    images = np.array([0, 0.5, 1], np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(one(photometric.normalize(0.5, 0.5), images)[0, 0, 0], [-1, 0, 1])
    channels = photometric.normalize((0.5, 0.25, 0), (1, 0.5, 4))
    np.testing.assert_allclose(one(channels, images)[0, 0, 0], [-0.5, 0.5, 0.25])
    with pytest.raises(ValueError, match=r"have 1 channel\(s\).* must have 1 or 1 values"):
        one(channels, images[..., :1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: photometric.normalize(0.5, 0.0), "std above 0"),
        (lambda: photometric.normalize(float("nan"), 1.0), "mean must be finite"),
        (lambda: geometric.flip(1.5), r"flip: p is a probability, in \[0, 1\], got 1.5"),
        (lambda: geometric.pad_and_crop(-1), "at least 0, got -1"),
        (lambda: geometric.pad_and_crop(1, "edge"), "one of constant, reflect, got 'edge'"),
        (lambda: geometric.rotate(-3), "degrees must be at least 0"),
        (lambda: geometric.rotate(3, "cubic"), "one of nearest, bilinear"),
        (lambda: geometric.affine(scale=(0, 1)), "0 < low <= high"),
        (lambda: geometric.upsample(0), "at least 1, got 0"),
        (lambda: photometric.color_jitter(-0.1), "strengths of at least 0"),
        (lambda: photometric.color_jitter(hue=0.6), r"hue in \[0, 0.5\]"),
        (lambda: photometric.color_jitter(like="x"), "like must be one of torchvision, tensorflow, got 'x'"),
        (lambda: photometric.gaussian_blur(border="x"), "border must be one of reflect, zeros, got 'x'"),
        (lambda: photometric.gaussian_blur((2, 1)), "0 < low <= high"),
        (lambda: photometric.gaussian_blur(kernel_size=4), "odd and positive"),
        (lambda: photometric.solarize(2), r"threshold must lie in \[0, 1\]"),
        (lambda: erasing.cutout(0), "at least 1, got 0"),
        (lambda: erasing.random_erasing(scale=(0.5, 1.5)), "at most 1"),
        (lambda: erasing.random_erasing(fill="x"), "fill must be one of zero, noise, got 'x'"),
        (lambda: blurring.motion_blur(4), "length must be an odd number of pixels, at least 3, got 4"),
        (lambda: blurring.median_blur(1), "kernel_size must be an odd number"),
        (lambda: geometric.optical_distortion(0.6), r"limit must lie in \[0, 0.5\]"),
        (lambda: geometric.resized_crop((0, 1)), "scale must be .* 0 < low <= high"),
        (lambda: geometric.resized_crop((0.5, 1.5)), "at most 1"),
        (lambda: geometric.resized_crop(ratio=(2, 1)), "ratio must be"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
