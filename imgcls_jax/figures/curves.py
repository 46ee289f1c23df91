"""The curves of a run: what it logged, over its steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from imgcls_jax.figures import drawing, line_chart
from imgcls_jax.figures.drawing import Cell
from imgcls_jax.figures.line_chart import Line
from imgcls_jax.figures.page import COLORS
from imgcls_jax.train import finished

SIZE = (440, 260)  # of a chart
NO_CURVES = ("epoch", "examples_per_second", "input_wait", "num_examples")


def draw(workdir: Path) -> Image.Image:
    """Draws each quantity that a run has logged, training and evaluations in one chart.

    Args:
      workdir: of a run, finished or not.

    Raises:
      ValueError: it has logged nothing twice, or its metrics.jsonl is damaged.
      OSError: there is no metrics.jsonl.
    """
    charts: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in finished.read_records(workdir / "metrics.jsonl"):
        for name, value in record.items():
            origin, _, quantity = name.rpartition("/")
            if origin and quantity not in NO_CURVES and value is not None:
                charts.setdefault(quantity, {}).setdefault(origin, []).append((record["step"], value))
    charts = {name: lines for name, lines in charts.items() if max(map(len, lines.values())) > 1}
    if not charts:
        raise ValueError(f"{workdir} has logged nothing twice yet: there is no curve to draw")
    origins = list(dict.fromkeys(origin for lines in charts.values() for origin in lines))
    colors = {origin: COLORS[number % len(COLORS)] for number, origin in enumerate(origins)}
    cells = []
    for name, lines in charts.items():
        drawn = []
        for origin, points in lines.items():
            steps, values = np.array(points, float).T
            drawn.append(Line(steps, values, colors[origin]))
        cells.append(Cell(line_chart.plot(drawn, title=name, size=SIZE)))
    rows = [cells[i : i + 2] for i in range(0, len(cells), 2)]
    rows.append([Cell(line_chart.key(origins, list(colors.values()), width=SIZE[0]))])
    return drawing.sheet(f"Curves of {workdir.name}", rows, notes="over the steps")
