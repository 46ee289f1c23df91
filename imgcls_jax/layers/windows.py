"""Cuts images into the windows of a kernel, and sums the shares of windows back into images."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp

Pair = tuple[int, int]


def windows(
    x: jax.Array, size: Sequence[int], strides: Sequence[int], padding: Sequence[Pair], fill: float = 0.0
) -> list[jax.Array]:
    """Returns the pixels at each place of a moving window, by rows: kh * kw arrays [B, h, w, C].

    Args:
      x: float [B, H, W, C].
      size: (kh, kw).
      strides: (vertical, horizontal).
      padding: ((top, bottom), (left, right)).
      fill: value of the padding.
    """
    pads = any(itertools.chain(*padding))
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill) if pads else x
    spans = [(n - k) // s * s + 1 for n, k, s in zip(padded.shape[1:3], size, strides, strict=True)]
    return [
        padded[:, top : top + spans[0] : strides[0], left : left + spans[1] : strides[1]]
        for top in range(size[0])
        for left in range(size[1])
    ]


def filtered(x: jax.Array, filters: jax.Array, strides: Sequence[int], padding: Sequence[Pair]) -> jax.Array:
    """Returns the sums over moving windows of each channel times its own filter, taken in float32 or wider.

    Args:
      x: float [B, H, W, C].
      filters: float [kh, kw, 1, C].
      strides: (vertical, horizontal).
      padding: ((top, bottom), (left, right)), not negative.

    Returns:
      float [B, h, w, C].
    """
    places = windows(widened(x), filters.shape[:2], strides, padding)
    weights = widened(filters).reshape(-1, filters.shape[3])
    return total(pixels * weight for pixels, weight in zip(places, weights, strict=True)).astype(x.dtype)


def total(terms: Iterable[jax.Array]) -> jax.Array:
    """Returns the sum, in the order of the terms."""
    return functools.reduce(operator.add, terms)


def is_narrow(x: jax.Array) -> bool:
    """Whether float32 is wider than a float array's dtype."""
    return x.dtype != jnp.promote_types(x.dtype, jnp.float32)


def widened(x: jax.Array) -> jax.Array:
    """Returns x in float32, or in its own dtype if that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def gathered(
    maps: Sequence[jax.Array],
    share: Callable[..., jax.Array],
    size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[Pair],
    shape: Sequence[int],
) -> jax.Array:
    """Returns the image whose pixels are each the sum of their shares in all windows that hold them.

    Padded row s q + r lies in window q - m at the window's row r + s m, for each m >= 0 with r + s m < k;
    columns likewise. So the pixels of one remainder are a sum of few shifted maps, and those of all
    remainders, interleaved, are the image: no value is scattered.

    Args:
      maps: [B, h, w, C] each, values of the windows; windows that there are not have 0.
      share: (row, column, *maps) -> [B, h', w', C], the share that windows with these values give to their
        pixel at that place.
      size, strides, padding: of the windows.
      shape: (H, W) of the image.

    Returns:
      [B, H, W, C].
    """
    counts = [-(-(n + sum(pads)) // s) for n, pads, s in zip(shape, padding, strides, strict=True)]
    before = [(k - 1) // s for k, s in zip(size, strides, strict=True)]
    after = [max(count - n, 0) for count, n in zip(counts, maps[0].shape[1:3], strict=True)]
    spare = ((0, 0), *zip(before, after, strict=True), (0, 0))
    padded = [jnp.pad(values, spare) for values in maps]

    def rest(r: int, c: int) -> jax.Array:
        shares = []
        for row in range(r, size[0], strides[0]):
            for column in range(c, size[1], strides[1]):
                y, x = before[0] - row // strides[0], before[1] - column // strides[1]
                shifted = [values[:, y : y + counts[0], x : x + counts[1]] for values in padded]
                shares.append(share(row, column, *shifted))
        if not shares:  # between windows with gaps
            return jnp.zeros_like(padded[-1][:, : counts[0], : counts[1]])
        return shares[0] if len(shares) == 1 else total(map(widened, shares)).astype(shares[0].dtype)

    rows = [jnp.stack([rest(r, c) for c in range(strides[1])], axis=3) for r in range(strides[0])]
    whole = jnp.stack([row.reshape(*row.shape[:2], -1, row.shape[4]) for row in rows], axis=2)
    whole = whole.reshape(len(whole), -1, *whole.shape[3:])
    (top, _), (left, _) = padding
    return whole[:, top : top + shape[0], left : left + shape[1]]
