"""Host operations: decoding of every kind of file, sizes, crops, and the line that describes a pipeline."""

import importlib
import inspect
import io
import pickle
import pkgutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from imgcls_jax import data
from imgcls_jax.data import host_operations, transforms
from imgcls_jax.data.augment import DEVICE_OPERATIONS
from imgcls_jax.data.decoding import decode
from imgcls_jax.data.host_operations import HOST_OPERATIONS, random_box, random_box_of_tensorflow
from imgcls_jax.data.transforms import apply, parse, random_operations

RAMP = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
LINE = "decode | resize(48) | random_resized_crop(48) | flip | rotate(20) | normalize(0.5, 0.5)"


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes | np.ndarray) -> np.ndarray:
    image = decode(data)
    assert image.mode == ("RGB" if isinstance(data, bytes) else image.mode)
    return np.asarray(image)


def run(line: str, array: np.ndarray, seed: int = 0) -> np.ndarray:
    return apply(parse(line)[0], array, np.random.default_rng(seed))


# ---- decode


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(RAMP), kind, **options)), RAMP)


def test_jpeg():
    smooth = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (32, 1, 3))
    assert np.abs(pixels(encode(Image.fromarray(smooth), "JPEG", quality=95)).astype(int) - smooth).max() <= 4


def test_gray_and_one_bit_become_rgb():
    gray = RAMP[:, :, 0]
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(gray), "PNG")), np.stack([gray] * 3, axis=-1))
    bits = Image.fromarray((gray > 100).astype(np.uint8) * 255).convert("1")
    decoded = pixels(encode(bits, "PNG"))
    np.testing.assert_array_equal(decoded[:, :, 1], (gray > 100) * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    image = Image.new(mode, (2, 1), (0,) * len(mode))
    image.putpixel((1, 0), (100,) * (len(mode) - 1) + (51,))
    np.testing.assert_array_equal(pixels(encode(image, "PNG"))[0], [[255] * 3, [224] * 3])  # .2·100 + .8·255


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette(kind):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    for x in range(3):
        image.putpixel((x, 0), x)
    np.testing.assert_array_equal(pixels(encode(image, kind))[0], [[10, 20, 30], [200, 100, 50], [1, 2, 3]])
    with_hole = pixels(encode(image, kind, transparency=1))[0]
    np.testing.assert_array_equal(with_hole, [[10, 20, 30], [255, 255, 255], [1, 2, 3]])


def test_transparent_color_of_an_rgb_file():
    image = Image.fromarray(np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8))
    np.testing.assert_array_equal(
        pixels(encode(image, "PNG", transparency=(9, 8, 7)))[0], [[255] * 3, [1, 2, 3]]
    )


def test_cmyk_jpeg():
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow: red
    assert Image.open(io.BytesIO(encode(ink, "JPEG"))).mode == "CMYK"
    assert np.abs(pixels(encode(ink, "JPEG", quality=95)).astype(int) - [255, 0, 0]).max() <= 6


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("PPM", "I")])
def test_16_bit_gray_is_scaled(kind, mode):
    values = np.array([[0, 128, 129, 255, 256], [257, 32768, 65535, 65406, 65407]], np.uint16)
    data = encode(Image.fromarray(values), kind)
    assert Image.open(io.BytesIO(data)).mode == mode
    np.testing.assert_array_equal(pixels(data)[:, :, 2], [[0, 0, 1, 1, 1], [1, 128, 255, 254, 255]])


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_16_bit_rgb_png():
    row = b"\x00" + struct.pack(">6H", 0, 65535, 32768, 25700, 257, 51400)
    decoded = pixels(png(2, 1, 16, 2, row))[0].astype(int)
    assert np.abs(decoded - [[0, 255, 128], [100, 1, 200]]).max() <= 1


