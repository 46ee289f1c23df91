"""Weights and images drawn from names and sizes by NumPy alone: the same wherever they are drawn.

So a reference network's outputs can be recorded once (record.py) and compared with anywhere, and no weights
are kept. BatchNorm's statistics and affine parameters are drawn too: with 0, 1, 1, 0 a swap would not show.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

TAP_VALUES = 64


def draw(name: str, shape: tuple[int, ...], gain: float = 2.0) -> np.ndarray:
    """Returns the float32 array of a PyTorch parameter or buffer.

    Args:
      name: in the state dict.
      shape: in PyTorch's layout.
      gain: a weight's variance times its fan-in. 2 keeps the scale through ReLUs; networks whose activations
        gate themselves become chaotic with it in float32, so that nothing could be compared.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    normal = rng.standard_normal(shape, np.float32)
    if name.endswith(("running_mean", "bias")):
        return normal * np.float32(0.1)
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return normal * np.float32((gain / fan_in) ** 0.5)


def draw_all(shapes: Mapping[str, tuple[int, ...]], gain: float = 2.0) -> dict[str, np.ndarray]:
    """Returns {name: array} for {name: shape}."""
    return {name: draw(name, tuple(shape), gain) for name, shape in shapes.items()}


def images(size: int, batch: int = 1) -> np.ndarray:
    """Returns float32 [batch, size, size, 3] in [-1, 1], the same for the same size."""
    rng = np.random.default_rng(size)
    return rng.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)


def summary(array: np.ndarray, values: int = TAP_VALUES) -> np.ndarray:
    """Returns float32 [3 + values]: mean, deviation, largest absolute value, then evenly spaced entries."""
    flat = np.asarray(array, np.float32).reshape(-1)
    places = np.linspace(0, flat.size - 1, values).astype(int)
    whole = flat.astype(np.float64)
    return np.array([whole.mean(), whole.std(), np.abs(whole).max(), *flat[places]], np.float32)
