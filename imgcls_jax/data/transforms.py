"""Host operations of the input pipeline (one example, Pillow), and the line that describes a pipeline.

    decode | resize(48) | random_resized_crop(48) | flip | rotate(20) | normalize(0.5, 0.5)

Names or calls with literal arguments, joined by "|", in the order of application: first host operations, from
here, then device operations, from `imgcls_jax.data.augment`, which see a batch inside the train step. `parse`
turns the line into both lists without executing any of it; `apply` runs the host operations on one example.

A public function here that is annotated to return a `HostOp` is an operation; to add one, write one. Host
operations pickle (worker processes receive them) and draw from the numpy Generator they are given alone.
"""

import ast
import contextlib
import dataclasses
import difflib
import inspect
import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

try:
    import cykooz_resizer as resizer
except ModuleNotFoundError:  # there are no wheels for ARM under Linux; Pillow resizes then
    resizer = None

if TYPE_CHECKING:
    from imgcls_jax.data.augment import DeviceOp

# Not all that Pillow opens: it hands EPS, which is a program, to Ghostscript, and reads a JPEG 2000 file that
# is cut short at its first tile as black.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
CROP_TRIES = 10  # as torchvision's RandomResizedCrop
WHITE = (255, 255, 255)

Example = bytes | np.ndarray | Image.Image


@dataclasses.dataclass(frozen=True)
class HostOp:
    """One operation on an example; two are equal where they do the same.

    Attributes:
      name: of the operation in a line.
      function: (image, rng, **arguments) -> image.
      random: whether it reads `rng`.
      arguments: (name, value) pairs.
    """

    name: str
    function: Callable[..., Image.Image]
    random: bool
    arguments: tuple[tuple[str, Any], ...] = ()

    def __call__(self, image: Example, rng: np.random.Generator) -> Image.Image:
        return self.function(image, rng, **dict(self.arguments))


def _operation(name: str, function: Callable[..., Any], *, random: bool, **arguments: Any) -> HostOp:
    return HostOp(name, function, random, tuple(arguments.items()))


# ---- decoding