def test_float_and_integer_tiff():
    values = np.array([[0, 1.4, 254.6, 255]], np.float32)
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(values), "TIFF"))[0, :, 0], [0, 1, 255, 255])
    for outside in (values * 2, values - 1, values * np.nan):
        with pytest.raises(ValueError, match=r"float32 pixels must lie in 0\.\.255, got"):
            decode(encode(Image.fromarray(outside), "TIFF"))
    with pytest.raises(ValueError, match=r"int32 pixels must lie in 0\.\.65535, got 0\.\.70000"):
        decode(encode(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :16] = 255  # the corner at the stored top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = pixels(encode(Image.fromarray(stored), "JPEG", exif=exif, quality=95))
    expected = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    assert upright.shape == expected.shape and np.abs(upright.astype(int) - expected).max() < 10


def test_damaged_exif_does_not_lose_the_image():
    assert (
        pixels(encode(Image.fromarray(RAMP), "JPEG", exif=b"Exif\x00\x00rubbish, rubbish")).shape
        == RAMP.shape
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_and_corrupt_files(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    for length in (20, len(data) // 2, len(data) - 60):
        with pytest.raises(ValueError, match=rf"image cannot be decoded \({length} bytes\): \w"):
            decode(data[:length])


def test_what_is_no_image():
    with pytest.raises(ValueError, match=r"empty \(0 bytes\)"):
        decode(b"")
    with pytest.raises(ValueError, match=r"\(9 bytes\): its header is damaged, or it is not one of JPEG"):
        decode(b"some text")
    with pytest.raises(ValueError, match="takes the bytes of an image or a uint8 array, got str"):
        decode("path.jpg")


@pytest.mark.parametrize("limit", [20, 10])  # 24 pixels: Pillow itself warns above 20 and raises above 2 x 10
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs(monkeypatch, limit):
    data = encode(Image.fromarray(RAMP), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match="cannot be decoded .* pixels"):
        decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24)
    assert decode(data).size == (6, 4)


def test_arrays_pass_through():
    image, gray = decode(RAMP), decode(RAMP[:, :, :1])
    assert (image.mode, gray.mode) == ("RGB", "L")
    np.testing.assert_array_equal(np.asarray(image), RAMP)
    np.testing.assert_array_equal(np.asarray(gray), RAMP[:, :, 0])


@pytest.mark.parametrize("array", [RAMP[0], RAMP / 255, RAMP[:, :, :2], RAMP[:0], RAMP.astype(np.int64)])
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 1 or 3\], got"):
        decode(array)
    with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 1 or 3\], got"):
        apply((), array, np.random.default_rng(0))


@pytest.mark.parametrize(("min_short", "short"), [(0, 120), (61, 120), (60, 60), (31, 60), (30, 30), (1, 15)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_at_reduced_scale(min_short, short, orientation):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((160, 120))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(image, "JPEG", exif=exif, quality=95)
    small, whole = decode(data, min_short), decode(data)
    assert min(small.size) == short and small.width * whole.height == small.height * whole.width
    wanted = np.asarray(whole.resize(small.size, Image.Resampling.BOX), int)
    assert np.abs(np.asarray(small) - wanted).mean() < 2
    for format in ("PNG", "WEBP"):
        assert decode(encode(image, format), min_short).size == (160, 120)


def test_a_truncated_jpeg_is_refused_at_reduced_scale_too():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "JPEG")
    for length in (20, len(data) // 2, len(data) - 60):
        with pytest.raises(ValueError, match=rf"image cannot be decoded \({length} bytes\)"):
            decode(data[:length], 8)


# ---- operations


@pytest.mark.parametrize(
    ("line", "shape"),
    [
        ("resize(7)", (7, 7)),
        ("resize(7, 3)", (7, 3)),
        ("resize_short(50)", (50, 83)),  # floor(50 · 50 / 30) = 83
        ("resize_short(10)", (10, 16)),
        ("center_crop(20)", (20, 20)),
        ("center_crop(40)", (40, 40)),
        ("random_crop(30)", (30, 30)),
        ("random_resized_crop(17)", (17, 17)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_sizes(line, shape, channels):
    result = run(line, np.full((30, 50, channels), 200, np.uint8))
    assert result.shape == (*shape, channels) and result.dtype == np.uint8
    tall = run(line, np.full((50, 30, channels), 200, np.uint8))
    assert tall.shape[:2] == (shape[::-1] if "short" in line else shape)


def test_resize_antialiases():
    values = (np.arange(16, dtype=np.uint8) * 10).reshape(4, 4, 1)
    golden = [[35.714, 51.429], [98.571, 114.286]]
    assert np.abs(run("resize(2)", values)[:, :, 0] - golden).max() <= 1  # plain: [[25, 45], [105, 125]]


def test_bicubic_golden():
    """By hand: the cubic of a = -1/2, twice as wide, weighs what is half a pixel away by .8672, one and a
    half by .2266, two and a half by -.0703; together 1.8906."""
    values = (np.arange(16, dtype=np.uint8) * 10).reshape(4, 4, 1)
    golden = [[29.339, 47.603], [102.397, 120.661]]
    for line in ("resize(2, interpolation='bicubic')", "resize_short(2, 'bicubic')"):
        assert np.abs(run(line, values)[:, :, 0] - golden).max() <= 1
    line = "random_resized_crop(2, scale=(1, 1), ratio=(1, 1), interpolation='bicubic')"
    assert np.abs(run(line, values)[:, :, 0] - golden).max() <= 1


def test_random_resize_short_is_uniform_and_inclusive():
    image = np.zeros((20, 40, 1), np.uint8)
    shapes = [run("random_resize_short(5, 8)", image, seed).shape for seed in range(400)]
    sizes, counts = np.unique([shape[0] for shape in shapes], return_counts=True)
    assert list(sizes) == [5, 6, 7, 8] and counts.min() > 70
    assert all(width == 2 * height for height, width, _ in shapes)


@pytest.mark.parametrize(("side", "start"), [(224, 0), (225, 0), (226, 1), (227, 2), (229, 2)])
def test_center_crop_rounds_half_to_even(side, start):
    image = np.repeat(np.arange(side, dtype=np.uint8)[:, None, None], side, axis=1)
    assert run("center_crop(224)", image)[0, 0, 0] == start
    assert run("center_crop(224)", image.transpose(1, 0, 2))[0, 0, 0] == start


def test_center_crop_pads_a_smaller_image():
    result = run("center_crop(6)", np.full((3, 8, 1), 9, np.uint8))[:, :, 0]
    np.testing.assert_array_equal(result[:, 0], [0, 9, 9, 9, 0, 0])


def test_random_crop_is_uniform():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    corners = [run("random_crop(2)", image, seed)[0, 0, 0] for seed in range(600)]
    places, counts = np.unique(corners, return_counts=True)
    assert list(places) == [0, 1, 2, 4, 5, 6] and counts.min() > 60
    with pytest.raises(
        ValueError, match=r"random_crop\(5\): the image is smaller, 4 x 3; put resize_short\(5\)"
    ):
        run("random_crop(5)", image)


def test_random_boxes_keep_area_and_ratio():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(400, 300, (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    left, top, right, bottom = boxes.T
    assert left.min() == 0 and top.min() == 0 and right.max() == 400 and bottom.max() == 300
    width, height = right - left, bottom - top
    area, ratio = width * height / 120000, width / height
    assert 0.079 < area.min() < 0.09 and 0.9 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.35
    small = area < 0.3  # large parts rarely fit if tall, which moves the median
    assert np.median(ratio[small]) == pytest.approx(1, abs=0.03)
    assert np.histogram(area[small], bins=4, range=(0.08, 0.3))[0].min() > 0.2 * small.sum()
    assert np.histogram(np.log(ratio[small]), bins=4)[0].min() > 0.2 * small.sum()


def test_boxes_of_tensorflow_have_a_uniform_side():
    rng = np.random.default_rng(0)
    drawn = [random_box_of_tensorflow(400, 400, (0.1, 1.0), (1.0, 1.0), rng) for _ in range(4000)]
    left, top, right, bottom = np.array(drawn).T
    side = right - left
    assert np.array_equal(side, bottom - top)
    assert side.min() in (127, 128) and side.max() == 400  # 127 * 127 is just more than 16000
    assert np.histogram(side, bins=5)[0].min() > 0.17 * 4000
    # E[s^2] of a side from U(0.316, 1) is 0.47; a uniform area has the mean 0.55.
    assert np.mean((side / 400) ** 2) == pytest.approx((1 - 0.1**1.5) / (3 * (1 - 0.1**0.5)), abs=0.015)
    ratios = [random_box_of_tensorflow(300, 400, (0.1, 0.3), (0.5, 2.0), rng) for _ in range(4000)]
    ratio = np.array([(right - left) / (bottom - top) for left, top, right, bottom in ratios])
    assert np.mean(ratio) == pytest.approx(1.25, abs=0.03)  # uniform; a log-uniform one has 1.08
    assert random_box_of_tensorflow(1000, 10, (0.5, 1.0), (0.75, 1.3), rng) == (0, 0, 1000, 10)


@pytest.mark.parametrize("draw", [random_box, random_box_of_tensorflow])
@pytest.mark.parametrize(("width", "height"), [(90, 30), (30, 90), (1, 1), (3, 2)])
def test_random_boxes_lie_inside(width, height, draw):
    rng = np.random.default_rng(0)
    boxes = [draw(width, height, (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(500)]
    assert all(
        0 <= left < right <= width and 0 <= top < bottom <= height for left, top, right, bottom in boxes
    )


@pytest.mark.parametrize(
    ("size", "box"), [((100, 10), (43, 0, 56, 10)), ((10, 100), (0, 43, 10, 56)), ((10, 10), (0, 0, 10, 10))]
)
def test_the_fallback_is_centred(size, box):
    class Corner(np.random.Generator):
        def uniform(self, low, high):
            return 2.0  # twice the image: nothing fits

    assert random_box(*size, (0.08, 1.0), (3 / 4, 4 / 3), Corner(np.random.PCG64(0))) == box


needs_resizer = pytest.mark.skipif(host_operations.resizer is None, reason="cykooz-resizer is not installed")


def test_random_resized_crop_of_the_whole_is_resize(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    line = "random_resized_crop(9, scale=(1, 1), ratio=(1, 1))"
    assert np.abs(run(line, image).astype(int) - run("resize(9)", image)).max() <= 1
    monkeypatch.setattr(host_operations, "resizer", None)
    np.testing.assert_array_equal(run(line, image), run("resize(9)", image))


@needs_resizer
@pytest.mark.parametrize("size", [5, 40, 224])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_random_resized_crop_is_pillows_within_one_gray_level(size, channels, kind):
    rng = np.random.default_rng(size)
    for seed in range(50):
        image = rng.integers(0, 256, (*rng.integers(1, 300, 2), channels), np.uint8)
        ours = run(f"random_resized_crop({size}, interpolation='{kind}')", image, seed)
        box = random_box(
            image.shape[1], image.shape[0], (0.08, 1), (3 / 4, 4 / 3), np.random.default_rng(seed)
        )
        pillows = decode(image).resize((size, size), Image.Resampling[kind.upper()], box=box)
        assert np.abs(ours.astype(int) - np.asarray(pillows).reshape(ours.shape)).max() <= 1


@needs_resizer
def test_the_processors_extensions_change_no_pixel():
    kinds, resizer = host_operations.resizer.CpuExtensions, host_operations.resizer.Resizer()
    pixels = np.random.default_rng(0).integers(0, 256, (301, 403, 3), np.uint8)
    options = host_operations.resizer.ResizeOptions(
        host_operations.resizer.ResizeAlg.convolution(host_operations.resizer.FilterType.bilinear)
    )
    results = set()
    for kind in {resizer.cpu_extensions, kinds.none}:
        resizer.cpu_extensions = kind
        source = host_operations.resizer.ImageData(
            403, 301, host_operations.resizer.PixelType.U8x3, pixels.tobytes()
        )
        target = host_operations.resizer.ImageData(224, 224, host_operations.resizer.PixelType.U8x3)
        resizer.resize(source, target, options)
        results.add(target.get_buffer())
    assert len(results) == 1


def test_the_generator_decides():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    line = "random_resize_short(30, 36) | random_crop(28) | random_resized_crop(9)"
    first, again, other = run(line, image, 1), run(line, image, 1), run(line, image, 2)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_gray_and_rgb():
    assert run("gray", RAMP).shape == (4, 6, 1) and run("gray | rgb", RAMP).shape == (4, 6, 3)
    np.testing.assert_allclose(run("gray", RAMP)[:, :, 0], RAMP @ [0.299, 0.587, 0.114], atol=1)
    assert run("decode", RAMP[:, :, :1]).shape == (4, 6, 1)


def test_apply_needs_decode_for_bytes():
    data, rng = encode(Image.fromarray(RAMP), "PNG"), np.random.default_rng(0)
    np.testing.assert_array_equal(apply(parse("decode")[0], data, rng), RAMP)
    for line in ("", "resize(3)"):
        with pytest.raises(ValueError, match="begin the line of transforms with decode"):
            apply(parse(line)[0], data, rng)
    assert apply((), RAMP, rng) is RAMP


# ---- the line


def test_a_line():
    host, device = parse(LINE)
    assert [op.name for op in host] == ["decode", "resize", "random_resized_crop"]
    assert [op.name for op in device] == ["flip", "rotate", "normalize"]
    assert random_operations(host, device) == ["random_resized_crop", "flip", "rotate"]
    assert (
        random_operations(*parse("decode | resize_short(256) | center_crop(224) | normalize(0.5, 0.5)")) == []
    )
    image = encode(Image.fromarray(np.zeros((60, 50, 3), np.uint8)), "PNG")
    assert apply(host, image, np.random.default_rng(0)).shape == (48, 48, 3)


@pytest.mark.parametrize("line", ["", "  ", "\n"])
def test_an_empty_line(line):
    assert parse(line) == ((), ())


def test_arguments_reach_the_operation():
    host, device = parse("""
        resize(5, width=4)
        | random_resized_crop(3, scale=(0.5, 1.0), ratio=[1, 1])
        | normalize(mean=(0.5, -0.5, 0), std=1)
    """)
    assert run("resize(5, width=4)", RAMP).shape == (5, 4, 3)
    assert {"size": 3, "scale": (0.5, 1.0), "ratio": (1, 1)}.items() <= dict(host[1].arguments).items()
    np.testing.assert_allclose(device[0](None, np.ones((1, 1, 1, 3), np.float32))[0, 0, 0], [0.5, 1.5, 1])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "decode | resise(48)",
            "unknown operation 'resise', did you mean 'resize'. Host operations: augmix, decode, ",
        ),
        ("flop", "did you mean 'flip'.*Device operations: affine, alternating_flip, auto_augment"),
        ("parse('flip')", "unknown operation 'parse'"),
        ("compose(())", "unknown operation 'compose'"),
        ("_resize(3)", "unknown operation '_resize'"),
        ("resize", r"missing 1 required positional argument: 'height'; the operation is resize\(height: int"),
        (
            "resize(4, 5, 6)",
            r"the operation is resize\(height: int, width: int \| None = None, interpolation",
        ),
        ("resize('4')", "resize: sizes must be whole numbers of pixels"),
        ("resize(0)", "at least 1"),
        ("resize(4.0)", "whole numbers of pixels"),
        ("flip(q=0.5)", r"unexpected keyword argument 'q'; the operation is flip\(p: float = 0.5\)"),
        ("flip('x')", r"the operation is flip\(p: float"),
        ("normalize(0.5, 0)", "std above 0"),
        ("resize(4, interpolation='cubic')", "interpolation must be one of bilinear, bicubic, got 'cubic'"),
        ("augmix(0)", r"severity lies in \[0.1, 10\]"),
        ("augmix(width=0)", "width and depth are whole numbers"),
        ("augmix(alpha=0)", "alpha must be above 0"),
        ("random_resized_crop(4, scale=3)", "the operation is random_resized_crop"),
        ("random_resized_crop(4, scale=(0, 1))", r"scale must be \(low, high\), 0 < low <= high <= 1"),
        ("random_resized_crop(4, ratio=(2, 1))", "ratio must be"),
        ("random_resize_short(9, 8)", "low must not be above high"),
        ("decode(-1)", r"min_short is a whole number.*the operation is decode\(min_short: int = 0\)"),
        ("decode(0.5)", "min_short is a whole number"),
        ("flip | resize(48)", "host operation 'resize' stands after device operation 'flip'"),
        ("resize(48) | decode", "decode must be the first operation"),
        ("decode | decode", "decode must be the first operation"),
        ("resize(size)", r"literal numbers, strings or tuples, got 'resize\(size\)'"),
        ("resize(40 + 8)", "literal"),
        ("resize(*(1, 2))", "literal"),
        ("resize(open('x'))", "literal"),
        ("(lambda: 3)()", "expected an operation"),
        ("augment.flip", "expected an operation.* got 'augment.flip'"),
        ("flip & flip", "expected an operation"),
        ("48", "expected an operation"),
        ("flip |", "cannot read the line 'flip |'"),
        ("flip(", "cannot read the line"),
        ("flip, flip", "expected an operation"),
    ],
)
def test_bad_lines(line, message):
    with pytest.raises(ValueError, match=message):
        parse(line)


def test_every_operation_is_listed():
    """A public function of data/ that returns an operation stands in the table, under its own name."""
    found = {"HostOp": {}, "DeviceOp": {}}
    for module in pkgutil.iter_modules(data.__path__, "imgcls_jax.data."):
        for name, function in vars(importlib.import_module(module.name)).items():
            if not inspect.isfunction(function) or function.__module__ != module.name or name[0] == "_":
                continue
            returned = function.__annotations__.get("return")
            kind = getattr(returned, "__name__", returned)  # a string where annotations are not evaluated
            if kind in found:
                found[kind][name] = function
    assert found == {"HostOp": HOST_OPERATIONS, "DeviceOp": DEVICE_OPERATIONS}
    assert not HOST_OPERATIONS.keys() & DEVICE_OPERATIONS.keys()


def test_earlier_names_are_read():
    assert (
        parse("decode | grey | random_resized_crop(4, area=(0.5, 1.0))")[0]
        == (parse("decode | gray | random_resized_crop(4, scale=(0.5, 1.0))")[0])
    )
    assert [op.name for op in parse("greyscale(0.2) | random_erasing(area=(0.1, 0.2))")[1]] == [
        "grayscale",
        "random_erasing",
    ]


def test_rand_augment_is_found_in_its_own_file():
    assert [op.name for op in parse("flip | rand_augment(2, None, 0.5) | sobel")[1]] == [
        "flip",
        "rand_augment",
        "sobel",
    ]
    with pytest.raises(ValueError, match="did you mean 'rand_augment'"):
        parse("randaugment")


def test_host_operations_pickle():
    line = (
        "decode | resize(4) | resize_short(9) | random_resize_short(8, 9) | random_crop(7) | center_crop(6)"
    )
    ops = parse(line + " | random_resized_crop(5) | augmix | gray | rgb")[0]
    copies = pickle.loads(pickle.dumps(ops))
    assert copies == ops
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    results = [apply(chain, image, np.random.default_rng(3)) for chain in (ops, copies)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("lines", "start"),
    [
        (["decode | resize(4) | random_crop(3) | gray"], ["decode", "resize"]),
        (["decode | resize(4)", "decode | resize(4) | gray"], ["decode", "resize"]),
        (["decode | resize(4)", "decode | resize(5)"], ["decode"]),
        (["decode | resize(4)", "decode(8) | resize(4)"], []),
        (["random_resized_crop(3)"], []),
        (["flip"], []),
    ],
)
def test_what_lines_begin_with_and_draws_nothing(lines, start):
    found = transforms.deterministic_prefix([parse(line)[0] for line in lines])
    assert [op.name for op in found] == start


def test_a_host_line_does_not_load_jax():
    program = "import sys; from imgcls_jax.data.transforms import parse; parse('decode | resize(4)'); "
    program += "assert 'PIL' in sys.modules and 'jax' not in sys.modules"
    program = f"import sys; sys.path[:] = {sys.path!r}; " + program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_first_frame_of_an_animation_can_be_worked_on(kind, orientation):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8)) for _ in range(3)]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], exif=exif, lossless=True)
    with Image.open(io.BytesIO(file.getvalue())) as stored:
        wanted = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    image = decode(file.getvalue())
    np.testing.assert_array_equal(np.asarray(image), wanted)
    np.testing.assert_array_equal(np.asarray(image.crop((2, 1, 7, 6))), wanted[1:6, 2:7])
