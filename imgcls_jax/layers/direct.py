"""Convolutions on a CPU by oneDNN (layers/onednn.py), directly: without Winograd's or other transforms. Those
that stay XLA's own come with their axes in the order that its libraries take.

A processor without instructions for bfloat16 computes in float32, and rounds. One without AVX-512 leaves the
weights' gradient to XLA. The figures are in benchmarks/README.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from imgcls_jax.layers import onednn
from imgcls_jax.layers.kept import kept
from imgcls_jax.layers.windows import Pair, filtered, total, widened

TARGET = "__onednn$convolution"
NUMBERS = ("NHWC", "HWIO", "NHWC")
IN_ORDER = jax.lax.conv_dimension_numbers((1,) * 4, (1,) * 4, NUMBERS)
WORTH = 2.5e8  # FLOPs of a convolution from which on it is oneDNN's; a grouped one counts ten times
ALL = slice(None)
GROUPED = 32  # channels at a time, of the gradient of grouped weights
# Of the gradient of weights: numbers of a filter that stay in the cache, of a part of them at least, calls of
# all parts at most, and filters of a call in float32.
CACHED, PIXELS, CALLS, FILTERS = 8192, 1024, 32, 128
# Of the same by a matrix unit: images of a batch whose maps are cut into strips, and that it takes at once.
FEW, MULTIPLIED = 4, 32


def convolution(inputs: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
    """Computes jax.lax.conv_general_dilated of the same arguments."""
    return _rebound(lambda x, w: jax.lax.conv_general_dilated(x, w, *arguments, **options), inputs, kernel)


def _form_on_cpu(is_own: bool, *shapes: Any, **parameters: Any) -> Callable[..., Any] | None:
    if is_own and _suits(*shapes, **parameters):
        return functools.partial(_by_onednn, merged=_is_merged(*shapes, **parameters))
    if _is_depthwise(*shapes, **parameters):
        return _by_shifts
    return _in_order if _is_out_of_order(*shapes, **parameters) else None


_rebound = onednn.stand_in(jax.lax.conv_general_dilated_p, _form_on_cpu)


def _suits(inputs: Any, kernel: Any, output: Any, **parameters: Any) -> bool:
    """Whether oneDNN computes this, rounding as the native convolution would."""
    laid, merged = max(parameters["lhs_dilation"]) > 1, _is_merged(inputs, kernel, output, **parameters)
    groups = max(parameters["feature_group_count"], parameters["batch_group_count"])
    features = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
    work = 2 * math.prod(output.shape) * math.prod(kernel.shape) / max(features, 1)
    return (
        inputs.dtype in onednn.dtypes()
        and work * (10 if groups > 1 else 1) >= WORTH
        and {inputs.dtype} == {kernel.dtype} == {output.dtype}
        and inputs.ndim == 4
        and 0 not in (*inputs.shape, *kernel.shape, *output.shape)
        and (merged or parameters["batch_group_count"] == 1)
        and not (merged and groups == 1 and not onednn.has_avx512())  # XLA's own is twice as fast there
        and not (laid and max(*parameters["rhs_dilation"], *parameters["window_strides"]) > 1)
    )


def _is_merged(inputs: Any, kernel: Any, output: Any, **parameters: Any) -> bool:
    """Whether `_merged` is for it, as for a weights' gradient: it sums over images, by a large window."""
    numbers = parameters["dimension_numbers"]
    window = math.prod(kernel.shape[axis] for axis in numbers.rhs_spec[2:])
    written = math.prod(output.shape[axis] for axis in numbers.out_spec[2:])
    rest = (*parameters["window_strides"], *parameters["lhs_dilation"], parameters["feature_group_count"])
    sums_images = numbers.lhs_spec[1] == IN_ORDER.lhs_spec[0]
    return max(rest) == 1 and (written < window or sums_images or parameters["batch_group_count"] > 1)


def _is_depthwise(inputs: Any, kernel: Any, output: Any, **parameters: Any) -> bool:
    """Whether each channel has its own filter, where XLA's loops take 50 times as long as sums of shifts."""
    return (
        parameters["dimension_numbers"] == IN_ORDER
        and parameters["feature_group_count"] == inputs.shape[3] == kernel.shape[3]
        and max(*parameters["lhs_dilation"], *parameters["rhs_dilation"]) == 1
        and min(map(min, parameters["padding"])) >= 0
        and 0 not in output.shape
    )


