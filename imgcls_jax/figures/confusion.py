"""Which classes a network takes for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from imgcls_jax.figures import drawing
from imgcls_jax.figures.drawing import Cell
from imgcls_jax.figures.page import LARGEST_TABLE

SIDE = 720  # of the matrix of many classes
FIELD, NAME = 40, 140  # of a class where they are few, and the widest name
RIGHT, WRONG = np.array((0, 158, 115)), np.array((213, 94, 0))


def draw(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], *, notes: str = ""
) -> Image.Image:
    """Draws the confusion matrix, in numbers where the classes are few.

    A field's color is its share of its row: green where it is right, orange where it is wrong.

    Args:
      probabilities: float [N, K].
      labels: int [N] in [0, K).
      names: K, of the classes.
      notes: below the title.

    Raises:
      ValueError: the images have several labels, or another number of classes.
    """
    if labels.ndim != 1 or probabilities.shape[1] != len(names):
        raise ValueError(
            f"a confusion matrix is of one label an image and {len(names)} classes; got labels "
            f"{labels.shape} and probabilities {probabilities.shape}"
        )
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    share = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[..., None]
    colors = np.where(np.eye(len(names), dtype=bool)[..., None], RIGHT, WRONG)
    pixels = (255 + share * (colors - 255)) / 255
    right = int(np.trace(counts))
    title = f"Confusion: {right:,} of {len(labels):,} right ({right / len(labels):.1%})"
    drawn = _in_numbers(pixels, counts, names) if len(names) <= LARGEST_TABLE else _of_many(pixels)
    return drawing.sheet(
        title, [[Cell(drawn, ("rows: the true class", "columns: the predicted one"))]], notes=notes
    )


def _in_numbers(pixels: np.ndarray, counts: np.ndarray, names: Sequence[str]) -> Image.Image:
    """Returns the fields with their numbers, between the names."""
    letters, texts = drawing.font(), [drawing.cut(name, NAME) for name in names]
    widest = max(map(letters.getlength, texts))
    room, side = round(widest) + drawing.GAP, FIELD * len(names)
    long = widest > FIELD - 4  # so the columns' names are turned
    head = room if long else drawing.LEGEND_LINE
    page = Image.new("RGB", (room + side, head + side), drawing.PAPER)
    page.paste(drawing.to_image(np.kron(pixels, np.ones((FIELD, FIELD, 1)))), (room, head))
    pen = ImageDraw.Draw(page)
    pen.rectangle((room, head, room + side - 1, head + side - 1), outline=drawing.GRAY)
    turned = Image.new("RGB", (head, side), drawing.PAPER)
    for number, text in enumerate(texts):
        middle = (number + 0.5) * FIELD
        pen.text((room - drawing.GAP / 2, head + middle), text, drawing.INK, letters, anchor="rm")
        if long:
            place = drawing.GAP / 2, middle
            ImageDraw.Draw(turned).text(place, text, drawing.INK, letters, anchor="lm")
        else:
            pen.text((room + middle, head / 2), text, drawing.INK, letters, anchor="mm")
    if long:
        page.paste(turned.transpose(Image.Transpose.ROTATE_90), (room, 0))
    for row, column in zip(*np.nonzero(counts), strict=True):
        place = room + (column + 0.5) * FIELD, head + (row + 0.5) * FIELD
        pen.text(place, f"{counts[row, column]:,}", drawing.INK, letters, anchor="mm")
    return page


def _of_many(pixels: np.ndarray) -> Image.Image:
    return drawing.resized(drawing.to_image(pixels), SIDE)
