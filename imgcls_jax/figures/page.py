"""Pieces of a self-contained HTML page: tables, line charts, heat maps, pictures. Nothing is fetched, and
every text is escaped. Its looks and its behavior are `page.css` and `page.js` beside this file."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Told apart by readers of all kinds of color vision (Okabe and Ito 2008).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888")
WIDTH, HEIGHT, LEFT, BOTTOM = 400, 230, 52, 30  # of a chart, in its own units
LARGEST_TABLE = 20  # classes of a confusion matrix that is written out in numbers
HERE = Path(__file__).parent


def text(value: Any) -> str:
    """Returns a value as HTML text; numbers short, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return html.escape(str(value))
    if isinstance(value, int) or float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:.4g}"


def page(title: str, body: Sequence[str]) -> str:
    """Returns a whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{_beside('page.css')}</style></head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>{_beside('page.js')}</script></body></html>\n"
    )


def _beside(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], *, sorts: bool = False, marked: Sequence[int] = ()
) -> str:
    """Returns a table; with sorts a click on a column's head orders the rows; marked rows stand out."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(
            f'<td data-value="{-1 if cell is None else cell!r}">{text(cell)}</td>'
            if cell is None or isinstance(cell, (int, float)) and not isinstance(cell, bool)
            else f"<td>{text(cell)}</td>"
            for cell in row
        )
        lines.append(f"<tr{' class=differs' if number in marked else ''}>{cells}</tr>")
    kind = ' class="sorts"' if sorts else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def key(names: Sequence[str]) -> str:
    """Returns the legend of charts whose lines are these, in order."""
    spans = [
        f'<span><i style="background:{COLORS[i % len(COLORS)]}"></i>{text(name)}</span>'
        for i, name in enumerate(names)
    ]
    return f'<p class="key">{"".join(spans)}</p>'


def chart(
    title: str, lines: Sequence[tuple[int, Sequence[tuple[float, float]], bool]], *, unit: str = "step"
) -> str:
    """Returns a line chart.

    Args:
      title: above it.
      lines: (number of the color, points (x, y), whether it is dashed) each; points that are not finite are
        left out.
      unit: of x.
    """
    finite = [(c, [p for p in points if all(map(math.isfinite, p))], dashed) for c, points, dashed in lines]
    drawn = [line for line in finite if line[1]]
    if not drawn:
        return ""
    xs, ys = (np.array([p[i] for _, points, _ in drawn for p in points]) for i in (0, 1))
    x_ticks, y_ticks = ticks(xs.min(), xs.max()), ticks(ys.min(), ys.max())
    low, high = min(ys.min(), y_ticks[0]), max(ys.max(), y_ticks[-1])

    def x_of(x: float) -> float:
        return LEFT + (x - xs.min()) / ((xs.max() - xs.min()) or 1) * (WIDTH - LEFT - 12)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (y - low) / ((high - low) or 1) * (HEIGHT - BOTTOM - 12)

    parts = []
    for y in y_ticks:
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{y_of(y):.1f}" y2="{y_of(y):.1f}" stroke="#8884"/>'
            f'<text x="{LEFT - 6}" y="{y_of(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>'
        )
    for x in x_ticks:
        parts.append(f'<text x="{x_of(x):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{x:.6g}</text>')
    for color, points, dashed in drawn:
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        style = f'fill="none" stroke="{COLORS[color % len(COLORS)]}" stroke-width="1.8"{dash}'
        parts.append(f'<polyline points="{path}" {style}/>')
        if len(points) < 2 or dashed:
            fill = COLORS[color % len(COLORS)]
            parts += [
                f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{fill}">'
                f"<title>{x:.4g}: {y:.4g}</title></circle>"
                for x, y in points
            ]
    parts.append(f'<text x="{WIDTH - 12}" y="{HEIGHT}" text-anchor="end">{text(unit)}</text>')
    box = f'viewBox="0 0 {WIDTH} {HEIGHT + 4}" role="img" aria-label="{html.escape(title)}"'
    return f"<div><h3>{text(title)}</h3><svg {box}>{''.join(parts)}</svg></div>"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Returns at most about `most` round numbers between two, at least one."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    last = max(first, math.floor(high / step + 1e-9))
    return [round(number * step, 12) for number in range(first, last + 1)]


def reliability(bins: Mapping[str, Sequence[float | None]]) -> str:
    """Returns the reliability diagram of `metrics.calibration.calibration`: accuracy over confidence."""
    pairs = zip(bins["confidence"], bins["accuracy"], strict=True)
    points = [(c, a) for c, a in pairs if c is not None and a is not None]
    return chart(
        "Accuracy over confidence", [(6, [(0, 0), (1, 1)], False), (0, points, True)], unit="confidence"
    )


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Returns a confusion matrix, rows the true classes: in numbers where they are few, else as a picture
    that tells the number under the pointer."""
    matrix = np.array(counts)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    if len(names) <= LARGEST_TABLE:
        return _small_confusion(matrix, share, names)
    dark = (255 * (1 - np.sqrt(share))).astype(np.uint8)
    off = ~np.eye(len(matrix), dtype=bool)
    pixels = np.stack([np.where(off, 255, dark), dark, np.where(off, dark, 255)], axis=-1).astype(np.uint8)
    content = json.dumps({"names": list(names), "counts": matrix.tolist()}).replace("<", "\\u003c")
    source = data_url(Image.fromarray(pixels), "PNG")
    return (
        f'<div class="heat"><output>Point at a field: rows are the true classes, errors red.</output>'
        f'<img alt="confusion matrix of {len(names)} classes" src="{source}">'
        f'<script type="application/json">{content}</script></div>'
    )


def _small_confusion(matrix: np.ndarray, share: np.ndarray, names: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in ("true \\ predicted", *names))
    lines = []
    for row, name in enumerate(names):
        cells = []
        for column, count in enumerate(matrix[row].tolist()):
            color = "0,158,115" if row == column else "213,94,0"
            shade = f' style="background:rgba({color},{share[row, column] ** 0.5:.2f})"' if count else ""
            cells.append(f"<td{shade}>{count}</td>")
        lines.append(f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}</tr>')
    inside = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table>{inside}</table></div>'


def data_url(image: Image.Image, kind: str = "JPEG") -> str:
    """Returns an image as a URL that holds it."""
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 82} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def picture(image: Image.Image, *captions: str, side: int = 112) -> str:
    """Returns an image, shrunk to a thumbnail, with lines below it."""
    thumbnail = image.convert("RGB")
    if max(thumbnail.size) < side:
        factor = side / max(thumbnail.size)
        thumbnail = thumbnail.resize([round(n * factor) for n in thumbnail.size], Image.Resampling.NEAREST)
    thumbnail.thumbnail((side, side))
    below = "".join(f"<div>{text(caption)}</div>" for caption in captions)
    small = ' class="small"' if side < 112 else ""
    alt = html.escape(", ".join(captions) or "example")
    return f'<figure{small}><img alt="{alt}" src="{data_url(thumbnail)}">{below}</figure>'
