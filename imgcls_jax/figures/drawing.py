"""Pictures out of arrays, with Pillow alone: sheets with captions, heat maps, tiles, scatter plots.

Texts are cut or wrapped to the room they have; sizes are pixels.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imgcls_jax.runtime.names import printable

MARGIN, GAP, TEXT, TITLE = 20, 12, 14, 20
THUMBNAIL = 144  # of one of many images
LEAST_WIDTH = 480  # of a sheet, so that titles have room
PAPER, INK, SOFT, GRAY = (255, 255, 255), (25, 25, 25), (105, 105, 105), (222, 222, 222)
HEAT = np.array([(0, 0, 0), (60, 10, 110), (165, 30, 100), (235, 90, 35), (252, 185, 30), (255, 255, 190)])
FINE = 2  # what a scatter plot is drawn larger by and shrunk again, for smooth edges
COLORS = 20  # told apart in a scatter plot; beyond them the shape changes
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
LEGEND_ROWS, LEGEND_LINE, LEGEND_TEXT = 32, 20, 160  # the widest name


class Cell(NamedTuple):
    """A picture of a sheet and the lines under it."""

    image: Image.Image
    captions: tuple[str, ...] = ()


def font(size: int = TEXT) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns Pillow's own font."""
    return ImageFont.load_default(size)


def cut(text: str, width: float, size: int = TEXT) -> str:
    """Returns a text, its end replaced by dots where it is wider than there is room."""
    text, letters = printable(text), font(size)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def wrap(text: str, width: float, size: int = TEXT) -> list[str]:
    """Returns a text in lines that fit; a word that does not fit is cut."""
    lines: list[str] = []
    for word in printable(text).split():
        if lines and font(size).getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(cut(word, width, size))
    return lines


def line_height(size: int = TEXT) -> int:
    return round(size * 1.35)


# ---- arrays as pictures


def to_image(pixels: np.ndarray, side: int | None = None) -> Image.Image:
    """Returns an array as a picture.

    Args:
      pixels: float [H, W, 1 or 3] in [0, 1], clipped.
      side: of its longer edge; whole multiples where it grows to at least twice its size, so that pixels
        stay square. None leaves it.
    """
    rgb = np.broadcast_to(np.clip(pixels, 0, 1), (*pixels.shape[:2], 3))
    image = Image.fromarray(np.round(rgb * 255).astype(np.uint8))
    return image if side is None else resized(image, side)


def resized(image: Image.Image, side: int) -> Image.Image:
    """Returns a picture whose longer edge is about `side`, by whole factors where it is much smaller."""
    factor = side / max(image.size)
    if factor >= 2:
        factor = round(factor)
    width, height = (max(1, round(length * factor)) for length in image.size)
    filtering = Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.LANCZOS
    return image.resize((width, height), filtering)


