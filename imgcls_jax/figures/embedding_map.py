"""Embeddings of many images in the plane, colored by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from imgcls_jax.figures import drawing
from imgcls_jax.figures.evaluation_pictures import principal_components
from imgcls_jax.figures.network_input import network_of
from imgcls_jax.inference.index import build
from imgcls_jax.inference.trained import Trained, embedding

PERPLEXITY = 30.0  # of t-SNE, scikit-learn's own; a third of the images where they are fewer
METHODS = ("pca", "tsne")

Embedded = tuple[np.ndarray, np.ndarray, Sequence[str]]  # float32 [N, D], labels int [N], the classes' names


def embed_split(trained: Trained, split: str, *, batch_size: int) -> Embedded:
    """Embeds a split.

    Raises:
      ValueError: no such split, or its images have several labels.
    """
    vectors, label = trained.outputs_of_split(split, embedding, batch_size=batch_size)
    if label.ndim != 1:
        raise ValueError("the colors stand for one class an image; the images of this split have several")
    return vectors, label, trained.class_names


def embed_folder(trained: Trained, folder: Path, *, batch_size: int) -> tuple[Embedded, dict[Path, str]]:
    """Embeds a folder of class folders, and says why some files could not be read."""
    index, errors = build(trained, [folder], batch_size=batch_size)
    names, label = np.unique(index.label, return_inverse=True)
    return (index.embedding, label, names.tolist()), errors


def draw(trained: Trained, embedded: Embedded, *, method: str, seed: int, what: str) -> Image.Image:
    """Draws embeddings in two dimensions, colored by class.

    Args:
      trained: the network.
      embedded: embeddings, labels and the classes' names.
      method: "pca", or "tsne", which starts from it.
      seed: of both.
      what: was embedded, for the title.

    Raises:
      ValueError: fewer than four images.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    vectors, labels, names = embedded
    if len(vectors) < 4 or vectors.shape[1] < 2:
        raise ValueError(f"a map needs four images or more, and two dimensions; got {vectors.shape}")
    notes = f"{network_of(trained)}: {len(vectors):,} images, {vectors.shape[1]:,} dimensions. "
    if method == "pca":
        return principal_components(f"PCA of {what}", vectors, labels, names, seed=seed, notes=notes)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # its threads would wait for those of jax
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
    notes += (
        f"t-SNE of perplexity {perplexity:.3g}: who is near whom counts, distances between groups do not."
    )
    return drawing.scatter(f"t-SNE of {what}", points, labels, names, notes=notes)
