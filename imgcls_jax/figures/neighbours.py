"""Images with those of an index most like them, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from imgcls_jax.data.decoding import decode
from imgcls_jax.figures import drawing
from imgcls_jax.figures.drawing import THUMBNAIL, Cell
from imgcls_jax.figures.network_input import check_count, network_of
from imgcls_jax.inference.index import Index, retrieve
from imgcls_jax.inference.trained import Trained

TEMPERATURE = 0.07  # of the neighbours' vote: retrieve's own


def thumbnail(path: str | Path) -> Image.Image:
    """Returns an image file on a square; a gray one where it cannot be read."""
    square = THUMBNAIL, THUMBNAIL
    try:
        image = decode(Path(path).read_bytes())
    except (OSError, ValueError):
        return Image.new("RGB", square, drawing.GRAY)
    if max(image.size) * 2 <= THUMBNAIL:
        image = drawing.resized(image, THUMBNAIL)
    return ImageOps.pad(image, square, Image.Resampling.LANCZOS, color=drawing.PAPER)


def draw(
    trained: Trained, index: Index, paths: Sequence[Path], *, k: int, batch_size: int
) -> tuple[Image.Image, dict[Path, str]]:
    """Draws images and those of an index most like them, and says which could not be read.

    Args:
      trained, index: the network and the embeddings it made.
      paths: of images.
      k: neighbours.
      batch_size: files at a time.

    Raises:
      ValueError: none could be read, or they are too many.
    """
    check_count(paths)
    answers = list(retrieve(trained, index, paths, k=k, temperature=TEMPERATURE, batch_size=batch_size))
    errors = {Path(answer["path"]): answer["error"] for answer in answers if "error" in answer}
    rows = []
    for answer in answers:
        if "error" not in answer:
            query = Cell(thumbnail(answer["path"]), (Path(answer["path"]).name, f"vote: {answer['class']}"))
            found = [
                Cell(thumbnail(one["path"]), (one["class"], f"cosine {one['similarity']:.3f}"))
                for one in answer["neighbours"]
            ]
            rows.append([query, *found])
    if not rows:
        raise ValueError("; ".join(f"{path}: {error}" for path, error in errors.items()))
    notes = f"{network_of(trained)}. Cosines of embeddings, among {len(index.path):,} images of the index."
    return drawing.sheet("Nearest neighbours", rows, notes=notes, columns=("query", "nearest")), errors
