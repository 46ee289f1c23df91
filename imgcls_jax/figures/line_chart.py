"""A line chart over a logarithmic axis, as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from imgcls_jax.figures import drawing
from imgcls_jax.figures.page import ticks

WIDTH, HEIGHT, LEFT, BOTTOM = 720, 420, 64, 36


def draw(
    title: str,
    x: np.ndarray,
    lines: Mapping[str, np.ndarray],
    *,
    marks: Mapping[str, float],
    axes: tuple[str, str],
    notes: str = "",
) -> Image.Image:
    """Draws lines over one logarithmic axis.

    Args:
      title, notes: above the chart.
      x: float [N], positive, rising.
      lines: {name: float [N]}, drawn from pale to dark; what of them lies above all of the last is cut off.
      marks: {name: x}, drawn as upright lines.
      axes: what lies across and upwards.
    """
    span = math.log(x[-1] / x[0]) or 1.0
    low, high = min(map(np.min, lines.values())), np.max(list(lines.values())[-1])
    low, high = low - 0.05 * ((high - low) or 1), high + 0.05 * ((high - low) or 1)

    def place(at: float, value: float) -> tuple[float, float]:
        across = LEFT + math.log(at / x[0]) / span * (WIDTH - LEFT - drawing.GAP)
        up = min(max((value - low) / (high - low), 0.0), 1.0)
        return across * drawing.FINE, (HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - drawing.GAP)) * drawing.FINE

    chart = Image.new("RGB", (WIDTH * drawing.FINE, HEIGHT * drawing.FINE), drawing.PAPER)
    pen, letters = ImageDraw.Draw(chart), drawing.font(drawing.TEXT * drawing.FINE)
    for value in ticks(low, high):
        pen.line((place(x[0], value), place(x[-1], value)), drawing.GRAY, drawing.FINE)
        across, up = place(x[0], value)
        pen.text((across - 6 * drawing.FINE, up), f"{value:.4g}", drawing.SOFT, letters, anchor="rm")
    for power in _powers(x[0], x[-1]):
        across, up = place(10.0**power, low)
        pen.text((across, up + 6 * drawing.FINE), f"1e{power}", drawing.SOFT, letters, anchor="mt")
    shades = ((190, 200, 215), drawing.color(0))
    for values, shade in zip(lines.values(), shades[-len(lines) :], strict=True):
        pen.line([place(*point) for point in zip(x, values, strict=True)], shade, 2 * drawing.FINE)
    for number, at in enumerate(marks.values(), start=1):
        pen.line((place(at, low), place(at, high)), drawing.color(number), 2 * drawing.FINE)
    chart = chart.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    key = _key([*lines, *marks], [*shades[-len(lines) :], *(drawing.color(n + 1) for n in range(len(marks)))])
    captions = tuple(f"{way} {text}" for way, text in zip(("across:", "up:"), axes, strict=True))
    return drawing.sheet(title, [[drawing.Cell(chart, captions)], [drawing.Cell(key)]], notes=notes)


def _powers(low: float, high: float) -> Sequence[int]:
    """Returns the powers of ten between two numbers."""
    return range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)


def _key(names: Sequence[str], colors: Sequence[tuple[int, int, int]]) -> Image.Image:
    """Returns what each color stands for, a line each."""
    page = Image.new("RGB", (WIDTH, drawing.LEGEND_LINE * len(names)), drawing.PAPER)
    pen = ImageDraw.Draw(page)
    for row, (name, shade) in enumerate(zip(names, colors, strict=True)):
        middle = (row + 0.5) * drawing.LEGEND_LINE
        pen.line((LEFT, middle, LEFT + 24, middle), shade, 3)
        pen.text((LEFT + 32, middle), name, drawing.INK, drawing.font(), anchor="lm")
    return page