def stretched(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Returns values on [0, 1], by their least and largest where no others are given; constant ones are 0."""
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    return np.clip((values - low) / ((high - low) or 1), 0, 1)


def heat(values: np.ndarray) -> np.ndarray:
    """Returns a map in colors from black over red to pale yellow.

    Args:
      values: float [H, W] in [0, 1].

    Returns:
      float [H, W, 3] in [0, 1]. The brightness rises with the value.
    """
    position = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(values, position, HEAT[:, c]) for c in range(3)], axis=-1) / 255


def enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a map float [h, w] at (height, width), bilinear."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


def overlaid(pixels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Lays a heat map over a picture, the more opaque the higher it is.

    Args:
      pixels: float [H, W, 1 or 3] in [0, 1].
      values: float [h, w] in [0, 1].

    Returns:
      float [H, W, 3].
    """
    values = enlarged(values, pixels.shape[:2])[..., None]
    opacity = 0.15 + 0.6 * values
    return pixels.mean(axis=-1, keepdims=True) * (1 - opacity) + opacity * heat(values[..., 0])


def with_scale(image: Image.Image, low: str, high: str) -> Image.Image:
    """Returns a heat map with the scale of its colors, and what their ends stand for, below."""
    bar, room = 10, line_height(TEXT)
    sheet = Image.new("RGB", (image.width, image.height + 6 + bar + room), PAPER)
    sheet.paste(image, (0, 0))
    colors = heat(np.linspace(0, 1, image.width)[None].repeat(bar, axis=0))
    sheet.paste(to_image(colors), (0, image.height + 6))
    draw = ImageDraw.Draw(sheet)
    top = image.height + 6 + bar + 2
    draw.text((0, top), low, INK, font())
    draw.text((image.width - 1, top), high, INK, font(), anchor="ra")
    return sheet


def tiled(images: Sequence[Image.Image], *, columns: int, gap: int = 3) -> Image.Image:
    """Returns pictures of one size in rows, each framed in gray."""
    width, height = (length + gap for length in images[0].size)
    columns = min(columns, len(images))
    page = Image.new("RGB", (columns * width + gap, -(-len(images) // columns) * height + gap), PAPER)
    frame = Image.new("RGB", (width + gap, height + gap), GRAY)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        page.paste(frame, (column * width, row * height))
        page.paste(image, (column * width + gap, row * height + gap))
    return page


def placard(text: str, size: tuple[int, int]) -> Image.Image:
    """Returns a text in the place of a picture of (width, height)."""
    page = Image.new("RGB", size, PAPER)
    place = size[0] / 2, size[1] / 2
    ImageDraw.Draw(page).text(place, cut(text, size[0]), SOFT, font(), anchor="mm")
    return page


# ---- sheets


def sheet(
    title: str, rows: Sequence[Sequence[Cell]], *, notes: str = "", columns: Sequence[str] = ()
) -> Image.Image:
    """Returns pictures in rows and columns, with captions.

    Args:
      title: above all.
      rows: of cells; shorter rows end earlier.
      notes: below the title, wrapped.
      columns: what stands above each column.
    """
    count = max(map(len, rows))
    widths = [max(row[c].image.width for row in rows if len(row) > c) for c in range(count)]
    width = max(LEAST_WIDTH, 2 * MARGIN + sum(widths) + GAP * (count - 1))
    head = [(line, TITLE, INK) for line in wrap(title, width - 2 * MARGIN, TITLE)]
    head += [(line, TEXT, SOFT) for line in wrap(notes, width - 2 * MARGIN)]
    line = line_height()
    heights = [
        max(c.image.height + bool(c.captions) * 4 + line * len(c.captions) for c in row) for row in rows
    ]
    top = MARGIN + sum(line_height(size) for _, size, _ in head) + GAP
    height = top + bool(columns) * line + sum(heights) + GAP * (len(rows) - 1) + MARGIN
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    y = MARGIN
    for text, size, color in head:
        draw.text((MARGIN, y), text, color, font(size))
        y += line_height(size)
    lefts = [MARGIN + sum(widths[:c]) + GAP * c for c in range(count)]
    for text, left, room in zip(columns, lefts, widths, strict=False):
        draw.text((left, top), cut(text, room), SOFT, font())
    top += bool(columns) * line
    for row, row_height in zip(rows, heights, strict=True):
        for cell, left, room in zip(row, lefts, widths, strict=False):
            page.paste(cell.image, (left, top))
            for number, caption in enumerate(cell.captions):
                place = left, top + cell.image.height + 4 + number * line
                draw.text(place, cut(caption, room), SOFT if number else INK, font())
        top += row_height + GAP
    return page


# ---- scatter plots


def color(number: int) -> tuple[int, int, int]:
    """Returns one of 20 colors: ten hues, each dark and light, neighbours far apart."""
    light, turn = divmod(number % COLORS, COLORS // 2)
    rgb = colorsys.hls_to_rgb(turn * 3 % 10 / 10, (0.40, 0.70)[light], (0.85, 0.65)[light])
    red, green, blue = (round(255 * part) for part in rgb)
    return red, green, blue


def marker(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, number: int) -> None:
    """Draws the mark of a class: its color, and a shape that changes after every 20 classes."""
    shape, fill = SHAPES[number // COLORS % len(SHAPES)], color(number)
    r = radius
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill)
    elif shape == "square":
        draw.rectangle((x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r), fill)
    elif shape == "triangle":
        draw.polygon(((x, y - 1.2 * r), (x + 1.1 * r, y + 0.9 * r), (x - 1.1 * r, y + 0.9 * r)), fill)
    elif shape == "diamond":
        draw.polygon(((x, y - 1.3 * r), (x + 1.3 * r, y), (x, y + 1.3 * r), (x - 1.3 * r, y)), fill)
    else:
        for slope in (-1, 1):
            draw.line((x - r, y - slope * r, x + r, y + slope * r), fill, max(1, round(0.7 * r)))


def legend(numbers: Sequence[int], names: Sequence[str]) -> Image.Image:
    """Returns the marks of classes with their names, in columns."""
    texts = [cut(names[number], LEGEND_TEXT) for number in numbers]
    width = 40 + math.ceil(max(map(font().getlength, texts)))
    size = math.ceil(len(texts) / LEGEND_ROWS) * width, min(len(texts), LEGEND_ROWS) * LEGEND_LINE
    page = Image.new("RGB", (size[0] * FINE, size[1] * FINE), PAPER)
    places = [divmod(row, LEGEND_ROWS) for row in range(len(texts))]
    for number, (column, row) in zip(numbers, places, strict=True):
        x, y = (column * width + 8) * FINE, (row + 0.5) * LEGEND_LINE * FINE
        marker(ImageDraw.Draw(page), x, y, 5 * FINE, number)
    page = page.resize(size, Image.Resampling.LANCZOS)
    for text, (column, row) in zip(texts, places, strict=True):
        place = column * width + 20, (row + 0.5) * LEGEND_LINE
        ImageDraw.Draw(page).text(place, text, INK, font(), anchor="lm")
    return page


def scatter(
    title: str,
    points: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    notes: str = "",
    axes: tuple[str, str] = ("", ""),
    side: int = 720,
) -> Image.Image:
    """Returns points colored by class, with a legend.

    Args:
      title, notes: above it.
      points: float [N, 2].
      labels: int [N] in [0, K).
      names: K, of the classes; those without a point are left out of the legend.
      axes: below the plot, and above it at the left.
      side: of the plot.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    span = max(float((high - low).max()), 1e-12)
    placed = (points - (low + high) / 2) / span * (side - 4 * GAP) + side / 2  # one unit is as long on both
    plot = Image.new("RGB", (side * FINE, side * FINE), PAPER)
    draw = ImageDraw.Draw(plot)
    draw.rectangle((0, 0, side * FINE - 1, side * FINE - 1), outline=GRAY, width=FINE)
    radius = float(np.clip(90 / math.sqrt(len(points)), 2.5, 6)) * FINE
    for (x, y), label in zip(placed * FINE, labels.tolist(), strict=True):
        marker(draw, x, side * FINE - y, radius, label)
    plot = plot.resize((side, side), Image.Resampling.LANCZOS)
    captions = tuple(f"{way} {text}" for way, text in zip(("across:", "up:"), axes, strict=True) if text)
    return sheet(
        title, [[Cell(plot, captions), Cell(legend(np.unique(labels).tolist(), names))]], notes=notes
    )