def _is_out_of_order(inputs: Any, *shapes: Any, dimension_numbers: Any, **others: Any) -> bool:
    """Whether the axes are not those of `NUMBERS`, as a gradient's are not.

    XLA gives a convolution to a library only with these. It puts others in order itself, but not in the body
    of a loop: there its own loops take 10 to 70 times as long.
    """
    del shapes
    return inputs.ndim == 4 and dimension_numbers != IN_ORDER and others["batch_group_count"] == 1


def _in_order(inputs: jax.Array, kernel: jax.Array, *, dimension_numbers: Any, **others: Any) -> jax.Array:
    (batch, feature, *space), (filters, channels, *window), written = dimension_numbers
    x = inputs.transpose((batch, *space, feature))
    weights = kernel.transpose((*window, channels, filters))
    y = jax.lax.conv_general_dilated_p.bind(x, weights, dimension_numbers=IN_ORDER, **others)
    return _sorted(y, (written[0], *written[2:], written[1]))


def _sorted(y: jax.Array, order: Sequence[int]) -> jax.Array:
    """Returns y, of which `order` says for each axis which one it is, with its axes sorted."""
    return y.transpose([order.index(axis) for axis in range(4)])


def _by_shifts(inputs: jax.Array, kernel: jax.Array, **parameters: Any) -> jax.Array:
    return filtered(inputs, kernel, parameters["window_strides"], parameters["padding"])


def _by_onednn(inputs: jax.Array, kernel: jax.Array, *, merged: bool, **parameters: Any) -> jax.Array:
    """Computes a convolution of any dimension numbers; oneDNN lays the weights out anew in any case."""
    numbers, padding = parameters["dimension_numbers"], parameters["padding"]
    (batch, feature, *space), (out_batch, out_feature, *out_space) = numbers.lhs_spec, numbers.out_spec
    dilation, laid = parameters["rhs_dilation"], parameters["lhs_dilation"]
    if merged or max(laid) > 1:  # several calls read parts
        inputs = kept(inputs)
    if merged:
        kernel = kept(kernel)
    weights = _Weights(kernel, numbers.rhs_spec, parameters["feature_group_count"])
    if merged:
        x = inputs.transpose((*space, batch, feature))
        y = _merged(x, weights, padding, dilation, parameters["batch_group_count"])
        order = (*out_space, out_batch, out_feature)
    else:
        x = inputs.transpose((batch, *space, feature))
        if max(laid) > 1:
            y = _between_zeros(x, weights, laid, padding)
        else:
            y = _call(x, weights, parameters["window_strides"], padding, dilation)
        order = (out_batch, *out_space, out_feature)
    return _sorted(y, order)


