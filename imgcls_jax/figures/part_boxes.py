"""Images with the boxes of an object and its parts, and the class that was read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from imgcls_jax.data.decoding import decode
from imgcls_jax.data.source import read_regular
from imgcls_jax.figures import drawing
from imgcls_jax.figures.drawing import Cell

SIDE, COLUMNS, LINE = 288, 4, 3  # pixels of a picture, pictures in a row, pixels of a box's line
COLORS, COLOR_NAMES = ((230, 60, 50), (40, 110, 220), (40, 160, 70)), ("red", "blue", "green")


def draw(answers: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Returns a sheet of images with their regions.

    Args:
      answers: of inference.part_rcnn.predict, without errors, at least one.
    """
    names = list(dict.fromkeys(name for answer in answers for name in answer["regions"]))
    cells = [_cell(answer, names) for answer in answers]
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    key = ", ".join(f"{name} {COLOR_NAMES[number]}" for number, name in enumerate(names))
    return drawing.sheet("Regions", rows, notes=key)


def _cell(answer: Mapping[str, Any], names: Sequence[str]) -> Cell:
    path = Path(answer["path"])
    image = decode(read_regular(path))
    scale = SIDE / max(image.size)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pen = ImageDraw.Draw(small)
    for name, box in answer["regions"].items():
        pen.rectangle([scale * value for value in box], outline=COLORS[names.index(name)], width=LINE)
    label = answer["predictions"][0]["class"]
    return Cell(small, (drawing.cut(label, small.width), drawing.cut(path.name, small.width)))