def decode(data: bytes | np.ndarray, min_short: int = 0) -> Image.Image:
    """An encoded image, or an array, as an upright image of 8 bits a channel.

    Encoded images become RGB: transparency is laid on white; EXIF orientation is applied; 16-bit grey (and
    32-bit integer, whose values must fit 16 bits) becomes round(value / 257), floats in 0..255 are rounded;
    of 16-bit RGB Pillow gives the high bytes; of an animation the first frame is taken.

    Args:
      data: bytes in one of FORMATS, whatever the file's name says, or uint8 [H, W, 3], or uint8 [H, W, 1],
        which stays grey.
      min_short: a JPEG file comes at the smallest of its sizes 1, 1/2, 1/4 and 1/8 whose shorter side has at
        least so many pixels, which is cheaper; 0 for the whole size. Other files come whole.

    Returns:
      An image of mode "RGB", or "L" for an array of one channel.

    Raises:
      ValueError: on empty, corrupt or truncated bytes, on more pixels than PIL.Image.MAX_IMAGE_PIXELS, on
        values out of range, and on other arrays.
    """
    if isinstance(data, np.ndarray):
        return _from_array(data)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(f"decode takes the bytes of an image or a uint8 array, got {type(data).__name__}")
    if not data:
        raise ValueError("image cannot be decoded: it is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(
                    f"{image.width} x {image.height} pixels, over PIL.Image.MAX_IMAGE_PIXELS = {limit}"
                )
            if min_short:
                image.draft(None, (min_short, min_short))
            image.load()
            return _to_rgb(_upright(image))
    except UnidentifiedImageError:
        raise ValueError(
            f"image cannot be decoded ({len(data)} bytes): damaged at its head, or not one of "
            + ", ".join(FORMATS)
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly every kind on corrupt files
        raise ValueError(
            f"image cannot be decoded ({len(data)} bytes): {error or type(error).__name__}"
        ) from error


def _from_array(array: np.ndarray) -> Image.Image:
    _check_array(array)
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _check_array(array: np.ndarray) -> None:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
        raise ValueError(
            f"an image array must be uint8 [H, W, 1 or 3], got {array.dtype} {array.shape}: mend the source"
        )


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # damaged metadata of a sound image: it is taken as stored
        ImageOps.exif_transpose(image, in_place=True)  # otherwise upright images are copied
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
    """16-bit integers as round(value / 257), floats as they are: Pillow's own conversions would clip both."""
    low, high = pixels.min(), pixels.max()
    limit = 255 if pixels.dtype.kind == "f" else 65535
    if not (low >= 0 and high <= limit):
        raise ValueError(
            f"{pixels.dtype} pixels must lie in 0..{limit}, got {low}..{high}; rescale the file first"
        )
    return np.rint(pixels / (limit / 255)).astype(np.uint8)


def _decode_operation(min_short: int = 0) -> HostOp:
    """Bytes, or an array, to an image."""
    if not isinstance(min_short, int) or min_short < 0:
        raise ValueError(f"decode: min_short is a whole number of pixels, or 0; got {min_short!r}")
    return _operation("decode", _decode_example, random=False, min_short=min_short)


def _decode_example(example: bytes | np.ndarray, rng: np.random.Generator, *, min_short: int) -> Image.Image:
    return decode(example, min_short)


# ---- operations


def resize(height: int, width: int | None = None) -> HostOp:
    """Warp to height x width (default: square); bilinear, antialiased. `resize_short` keeps the aspect."""
    width = height if width is None else width
    _check_sizes("resize", height, width)
    return _operation("resize", _resize, random=False, height=height, width=width)


def _resize(image: Image.Image, rng: np.random.Generator, *, height: int, width: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BILINEAR)


def resize_short(size: int) -> HostOp:
    """Resize the shorter side to `size`, the longer to floor(size · long / short)."""
    _check_sizes("resize_short", size)
    return _operation("resize_short", _resize_short, random=False, low=size, high=size)


def random_resize_short(low: int, high: int) -> HostOp:
    """Resize the shorter side to a whole number drawn from low..high, both included, keeping the aspect."""
    _check_sizes("random_resize_short", low, high)
    if low > high:
        raise ValueError(f"random_resize_short: low must not be above high, got {low} and {high}")
    return _operation("random_resize_short", _resize_short, random=True, low=low, high=high)


def _resize_short(image: Image.Image, rng: np.random.Generator, *, low: int, high: int) -> Image.Image:
    size = low if low == high else int(rng.integers(low, high, endpoint=True))
    short = min(image.size)
    width, height = (size * side // short for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def random_resized_crop(
    size: int, area: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (0.75, 4 / 3)
) -> HostOp:
    """Crop a random part and resize it to size x size in one pass; bilinear, antialiased.

    At the crop's border the filter sees the pixels beyond it. Where cykooz-resizer is not installed Pillow
    resizes, several times slower; the two differ by one grey level at most.

    Args:
      size: side of the result in pixels.
      area: share of the image, from U(low, high), 0 < low <= high <= 1.
      ratio: width/height of the part, log-uniform in (low, high), 0 < low <= high.
    """
    _check_sizes("random_resized_crop", size)
    for name, bounds, limit in (("area", area, 1), ("ratio", ratio, math.inf)):
        if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= limit:
            raise ValueError(
                f"random_resized_crop: {name} must be (low, high), 0 < low <= high <= {limit}, got {bounds!r}"
            )
    arguments = dict(size=size, area=tuple(area), ratio=tuple(ratio))
    return _operation("random_resized_crop", _random_resized_crop, random=True, **arguments)


def _random_resized_crop(
    image: Image.Image,
    rng: np.random.Generator,
    *,
    size: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> Image.Image:
    box = random_box(image.width, image.height, area, ratio, rng)
    if resizer is None:
        return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    left, top, right, bottom = box
    options = resizer.ResizeOptions(
        resizer.ResizeAlg.convolution(resizer.FilterType.bilinear),
        crop_box=resizer.CropBox(left, top, right - left, bottom - top),
    )
    resized = Image.new(image.mode, (size, size))
    resizer.Resizer().resize_pil(image, resized, options)  # a new one, since none may serve two threads
    return resized


def random_box(
    width: int, height: int, area: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the random part of a width x height image in `random_resized_crop`.

    After 10 draws that do not fit: the largest centred part whose ratio lies within the bounds.
    """
    for _ in range(CROP_TRIES):
        pixels = width * height * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, max(1, round(height * aspect)))
    h = min(height, max(1, round(width / aspect)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_crop(size: int) -> HostOp:
    """Cut size x size pixels at a uniform place. When applied to a smaller image it raises ValueError."""
    _check_sizes("random_crop", size)
    return _operation("random_crop", _random_crop, random=True, size=size)


def _random_crop(image: Image.Image, rng: np.random.Generator, *, size: int) -> Image.Image:
    if min(image.size) < size:
        raise ValueError(
            f"random_crop({size}): the image is smaller, {image.width} x {image.height}; put "
            f"resize_short({size}) before it"
        )
    left, top = (int(rng.integers(side - size + 1)) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def center_crop(size: int) -> HostOp:
    """Cut size x size pixels at round((side - size) / 2), half to even; a smaller image is padded with 0."""
    _check_sizes("center_crop", size)
    return _operation("center_crop", _center_crop, random=False, size=size)


def _center_crop(image: Image.Image, rng: np.random.Generator, *, size: int) -> Image.Image:
    left, top = (round((s - size) / 2) if s >= size else -((size - s) // 2) for s in image.size)
    return image.crop((left, top, left + size, top + size))


def grey() -> HostOp:
    """To one channel, Pillow's "L": (299 R + 587 G + 114 B) / 1000."""
    return _operation("grey", _convert, random=False, mode="L")


def rgb() -> HostOp:
    """To three channels; grey is repeated."""
    return _operation("rgb", _convert, random=False, mode="RGB")


def _convert(image: Image.Image, rng: np.random.Generator, *, mode: str) -> Image.Image:
    return image.convert(mode)


def _check_sizes(name: str, *sizes: int) -> None:
    if any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"{name}: sizes must be whole numbers of pixels, at least 1, got {sizes}")


# ---- the line


def apply(ops: Sequence[HostOp], example: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Run host operations on one example.

    Args:
      ops: the host operations of `parse`, in order.
      example: encoded bytes, for which the first operation must be `decode`, or uint8 [H, W, 1 or 3].
      rng: all randomness.

    Returns:
      uint8 [H, W, C], C = 3, or 1 where the image is grey. Read-only, except that with no operations it is
      the example itself.

    Raises:
      ValueError: on an example that cannot be decoded or is not so, or that an operation refuses.
    """
    if not isinstance(example, np.ndarray) and (not ops or ops[0].name != "decode"):
        raise ValueError("the example is encoded: let the line of transforms begin with decode")
    if isinstance(example, np.ndarray):
        _check_array(example)
        if not ops:
            return example
        example = _from_array(example) if ops[0].name != "decode" else example
    for op in ops:
        example = op(example, rng)
    pixels = np.asarray(example)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def parse(line: str) -> "tuple[tuple[HostOp, ...], tuple[DeviceOp, ...]]":
    """Read a line of operations, as the head of this file shows one. Nothing in it is executed.

    Args:
      line: operations joined by "|", on one line or several; blank for none.

    Returns:
      (host operations, device operations), for `apply` and `imgcls_jax.data.augment.compose`.

    Raises:
      ValueError: on a syntax error, an unknown operation, arguments that are not literals or do not suit, a
        host operation after a device one, or a `decode` that is not the first.
    """
    host, device = [], []
    for name, arguments, keywords in _calls(line):
        factory = _find(name)
        op = _make(name, factory, arguments, keywords)
        if not isinstance(op, HostOp):
            device.append(op)
            continue
        if device:
            raise ValueError(
                f"host operation {name!r} stands after device operation {device[-1].name!r} in {line!r}: "
                "host operations (one image) come first, device operations (a batch) after them"
            )
        if name == "decode" and host:
            raise ValueError(
                f"decode must be the first operation, got {host[-1].name!r} before it in {line!r}"
            )
        host.append(op)
    return tuple(host), tuple(device)


def random_operations(host_ops: Sequence[HostOp], device_ops: "Sequence[DeviceOp]") -> list[str]:
    """Names of the random operations, in order: an evaluation split should have none."""
    return [op.name for op in (*host_ops, *device_ops) if op.random]


def fixed_start(lines: Sequence[Sequence[HostOp]]) -> tuple[HostOp, ...]:
    """The operations that all lines begin with and that draw nothing."""
    start = []
    for op, *others in zip(*lines, strict=False):
        if op.random or any(other != op for other in others):
            break
        start.append(op)
    return tuple(start)


def _calls(line: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """(name, positional arguments, keyword arguments) of each operation of the line."""
    if not line.strip():
        return []
    try:
        node = ast.parse(f"({line}\n)", mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"cannot read the line {line!r} ({error.args[0]}): expected 'decode | resize(48) | flip'"
        ) from None
    nodes = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        nodes.append(node.right)
        node = node.left
    return [_call(node) for node in reversed([*nodes, node])]


def _call(node: ast.expr) -> tuple[str, list[Any], dict[str, Any]]:
    function = node.func if isinstance(node, ast.Call) else node
    if not isinstance(function, ast.Name):
        raise ValueError(
            f"expected an operation, such as flip or resize(48), joined by '|', got {ast.unparse(node)!r}"
        )
    if not isinstance(node, ast.Call):
        return function.id, [], {}
    try:
        arguments = [ast.literal_eval(argument) for argument in node.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    except ValueError:
        raise ValueError(
            f"arguments must be literal numbers, strings or tuples, got {ast.unparse(node)!r} (0.75, not 3/4)"
        ) from None
    return function.id, arguments, keywords


def _find(name: str) -> Callable[..., "HostOp | DeviceOp"]:
    host = {"decode": _decode_operation} | _operations(globals(), HostOp)
    if name in host:
        return host[name]
    # Here, so that a host-only line and worker processes do not load jax.
    from imgcls_jax.data import augment, rand_augment

    device = _operations(vars(augment) | vars(rand_augment), augment.DeviceOp)
    if name in device:
        return device[name]
    near = difflib.get_close_matches(name, [*host, *device], n=1)
    hint = f", did you mean {near[0]!r}?" if near else "."
    raise ValueError(
        f"unknown operation {name!r}{hint} Host operations: {', '.join(host)}. "
        f"Device operations: {', '.join(device)}."
    )


def _operations(namespace: dict[str, Any], kind: type) -> dict[str, Callable[..., Any]]:
    """The public functions of a module that are annotated to return `kind`, sorted by name."""
    functions = {name: f for name, f in sorted(namespace.items()) if inspect.isfunction(f) and name[0] != "_"}
    return {name: f for name, f in functions.items() if f.__annotations__.get("return") is kind}


def _make(name: str, factory: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> Any:
    try:
        return factory(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        signature = inspect.signature(factory).replace(return_annotation=inspect.Signature.empty)
        raise ValueError(f"{error}; the operation is {name}{signature}") from None