class _Weights(NamedTuple):
    """Weights with axes in any order.

    Attributes:
      array: of four axes.
      axes: of the filters D, the channels C, the rows and the columns.
      groups: of C and of D.
    """

    array: jax.Array
    axes: Sequence[int]
    groups: int

    @property
    def window(self) -> Pair:
        """The rows and columns."""
        return self.array.shape[self.axes[2]], self.array.shape[self.axes[3]]

    @property
    def filters(self) -> int:
        """D."""
        return int(self.array.shape[self.axes[0]])

    def part(
        self, filters: slice = ALL, channels: slice = ALL, rows: slice = ALL, columns: slice = ALL
    ) -> _Weights:
        """Returns some of them."""
        index = [ALL] * 4
        for axis, chosen in zip(self.axes, (filters, channels, rows, columns), strict=True):
            index[axis] = chosen
        return self._replace(array=self.array[tuple(index)])

    def strips(self, count: int) -> _Weights:
        """Returns them with their rows cut into strips; those of a channel become channels, side by side."""
        filters, channels, rows, columns = self.axes
        array = self.array.transpose((channels, rows, columns, filters))
        array = array.reshape(-1, array.shape[1] // count, *array.shape[2:])
        return self._replace(array=array, axes=(3, 0, 1, 2))


def _merged(
    x: jax.Array, weights: _Weights, padding: Sequence[Pair], dilation: Sequence[int], groups: int
) -> jax.Array:
    """Convolves one image whose width is that of all images, side by side pixel by pixel.

    The gradient of weights is a convolution by a window as large as a map, and writes a map as small as the
    weights' window: 3x3, too few neighbors for oneDNN to be fast. Its "images" are the channels.

    Args:
      x: [H, W, B, C].
      weights: C by D.
      padding, dilation: of H and W.
      groups: of B and of D, each with its own; a convolution spans several, and what lies between them goes.

    Returns:
      [h, w, B / groups, D].
    """
    lengths = [n + sum(pads) for n, pads in zip(x.shape, padding, strict=False)]
    reach = [(k - 1) * d + 1 for k, d in zip(weights.window, dilation, strict=True)]
    # One place of the window, which reads each d-th pixel alone.
    if lengths == reach and max(map(max, padding)) <= 0:
        x = _padded(x, (*padding, (0, 0), (0, 0)))[:: dilation[0], :: dilation[1]]
        padding, dilation = ((0, 0), (0, 0)), (1, 1)
    images, filters = x.shape[2] // groups, weights.filters // groups
    counts = [n for n in range(1, groups + 1) if groups % n == 0 and n * max(images, filters) <= GROUPED]
    count = max(counts, default=1)
    parts = []
    for first in range(0, groups, count):
        part = x[:, :, first * images : (first + count) * images]
        own = weights.part(slice(first * filters, (first + count) * filters))
        y = _in_parts(*_in_strips(part, own, padding, dilation), dilation)
        y = y.reshape(*y.shape[:2], count, images, count, filters)
        parts += [y[:, :, group, :, group] for group in range(count)]
    return jnp.concatenate(parts, 3) if len(parts) > 1 else parts[0]


def _in_strips(
    x: jax.Array, weights: _Weights, padding: Sequence[Pair], dilation: Sequence[int]
) -> tuple[jax.Array, _Weights, Sequence[Pair]]:
    """Cuts the rows of `_merged`'s window into strips that it takes for more images, with their padding.

    A processor's unit for matrices of bfloat16 multiplies 32 images at once; of a batch of four most of it
    would be idle. The strips of the map overlap, by the rows of the outputs less one.
    """
    images, rows = x.shape[3], weights.window[0]
    counts = [n for n in range(2, rows // 2 + 1) if rows % n == 0 and n * images <= MULTIPLIED]
    pays = images <= FEW and max(dilation) == 1 and x.dtype == jnp.bfloat16 and onednn.has_matrix_unit()
    if not (counts and pays):
        return x, weights, padding
    count = max(counts)
    x = _padded(x, (padding[0], *((0, 0),) * 3))
    size = rows // count
    reach = x.shape[0] - (count - 1) * size
    x = jnp.stack([x[first : first + reach] for first in range(0, count * size, size)], 4)
    return x.reshape(*x.shape[:3], -1), weights.strips(count), ((0, 0), padding[1])


def _in_parts(x: jax.Array, weights: _Weights, padding: Sequence[Pair], dilation: Sequence[int]) -> jax.Array:
    """Computes `_merged` without groups as a sum, in float32, over parts of the C channels: a batch's images.

    oneDNN reads the weights, which are as many as the map's numbers, once for each few numbers that it
    writes. Those of a part stay in the processor's cache; it has as many images as a vector of 64 bytes
    holds, or several times as many. In float32 oneDNN works in small blocks on more than `FILTERS` filters.
    """
    images, pixels = x.shape[3], math.prod(weights.window)
    dtype = onednn.computed_in(x.dtype)
    step = weights.filters if dtype == jnp.bfloat16 else FILTERS
    filters = [slice(n, n + step) for n in range(0, weights.filters, step)]
    size, vector = images, 64 // dtype.itemsize
    if pixels * images > CACHED and images > 2 * vector:
        size = vector * math.ceil(max(images * len(filters) / CALLS, PIXELS / pixels) / vector)
    parts = []
    for first, some_x in zip(range(0, images, size), _laid_out(x, size), strict=True):
        part = slice(first, first + size)
        each = [_in_one_row(some_x, weights.part(some, part), padding, dilation) for some in filters]
        parts.append(jnp.concatenate(each, 3))
    return total(map(widened, parts)).astype(x.dtype)


def _laid_out(x: jax.Array, size: int) -> list[jax.Array]:
    """Returns parts of x [H, W, C, B], each of `size` images and the last of what is left.

    Memory has the images outermost. The parts are turned in one pass, which writes a few images side by side
    and so reads whole lines of the cache; a pass for each part takes four times as long.
    """
    images = x.shape[3]
    count = images // size
    if count < 2:
        return [x[..., first : first + size] for first in range(0, images, size)]
    rows = jnp.moveaxis(x, 3, 0)[: count * size]
    turned = kept(jnp.moveaxis(rows.reshape(count, size, *rows.shape[1:]), 1, -1))
    return [*turned, x[..., count * size :]] if images % size else [*turned]


def _in_one_row(
    x: jax.Array, weights: _Weights, padding: Sequence[Pair], dilation: Sequence[int]
) -> jax.Array:
    """Computes `_merged` without groups, in one call."""
    count = x.shape[2]
    y = _call(
        x.reshape(1, x.shape[0], -1, x.shape[3]),
        weights,
        (1, 1),
        (padding[0], (padding[1][0] * count, padding[1][1] * count)),
        (dilation[0], dilation[1] * count),
    )
    return y.reshape(y.shape[1], -1, count, weights.filters)


def _between_zeros(
    x: jax.Array, weights: _Weights, scale: Sequence[int], padding: Sequence[Pair]
) -> jax.Array:
    """Convolves a map with zeros laid between its pixels, and multiplies none of them.

    Output s q + r reads the weights k of k = p - r (mod s) alone, p the zeros before: a convolution of few
    weights for each remainder r. Their outputs are interleaved.

    Args:
      x: [B, H, W, C].
      weights: C by D.
      scale: s of H and W.
      padding: of the map with its zeros.

    Returns:
      [B, h, w, D].
    """
    axes = [*zip(x.shape[1:3], weights.window, scale, padding, strict=True)]
    sizes = [(n - 1) * s + 1 + sum(pads) - k + 1 for n, k, s, pads in axes]

    def of(remainders: Sequence[int]) -> jax.Array:
        counts, taps, pads = [], [], []
        for (n, k, s, (before, _)), size, r in zip(axes, sizes, remainders, strict=True):
            first, count = (before - r) % s, -(-size // s)
            left, number = (before - r - first) // s, -(-(k - first) // s)
            counts.append(count)
            taps.append(slice(first, None, s))
            pads.append((left, count + number - 1 - n - left))
        part = weights.part(ALL, ALL, *taps)
        if 0 in part.window:
            return jnp.zeros((x.shape[0], *counts, weights.filters), x.dtype)
        return _call(x, part, (1, 1), pads, (1, 1))

    rows = [jnp.stack([of((row, column)) for column in range(scale[1])], 3) for row in range(scale[0])]
    y = jnp.stack(rows, 2)  # [B, h, rows, w, columns, D]
    y = y.reshape(y.shape[0], y.shape[1] * y.shape[2], y.shape[3] * y.shape[4], -1)
    return y[:, : sizes[0], : sizes[1]]


def _call(
    x: jax.Array, weights: _Weights, strides: Sequence[int], padding: Sequence[Pair], dilation: Sequence[int]
) -> jax.Array:
    """Convolves by `onednn.call`; all sizes are reckoned here alone."""
    if min(map(min, padding)) < 0:  # which cuts, and oneDNN has none
        x = _padded(x, [(0, 0), *((min(before, 0), min(after, 0)) for before, after in padding), (0, 0)])
        padding = [(max(before, 0), max(after, 0)) for before, after in padding]
    axes = zip(x.shape[1:3], weights.window, strides, padding, dilation, strict=True)
    size = [(n + sum(pads) - (k - 1) * d - 1) // s + 1 for n, k, s, pads, d in axes]
    data = {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}
    (filters, channels, *space) = weights.axes
    of_weights = {"input_feature_dim": channels, "output_feature_dim": filters, "spatial_dims": space}
    window = {
        "size": weights.window,
        "pad_left": [before for before, _ in padding],
        "pad_right": [after for _, after in padding],
        "strides": strides,
        "window_dilations": dilation,
    }
    described = {
        "dims": 4,
        "input": {"dims": 4, "data": data},
        "kernel": {"dims": 4, "filter": of_weights},
        "output": {"dims": 4, "data": data},
        "window": window,
        "feature_groups": weights.groups,
    }
    shape = (x.shape[0], *size, weights.filters)
    return onednn.call(TARGET, {"onednn_conv_config": described}, shape, x.dtype, x, weights.array)


def _padded(x: jax.Array, padding: Sequence[Pair]) -> jax.Array:
    """Returns x with zeros around it, or without what negative padding cuts off."""
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(before, after, 0) for before, after in padding])
