"""Damaged and hostile image files, some hundred: each is read as an upright RGB image or refused by name."""

import importlib.util
import io
import os
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.data import image_files, transforms
from imgcls_jax.data.decoding import decode
from imgcls_jax.data.pipeline import EvalBatches, TrainBatches
from imgcls_jax.data.source import read_regular
from imgcls_jax.data.sources.image_folder import ImageFolder

RNG = np.random.default_rng(0)
PIXELS = np.asarray(Image.fromarray(RNG.integers(0, 256, (12, 16, 3), np.uint8)).resize((32, 24)))
LINE = "decode | resize(8)"


def encoded(kind: str, mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def animation() -> bytes:
    frames = [Image.fromarray(np.roll(PIXELS, step, 1)).convert("P") for step in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    return encoded("JPEG", exif=exif)


def png_of(width: int, height: int, raw: bytes) -> bytes:
    """A gray PNG whose head claims a size, whatever is in it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def of_16_bits() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257).save(stream, "PNG")
    return stream.getvalue()


SOUND = {
    "jpeg": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "cmyk": encoded("JPEG", "CMYK"),
    "rotated": rotated(),
    "png": encoded("PNG"),
    "rgba": encoded("PNG", "RGBA"),
    "palette": encoded("PNG", "P"),
    "bits_16": of_16_bits(),
    "bilevel": encoded("PNG", "1"),
    "gif": encoded("GIF", "P"),
    "animation": animation(),
    "bmp": encoded("BMP"),
    "webp": encoded("WEBP"),
    "tiff": encoded("TIFF"),
    "tiff_lzw": encoded("TIFF", compression="tiff_lzw"),
    "ppm": encoded("PPM"),
    "pixel": png_of(1, 1, b"\0\7"),
    "wide": png_of(30_000, 2, 2 * bytes(30_001)),
    "high": png_of(2, 30_000, 30_000 * bytes(3)),
}
HOSTILE = {
    "empty": b"",
    "text": b"<!DOCTYPE html><p>404",
    "jpeg_head": b"\xff\xd8\xff",
    "bomb": png_of(40_000, 40_000, bytes(9)),
    "largest": png_of(2**31 - 1, 2**31 - 1, b""),
    "no_width": png_of(0, 5, bytes(9)),
    "no_rows": png_of(9, 9, b""),
    "eps": encoded("EPS"),
    "jpeg_2000": encoded("JPEG2000"),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "pdf": encoded("PDF"),
    "zip": b"PK\3\4" + bytes(99),
    "gzip": b"\x1f\x8b" + bytes(99),
    "pickle": b"\x80\x02cos\nsystem\n(X\4\0\0\0truetR.",
}


def cut(content: bytes, share: float) -> bytes:
    return content[: int(share * len(content))]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    for place in rng.integers(0, len(content) if rng.random() < 0.5 else min(len(content), 100), 3):
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def outcome_of(content: bytes) -> str:
    """Says what became of a file; anything but an RGB image or a ValueError is an error of the test."""
    try:
        image = decode(content)
    except ValueError as error:
        assert str(error).startswith("image cannot be decoded") and len(str(error)) < 500
        return "refused"
    assert image.mode == "RGB" and min(image.size) > 0
    return "read"


def outcome_of_part(content: bytes, share: float) -> str:
    """The same of the beginning of a file, which is never read as another picture than the whole."""
    part = cut(content, share)
    outcome = outcome_of(part)
    if outcome == "read":
        np.testing.assert_array_equal(decode(part), decode(content))
        outcome = "whole though cut"  # an animation's first frame, a file's last padding
    return outcome


def run_cases(rounds: int) -> dict[str, Counter]:
    """Returns {kind of damage: outcomes} for every format, `rounds` cuts and `rounds` flips of each."""
    rng = np.random.default_rng(1)
    outcomes = {"sound": Counter(outcome_of(content) for content in SOUND.values())}
    outcomes["hostile"] = Counter(outcome_of(content) for content in HOSTILE.values())
    small = {name: content for name, content in SOUND.items() if name not in ("wide", "high")}
    outcomes["cut"] = Counter(
        outcome_of_part(content, i / rounds) for content in small.values() for i in range(rounds)
    )
    outcomes["flipped"] = Counter(
        outcome_of(flipped(content, rng)) for content in small.values() for _ in range(rounds)
    )
    outcomes["random"] = Counter(outcome_of(rng.bytes(int(rng.integers(1, 500)))) for _ in range(rounds))
    outcomes["random_after_head"] = Counter(
        outcome_of(cut(content, 0.1) + rng.bytes(300)) for content in small.values()
    )
    return outcomes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rounds", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_every_file_is_read_or_refused(rounds, record_property):
    outcomes = run_cases(rounds)
    for kind, counts in outcomes.items():
        record_property(kind, dict(counts))
        print(f"\nimage files, {kind}: {counts.total()} cases, {dict(counts)}", end="")
    assert outcomes["sound"] == {"read": len(SOUND)}
    assert set(outcomes["hostile"]) == set(outcomes["random"]) == {"refused"}
    assert outcomes["cut"]["refused"] > 0.9 * outcomes["cut"].total()


def test_what_is_read_is_the_picture():
    lossless = {"png", "rgba", "bmp", "tiff", "tiff_lzw", "ppm"}
    for name in lossless:
        np.testing.assert_array_equal(np.asarray(decode(SOUND[name])), PIXELS, err_msg=name)
    np.testing.assert_array_equal(np.asarray(decode(SOUND["bits_16"]))[..., 0], PIXELS[..., 0])
    assert decode(SOUND["rotated"]).size == (24, 32)
    first = np.asarray(decode(SOUND["animation"]), int)
    assert np.abs(first - np.asarray(Image.fromarray(PIXELS).convert("P").convert("RGB"), int)).mean() < 8


def test_no_program_is_started_for_an_eps_file(monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was run"))
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "load", lambda *_: pytest.fail("the program was loaded"))
    assert outcome_of(HOSTILE["eps"]) == "refused"


@pytest.fixture
def folder(tmp_path):
    """Class a: two sound images under lying suffixes among things that are no images. Class b: one image."""
    for place, content in (("a/0.png", SOUND["jpeg"]), ("a/1.gif", SOUND["png"]), ("b/0.jpg", SOUND["bmp"])):
        (tmp_path / "train" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / place).write_bytes(content)
    a = tmp_path / "train/a"
    (a / "2_empty.jpg").write_bytes(b"")
    os.mkfifo(a / "3_pipe.jpg")
    (a / "4_loop.jpg").symlink_to("4_loop.jpg")
    (a / "5_gone.jpg").symlink_to("nowhere.jpg")
    (a / "6_device.jpg").symlink_to("/dev/zero")
    (a / "7_folder.jpg").mkdir()
    (a / "8_up").symlink_to("..")
    (a / "9_text.jpg").write_text("no image")
    return tmp_path


def test_a_folder_of_odd_things(folder):
    source = ImageFolder("train", root=folder)
    names = [Path(path).name for path in source.paths]
    assert (
        names
        == "0.png 1.gif 2_empty.jpg 3_pipe.jpg 4_loop.jpg 5_gone.jpg 6_device.jpg 9_text.jpg 0.jpg".split()
    )
    ops = transforms.parse(LINE)[0]
    skipping = EvalBatches(source, ops, batch_size=3, on_bad_example="skip")
    batches = [skipping[number] for number in range(len(skipping))]
    bad = np.concatenate([batch["bad_examples"] for batch in batches]).tolist()
    assert bad == [2, 3, 4, 5, 6, 7]
    kept = {
        int(i): int(k)
        for b in batches
        for i, k, m in zip(b["index"], b["label"], b["mask"], strict=True)
        if m
    }
    assert kept == {0: 0, 1: 0, 8: 1}
    training = TrainBatches(source, ops, batch_size=3, seed=0, on_bad_example="skip")
    for step in range(3):
        batch = training[step]
        assert set(batch["index"].tolist()) <= {0, 1, 8}
        assert (batch["label"] == source.labels[batch["index"]]).all()
    raising = EvalBatches(source, ops, batch_size=1)
    for index in bad:
        with pytest.raises(ValueError, match=names[index]):
            raising[index]


def test_files_named_to_a_tool(folder):
    a = folder / "train/a"
    named = [
        str(a),
        str(a / "3_pipe.jpg"),
        "x" * 5000,
        str(folder / "absent.png"),
        str(a / "4_loop.jpg/x.png"),
    ]
    paths = image_files.find_images(named)
    assert {Path(path).name for path in paths} >= {"3_pipe.jpg", "absent.png"}
    found = image_files.outputs_of_files(
        paths, LINE, (8, 8, 3), lambda images: images.mean((1, 2, 3)), batch_size=4
    )
    errors = {output.path.name: output.error for output in found if output.error}
    assert errors["3_pipe.jpg"] == "not a regular file" and "too long" in errors["x" * 5000]
    assert len(errors) >= 5 and "0.png" not in errors


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(folder):
    (folder / "train/b/0.jpg").chmod(0)
    source = ImageFolder("train", root=folder)
    with pytest.raises(PermissionError, match="0.jpg"):
        source[8]


def test_floats_of_0_to_1_are_no_darkness():
    gray = np.asarray(Image.fromarray(PIXELS).convert("L"))
    for scale in (255, 1):
        stream = io.BytesIO()
        Image.fromarray(gray.astype(np.float32) / scale).save(stream, "TIFF")
        np.testing.assert_array_equal(np.asarray(decode(stream.getvalue()))[..., 0], gray)


def test_a_small_file_cannot_claim_a_large_image():
    stream = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(stream, "WEBP", lossless=True)
    assert len(stream.getvalue()) < 5000
    with pytest.raises(ValueError, match="9000 x 9000 pixels, more than a file of that size can hold"):
        decode(stream.getvalue())
    assert decode(png_of(2000, 2000, b"\0" * 2001 * 2000)).size == (2000, 2000)  # small enough to be let


def test_a_photo_of_too_many_pixels_is_decoded_smaller(monkeypatch):
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (400, 500, 3), np.uint8)).save(stream, "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)  # Image.open refuses over 120,000
    shrunk = transforms.apply(transforms.parse("decode")[0], stream.getvalue(), np.random.default_rng(0))
    assert shrunk.shape == (200, 250, 3)
    with pytest.raises(ValueError, match="500 x 400 pixels, over PIL.Image.MAX_IMAGE_PIXELS = 60000"):
        decode(stream.getvalue())  # whose pixels are those of boxes
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3_000)
    with pytest.raises(ValueError, match="over PIL.Image.MAX_IMAGE_PIXELS"):
        decode(stream.getvalue(), may_shrink=True)


def test_a_strip_is_not_made_larger_than_any_image():
    strip = Image.new("RGB", (2, 20_000))
    (op,) = transforms.parse("resize_short(224)")[0]
    with pytest.raises(ValueError, match="2 x 20000 pixels: .* 224 x 2240000, over PIL.Image.MAX_IMAGE_PIX"):
        op(strip, np.random.default_rng(0))


def test_a_file_too_large_for_an_image_is_not_read(tmp_path):
    file = tmp_path / "large.jpg"
    with open(file, "wb") as sparse:
        sparse.truncate(2**31)
    with pytest.raises(OSError, match="over 1 GiB"):
        read_regular(file)


def test_photos_of_phones():
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    half = Image.new("RGB", (64, 48), (200, 30, 30))
    half.paste((30, 200, 60), (0, 0, 32, 48))
    pillow_heif.from_pillow(half).save(stream, quality=90)
    assert np.abs(np.asarray(decode(stream.getvalue()), int) - np.asarray(half)).mean() < 4


def test_a_photo_that_needs_a_package_names_it():
    heic = b"\0\0\0\x18ftypheic" + b"\0" * 40
    if importlib.util.find_spec("pillow_heif") is None:
        with pytest.raises(ValueError, match=r"pip install 'imgcls-jax\[heif\]'"):
            decode(heic)
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "AVIF", quality=100, subsampling="4:4:4")
    assert np.abs(np.asarray(decode(stream.getvalue()), int) - PIXELS).mean() < 4
