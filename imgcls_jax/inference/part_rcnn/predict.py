"""What a fitted Part R-CNN says of image files: their classes, and where root, head and body lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from imgcls_jax.data import proposals
from imgcls_jax.data.decoding import decode
from imgcls_jax.data.source import read_regular
from imgcls_jax.inference.part_rcnn.find import choose, embedded, likely_roots, look, with_embeddings
from imgcls_jax.inference.part_rcnn.model import REGIONS, PartRCNN, described
from imgcls_jax.runtime.mistakes import reason

CHUNK = 32  # images at a time


def predict(model: PartRCNN, paths: Sequence[Path], *, how: str, top_k: int) -> Iterator[dict[str, Any]]:
    """Yields an answer a file, in order.

    Args:
      model: fitted.
      paths: of images, whose root nobody knows.
      how: "box", "mg" or "np", by what the regions are chosen.
      top_k: classes to name, at most all.

    Yields:
      {"path", "predictions": [{"class", "margin"}, ...], "regions": {"root": [x1, y1, x2, y2], ...}}, the
      best class first, its margin that of a linear SVM, boxes in pixels, without parts that were not found;
      or {"path", "error"}.
    """
    propose = proposals.proposer(model.options.proposals)
    for start in range(0, len(paths), CHUNK):
        images: dict[Path, Image.Image] = {}
        errors: dict[Path, str] = {}
        for path in paths[start : start + CHUNK]:
            try:
                images[path] = decode(read_regular(path))
            except (OSError, ValueError) as error:
                text = error.strerror if isinstance(error, OSError) else None
                errors[path] = text or reason(error)
        answers = dict(zip(images, _answers(model, list(images.values()), propose, how, top_k), strict=True))
        for path in paths[start : start + CHUNK]:
            yield {"path": str(path)} | ({"error": errors[path]} if path in errors else answers[path])


@threadpool_limits.wrap(limits=1)
def _answers(
    model: PartRCNN, images: Sequence[Image.Image], propose: proposals.Propose, how: str, top_k: int
) -> list[dict[str, Any]]:
    if not images:
        return []
    looked = [look(model, image, propose) for image in images]
    roots = [likely_roots(one) for one in looked]
    if how == "np":
        roots = with_embeddings(model, images, roots)
    regions = np.stack([choose(model, one, root, how) for one, root in zip(looked, roots, strict=True)])
    columns = embedded(model.trunks, model.options.padding, iter(images), regions[None])
    margins = model.classifier.decide(described([column[0] for column in columns]))
    answers = []
    for row, boxes in zip(margins, regions, strict=True):
        best = np.argsort(-row, kind="stable")[:top_k]
        answers.append(
            {
                "predictions": [{"class": model.class_names[k], "margin": float(row[k])} for k in best],
                "regions": {
                    name: box.tolist()
                    for name, box in zip(REGIONS, boxes, strict=True)
                    if np.isfinite(box).all()
                },
            }
        )
    return answers
