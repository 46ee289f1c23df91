"""Curves and confusion matrices as pictures: where their colors lie."""

import json

import numpy as np
import pytest
from PIL import ImageColor

from imgcls_jax.figures import confusion, curves, line_chart
from imgcls_jax.figures.line_chart import Line
from imgcls_jax.figures.page import COLORS

FIELD = confusion.FIELD**2 - 500  # pixels of a field, without its number


def places(picture, color):
    """Returns (rows, columns) of a color."""
    return np.nonzero((np.asarray(picture) == color).all(-1))


def test_right_fields_are_green_and_wrong_ones_orange():
    labels, names = np.array([0, 0, 1, 2]), ["cat", "dog", "a bird of a very long name"]
    picture = confusion.draw(np.eye(3)[[0, 0, 1, 1]], labels, names)
    (green_rows, green_columns), (rows, columns) = (
        places(picture, color) for color in (confusion.RIGHT, confusion.WRONG)
    )
    assert 2 * FIELD < len(green_rows) <= 2 * confusion.FIELD**2
    assert FIELD < len(rows) <= confusion.FIELD**2
    assert rows.min() > green_rows.max()  # the third row, below the two that are right
    assert columns.min() > green_columns.min() and columns.max() == green_columns.max()  # the second column
    many = confusion.draw(np.eye(30), np.arange(30), list(map(str, range(30))))
    assert len(places(many, confusion.RIGHT)[0]) == 30 * (confusion.SIDE // 30) ** 2
    with pytest.raises(ValueError, match="one label an image and 2 classes"):
        confusion.draw(np.eye(3), labels[:3], ["cat", "dog"])


def test_a_line_rises_where_its_numbers_do():
    x = np.array([0.0, 1.0, 2.0])
    rising, falling = (Line(x, y, color) for y, color in ((x, "#ff0000"), (2 - x, "#0000ff")))
    chart = line_chart.plot([rising, falling])
    for color, sign in (((255, 0, 0), 1), ((0, 0, 255), -1)):
        rows, columns = places(chart, color)
        first, last = rows[columns == columns.min()].mean(), rows[columns == columns.max()].mean()
        assert sign * (first - last) > line_chart.HEIGHT / 2
    dot = line_chart.plot([rising, Line(np.array([1.0]), np.array([1.9]), "#00ff00")])
    assert len(places(dot, (0, 255, 0))[0]) > 20


def test_curves_of_training_and_evaluation_share_a_chart(tmp_path):
    records = [{"step": s, "train/loss": 1 / s, "train/epoch": s} for s in (1, 2, 3)]
    records += [{"step": s, "val/loss": 2 / s, "val/num_examples": 9} for s in (2, 3)] + [
        {"step": 3, "val/once": 1}
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    picture = curves.draw(tmp_path)
    assert picture.height < 2 * curves.SIZE[1]  # of one chart: the loss
    for color in COLORS[:2]:
        near = np.abs(np.asarray(picture, int) - ImageColor.getrgb(color)).max(-1) < 60
        assert near[: curves.SIZE[1]].sum() > 100  # beside the key
    file.write_text(json.dumps(records[0]) + "\n")
    with pytest.raises(ValueError, match="has logged nothing twice"):
        curves.draw(tmp_path)
