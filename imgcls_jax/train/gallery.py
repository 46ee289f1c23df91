"""What trackers show of an evaluation beside its numbers: the classes one by one, and pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from imgcls_jax.contracts.evaluator import Measured, Shown
from imgcls_jax.contracts.tracker import Entry, Table
from imgcls_jax.figures import evaluation_pictures as pictures
from imgcls_jax.runtime.mistakes import in_one_line
from imgcls_jax.runtime.names import printable

logger = logging.getLogger(__name__)

BY_CLASS = ("precision", "recall", "f1")
CURVES = 100  # classes at most with a curve each; the table has all


class Gallery:
    """Makes entries of evaluations. A picture that cannot be drawn is left out, with one line.

    Args:
      class_names: K, of the training split.
      source_of: from a split that was evaluated to its examples.
    """

    def __init__(self, class_names: Sequence[str], source_of: Callable[[str], Any]):
        self._names, self._source_of = [printable(name) for name in class_names], source_of
        self._told: set[str] = set()

    def entry(self, step: int, name: str, metrics: Mapping[str, Any]) -> Entry:
        """Returns what there is to show of an evaluation.

        Args:
          step, name: of it.
          metrics: that it gave.
        """
        lists = self._by_class(metrics)
        tables, curves = {}, {}
        if set(BY_CLASS) & set(lists):
            rows = list(zip(self._names, *lists.values(), strict=True))
            tables[f"{name}/classes"] = Table(("class", *lists), rows)
            if len(self._names) <= CURVES:
                for figure in (figure for figure in BY_CLASS if figure in lists):
                    for own, value in zip(self._names, lists[figure], strict=True):
                        curves[f"{name}/{figure}/{own}"] = float("nan") if value is None else value
        drawn = {}
        for what, draw in self._drawings(f"{name}, step {step}", metrics).items():
            try:
                drawn[f"{name}/{what}"] = draw()
            except Exception as error:  # whatever a damaged image or a strange array makes of it
                self._tell(f"no picture {name}/{what}: {in_one_line(error)}")
        return Entry(step, name, curves, tables, drawn)

    def _by_class(self, metrics: Mapping[str, Any]) -> dict[str, list[float | None]]:
        """Returns the lists of a number for each class; none of other classes than those of the network."""
        lists = {figure: metrics.get(figure) for figure in ("support", *BY_CLASS)}
        lists["recall"] = lists["recall"] or metrics.get("per_class_accuracy")
        return {
            figure: values
            for figure, values in lists.items()
            if isinstance(values, list) and len(values) == len(self._names)
        }

    def _drawings(self, where: str, metrics: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
        drawings: dict[str, Callable[[], Any]] = {}
        shown = metrics.shown if isinstance(metrics, Measured) else None
        matrix = metrics.get("confusion_matrix")
        if matrix is not None and len(matrix) == len(self._names) <= pictures.MAX_CLASSES:
            drawings["confusion_matrix"] = lambda: pictures.confusion(
                f"Confusion matrix: {where}", np.array(matrix), self._names
            )
        if shown is not None and shown.mistakes is not None and len(shown.mistakes.example):
            drawings["mistakes"] = lambda: self._mistakes(f"Wrong with most confidence: {where}", shown)
        if shown is not None and shown.embedding is not None and min(shown.embedding.shape) >= 2:
            drawings["embedding"] = lambda: self._embedding(f"Embeddings: {where}", shown)
        return drawings

    def _mistakes(self, title: str, shown: Shown) -> Any:
        assert shown.mistakes is not None
        source = self._source_of(shown.split)
        images = [pictures.example_image(source, index) for index in shown.mistakes.example.tolist()]
        captions = [
            (self._names[label], f"{self._names[predicted]}, {confidence:.2f}")
            for label, predicted, confidence in zip(
                *(column.tolist() for column in shown.mistakes[1:]), strict=True
            )
        ]
        return pictures.mistakes(title, images, captions)

    def _embedding(self, title: str, shown: Shown) -> Any:
        assert shown.embedding is not None and shown.label is not None
        names = list(self._source_of(shown.split).class_names)
        notes = f"{len(shown.embedding):,} images, {shown.embedding.shape[1]:,} dimensions."
        return pictures.principal_components(title, shown.embedding, shown.label, names, seed=0, notes=notes)

    def _tell(self, line: str) -> None:
        """Warns of a picture that is missing, once."""
        if line not in self._told:
            self._told.add(line)
            logger.warning("%s", printable(line))
