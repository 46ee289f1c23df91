"""Decodes image files, and arrays, to upright RGB images of 8 bits a channel."""

from __future__ import annotations

import contextlib
import importlib.util
import io

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

# Not all that Pillow opens: it hands EPS, which is a program, to Ghostscript, and reads a JPEG 2000 file that
# is cut short at its first tile as black.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
HEIF = "HEIF"  # with pillow-heif
HEIC_STARTS = (b"ftyphei", b"ftypmif", b"ftypmsf", b"ftyphev")  # bytes 4 to 10
WHITE = (255, 255, 255)
# A small file may claim a large image. The densest honest ones, an even area in PNG, hold some 1,000 pixels a
# byte; images up to SMALL pixels cost little, whatever their file.
MAX_PIXELS_PER_BYTE = 1024
SMALL = 2**23
MAX_JPEG_PIXELS = 2**28  # the largest sensors of phones have 200 megapixels


def decode(data: bytes | np.ndarray, min_short: int = 0, *, may_shrink: bool = False) -> Image.Image:
    """Returns an encoded image, or an array, as an upright image of 8 bits a channel.

    Encoded images become RGB: transparency is laid on white; EXIF orientation is applied; 16-bit gray (and
    32-bit integer, whose values must fit 16 bits) becomes round(value / 257); floats whose largest is at most
    1 are taken as 0..1, others as 0..255, and rounded; of 16-bit RGB Pillow gives the high bytes; of an
    animation the first frame is taken.

    Args:
      data: bytes in one of FORMATS, whatever the file's name says, or uint8 [H, W, 3], or uint8 [H, W, 1],
        which stays gray.
      min_short: decode a JPEG file at the smallest of the scales 1, 1/2, 1/4 and 1/8 whose shorter side has
        at least so many pixels, which is cheaper; 0 for full size. Other files are decoded at full size.

    Returns:
      An image of mode "RGB", or "L" for an array of one channel.

    Raises:
      ValueError: on empty, corrupt or truncated bytes, on more pixels than PIL.Image.MAX_IMAGE_PIXELS or than
        so small a file can hold, on values out of range, and on other arrays.
    """
    if isinstance(data, np.ndarray):
        return from_array(data)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(f"decode takes the bytes of an image or a uint8 array, got {type(data).__name__}")
    if not data:
        raise ValueError("image cannot be decoded: it is empty (0 bytes)")
    try:
        with _open(data) as image:
            _require_size(image, len(data), may_shrink)
            if min_short:
                image.draft(None, (min_short, min_short))
            image.load()
            return _to_rgb(_upright(image))
    except UnidentifiedImageError:
        raise ValueError(
            f"image cannot be decoded ({len(data)} bytes): its header is damaged, or it is not one of "
            + ", ".join(FORMATS)
            + ("; pip install 'imgcls-jax[heif]' reads HEIC" if data[4:11] in HEIC_STARTS else "")
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly every kind on corrupt files
        raise ValueError(
            f"image cannot be decoded ({len(data)} bytes): {str(error) or type(error).__name__}"
        ) from error


def _open(data: bytes) -> Image.Image:
    """Opens an encoded image without decoding it."""
    if data[:3] == b"\xff\xd8\xff":
        # Image.open refuses large ones, which can be decoded smaller, before their size can be asked.
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    formats: tuple[str, ...] = FORMATS
    if data[4:11] in HEIC_STARTS and importlib.util.find_spec("pillow_heif") is not None:
        import pillow_heif

        pillow_heif.register_heif_opener()
        formats = (HEIF,)
    return Image.open(io.BytesIO(data), formats=formats)


def _require_size(image: Image.Image, num_bytes: int, may_shrink: bool) -> None:
    """Raises ValueError on an image with too many pixels; sets a scale for a JPEG file that may shrink."""
    (width, height), limit = image.size, Image.MAX_IMAGE_PIXELS
    pixels = width * height
    if pixels > max(SMALL, num_bytes * MAX_PIXELS_PER_BYTE):
        raise ValueError(f"{width} x {height} pixels, more than a file of that size can hold")
    if limit is None or pixels <= limit:
        return
    if may_shrink and image.format == "JPEG" and pixels <= MAX_JPEG_PIXELS:
        scale = next((scale for scale in (2, 4, 8) if pixels <= limit * scale**2), 8)
        image.draft(None, (width // scale, height // scale))
        if image.width * image.height <= limit:
            return
    raise ValueError(f"{width} x {height} pixels, over PIL.Image.MAX_IMAGE_PIXELS = {limit}")


def from_array(array: np.ndarray) -> Image.Image:
    check_array(array)
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def check_array(array: np.ndarray) -> None:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
        raise ValueError(
            f"an image array must be uint8 [H, W, 1 or 3], got {array.dtype} {array.shape}: mend the source"
        )


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # damaged EXIF data: keep the image as it is stored
        ImageOps.exif_transpose(image, in_place=True)  # not in place it would copy upright images
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_uint8(np.asarray(image)))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, WHITE)
        image.alpha_composite(layer)
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Integers as round(value / 257), floats of 0..1 or 0..255: Pillow's own conversions would clip."""
    low, high = pixels.min(), pixels.max()
    limit = 65535 if pixels.dtype.kind != "f" else 1 if high <= 1 else 255
    if not (low >= 0 and high <= limit):
        raise ValueError(
            f"{pixels.dtype} pixels must lie in 0..{limit}, got {low}..{high}; rescale the file first"
        )
    return np.rint(pixels / (limit / 255)).astype(np.uint8)
