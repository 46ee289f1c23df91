"""Pictures of an evaluation: the confusion matrix, the surest mistakes, the embeddings in the plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from imgcls_jax.data.decoding import decode
from imgcls_jax.figures import drawing
from imgcls_jax.figures.drawing import Cell

MATRIX_SIDE, MAX_CLASSES = 640, 2000  # pixels; beyond so many classes there is nothing to be seen
NAMED, NAME_WIDTH = 40, 110  # classes at most whose names stand beside the matrix
COUNTED = 20  # classes at most whose counts stand in the cells
PER_ROW, MISTAKE_SIDE = 6, 112


def example_image(source: Any, index: int) -> Image.Image:
    """Returns the image of an example of a source, before any transform."""
    image = source[index]["image"]
    if isinstance(image, np.ndarray):
        return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return decode(image)


def confusion(title: str, matrix: np.ndarray, names: Sequence[str]) -> Image.Image:
    """Draws a confusion matrix; the brightness of a cell is its part of the true class.

    Args:
      title: above it.
      matrix: integer [K, K], a row a true class.
      names: K, of the classes; written beside the matrix where they are few.

    Raises:
      ValueError: more than MAX_CLASSES classes.
    """
    classes = len(matrix)
    if classes > MAX_CLASSES:
        raise ValueError(f"a confusion matrix of {classes} classes is too large for a picture")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    step = max(1, MATRIX_SIDE // classes)
    cells = drawing.heat(shares).repeat(step, axis=0).repeat(step, axis=1)
    letters, texts = drawing.font(), [drawing.cut(name, NAME_WIDTH) for name in names[:NAMED]]
    room = math.ceil(max(map(letters.getlength, texts))) + drawing.GAP if classes <= NAMED else 0
    plot = Image.new("RGB", (room + len(cells), room + len(cells)), drawing.PAPER)
    plot.paste(drawing.to_image(cells), (room, room))
    draw = ImageDraw.Draw(plot)
    if room:
        upright = Image.new("RGB", (room, len(cells)), drawing.PAPER)
        for number, text in enumerate(texts):
            middle = (number + 0.5) * step
            draw.text((room - 6, room + middle), text, drawing.INK, letters, anchor="rm")
            ImageDraw.Draw(upright).text((6, middle), text, drawing.INK, letters, anchor="lm")
        plot.paste(upright.rotate(90, expand=True), (room, 0))
    if classes <= COUNTED:
        for row, column in np.argwhere(matrix).tolist():
            place = room + (column + 0.5) * step, room + (row + 0.5) * step
            ink = drawing.INK if shares[row, column] > 0.6 else drawing.PAPER
            draw.text(place, str(matrix[row, column]), ink, letters, anchor="mm")
    return drawing.sheet(
        title, [[Cell(plot)]], notes="A row is a true class, a column what it was taken for; bright is often."
    )


def mistakes(title: str, images: Sequence[Image.Image], captions: Sequence[tuple[str, str]]) -> Image.Image:
    """Draws images with two lines under each, in rows.

    Args:
      title: above them.
      images: at least one.
      captions: as many: the true class, and what was said instead, with its probability.
    """
    cells = [
        Cell(drawing.resized(image.convert("RGB"), MISTAKE_SIDE), lines)
        for image, lines in zip(images, captions, strict=True)
    ]
    rows = [cells[start : start + PER_ROW] for start in range(0, len(cells), PER_ROW)]
    return drawing.sheet(
        title, rows, notes="Below each its class, then what it was taken for and how surely."
    )


def principal_components(
    title: str, vectors: np.ndarray, labels: np.ndarray, names: Sequence[str], *, seed: int, notes: str = ""
) -> Image.Image:
    """Draws embeddings by their first two principal components, colored by class.

    Args:
      title, notes: above the plot.
      vectors: float [N, D], N and D at least 2.
      labels: integer [N] in [0, K).
      names: K, of the classes.
      seed: of the randomized decomposition of many.
    """
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=seed)
    points = pca.fit_transform(vectors)
    first, second = (
        f"component {i + 1}, {share:.1%} of the variance"
        for i, share in enumerate(pca.explained_variance_ratio_)
    )
    return drawing.scatter(title, points, labels, names, notes=notes, axes=(first, second))
