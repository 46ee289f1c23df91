"""Line charts as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from imgcls_jax.figures import drawing
from imgcls_jax.figures.page import ticks

WIDTH, HEIGHT, LEFT, BOTTOM = 720, 420, 64, 36

Color = tuple[int, int, int] | str


class Line(NamedTuple):
    """A line of a chart: finite points float [N], x rising; of one point it is a dot."""

    x: np.ndarray
    y: np.ndarray
    color: Color


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
    shades = ((190, 200, 215), drawing.color(0))[-len(lines) :]
    colors = [drawing.color(number) for number in range(1, len(marks) + 1)]
    chart = plot(
        [Line(x, y, shade) for y, shade in zip(lines.values(), shades, strict=True)],
        marks=list(zip(marks.values(), colors, strict=True)),
        highest=float(np.max(list(lines.values())[-1])),
        logarithmic=True,
    )
    captions = tuple(f"{way} {text}" for way, text in zip(("across:", "up:"), axes, strict=True))
    rows = [[drawing.Cell(chart, captions)], [drawing.Cell(key([*lines, *marks], [*shades, *colors]))]]
    return drawing.sheet(title, rows, notes=notes)


def plot(
    lines: Sequence[Line],
    *,
    title: str = "",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    marks: Sequence[tuple[float, Color]] = (),
    highest: float = math.inf,
    logarithmic: bool = False,
) -> Image.Image:
    """Returns lines over their axes.

    Args:
      lines: one or more.
      title: above them.
      size: (width, height) in pixels.
      marks: (x, color) each, drawn as upright lines.
      highest: what lies above it is cut off.
      logarithmic: whether x, positive then, is.
    """
    first, last = min(line.x[0] for line in lines), max(line.x[-1] for line in lines)
    low, high = (pick([pick(line.y) for line in lines]) for pick in (np.min, np.max))
    high = min(high, highest)
    room = 0.05 * ((high - low) or 1)
    low, high = low - room, high + room
    width, height = size
    top = drawing.GAP + bool(title) * drawing.line_height()
    span = (math.log(last / first) if logarithmic else last - first) or 1.0

    def place(at: float, value: float) -> tuple[float, float]:
        way = (math.log(at / first) if logarithmic else at - first) / span
        up = min(max((value - low) / (high - low), 0.0), 1.0)
        x = LEFT + way * (width - LEFT - 2 * drawing.GAP)
        y = height - BOTTOM - up * (height - BOTTOM - top)
        return x * drawing.FINE, y * drawing.FINE

    chart = Image.new("RGB", (width * drawing.FINE, height * drawing.FINE), drawing.PAPER)
    pen, letters = ImageDraw.Draw(chart), drawing.font(drawing.TEXT * drawing.FINE)
    pen.text((LEFT * drawing.FINE, 0), drawing.cut(title, width - LEFT), drawing.INK, letters)
    for value in ticks(low, high):
        pen.line((place(first, value), place(last, value)), drawing.GRAY, drawing.FINE)
        across, up = place(first, value)
        pen.text((across - 6 * drawing.FINE, up), f"{value:.4g}", drawing.SOFT, letters, anchor="rm")
    for at, text in _powers(first, last) if logarithmic else _steps(first, last):
        across, up = place(at, low)
        pen.text((across, up + 6 * drawing.FINE), text, drawing.SOFT, letters, anchor="mt")
    for line in lines:
        points = [place(*point) for point in zip(line.x, line.y, strict=True)]
        pen.line(points, line.color, 2 * drawing.FINE)
        if len(points) == 1:
            pen.circle(points[0], 4 * drawing.FINE, line.color)
    for at, color in marks:
        pen.line((place(at, low), place(at, high)), color, 2 * drawing.FINE)
    return chart.resize(size, Image.Resampling.LANCZOS)


def _powers(low: float, high: float) -> list[tuple[float, str]]:
    """Returns the powers of ten between two numbers, and their names."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [(10.0**power, f"1e{power}") for power in range(first, last + 1)]


def _steps(low: float, high: float) -> list[tuple[float, str]]:
    """Returns round numbers between two, and their names."""
    return [(at, f"{at:,.6g}") for at in ticks(low, high)]


def key(names: Sequence[str], colors: Sequence[Color], *, width: int = WIDTH) -> Image.Image:
    """Returns what each color stands for, a line each."""
    page = Image.new("RGB", (width, drawing.LEGEND_LINE * len(names)), drawing.PAPER)
    pen = ImageDraw.Draw(page)
    for row, (name, shade) in enumerate(zip(names, colors, strict=True)):
        middle = (row + 0.5) * drawing.LEGEND_LINE
        pen.line((LEFT, middle, LEFT + 24, middle), shade, 3)
        pen.text((LEFT + 32, middle), name, drawing.INK, drawing.font(), anchor="lm")
    return page
