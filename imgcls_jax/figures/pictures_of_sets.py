"""Many images at once, drawn: neighbours in an index, what the pipeline feeds, embeddings in the plane."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps

from imgcls_jax.config.resolve import Configuration
from imgcls_jax.data import decoding
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.figures import drawing
from imgcls_jax.figures.drawing import Cell
from imgcls_jax.figures.network_input import check_count, unnormalized
from imgcls_jax.figures.pictures import network_of
from imgcls_jax.inference.index import Index, build, retrieve
from imgcls_jax.inference.trained import Trained, embedding

THUMBNAIL = 144  # pixels of one of many images
TEMPERATURE = 0.07  # of the neighbours' vote: retrieve's own
PERPLEXITY = 30.0  # of t-SNE, scikit-learn's own; a third of the images where they are fewer
METHODS = ("pca", "tsne")


def thumbnail(path: str | Path) -> Image.Image:
    """Returns an image file on a square; a grey one where it cannot be read."""
    square = THUMBNAIL, THUMBNAIL
    try:
        image = decoding.decode(Path(path).read_bytes())
    except (OSError, ValueError):
        return Image.new("RGB", square, drawing.GREY)
    if max(image.size) * 2 <= THUMBNAIL:
        image = drawing.resized(image, THUMBNAIL)
    return ImageOps.pad(image, square, Image.Resampling.LANCZOS, color=drawing.PAPER)


def neighbours(
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


def augmentation(
    configuration: Configuration, *, split: str, phase: str, examples: int, draws: int
) -> Image.Image:
    """Draws what training feeds the network: the same examples as several epochs draw them.

    Batches and randomness are the pipeline's own: the examples keep their places in the order, and each draw
    is the first batch of another epoch. A row of views stands below for each line of data.view_transforms.

    Args:
      configuration: of a run.
      split: to draw from; "" for the configuration's training split.
      phase: of the section phases, whose train_transforms are drawn; "" for those of `data`.
      examples, draws: how many.

    Raises:
      ValueError: a mistake in the configuration, no such phase, or too few examples.
    """
    settings, phases = configuration.data, configuration.resolved["phases"]
    if phase and phase not in phases:
        raise ValueError(f"the configuration has no phase {phase!r}; it has {', '.join(phases) or 'none'}")
    data = DataSide(dataclasses.replace(settings, train_split=split) if split else settings)
    settings, train_line = data.settings, settings.train_transforms
    if phase:
        train_line = phases[phase]["train_transforms"]
        data = data.with_train_transforms(f"phases.{phase}", train_line)
    if len(data.training) < examples:
        raise ValueError(f"the split {settings.train_split!r} has {len(data.training)} examples; draw fewer")
    drawn = draw_batches(data, configuration.seed, examples, draws)
    in_order, prepare = data.training_in_order(1), jax.jit(data.prepare)
    rows = []
    for row, index in enumerate(drawn[0]["index"].tolist()):
        plain = np.asarray(prepare({"image": in_order[index]["image"]})["image"])
        first = Cell(
            _shown(settings.eval_transforms, plain),
            (_label(data.training.class_names, drawn[0]["label"][row]),),
        )
        lines = [(train_line, "train", [one["image"] for one in drawn])]
        for number, line in enumerate(settings.view_transforms):
            lines.append((line, f"view {number + 1}", [one["views"][number] for one in drawn]))
        for position, (line, name, images) in enumerate(lines):
            cells = [Cell(_shown(line, np.asarray(image[row : row + 1]))) for image in images]
            start = Cell(drawing.placard(name, first.image.size)) if position else first
            rows.append([start, *cells])
    notes = f"train: {train_line}"
    notes += "".join(f" · view {n}: {line}" for n, line in enumerate(settings.view_transforms, start=1))
    return drawing.sheet(
        f"What training feeds: {settings.source}, {settings.train_split}",
        rows,
        notes=notes,
        columns=("evaluation", "training"),
    )


def draw_batches(data: DataSide, seed: int, examples: int, draws: int) -> list[dict[str, Any]]:
    """Returns the first batch of several epochs as an objective gets it, of the same examples each time."""
    order = data.train_batches(examples, seed).order_of(0)
    batches = data.train_batches(examples, seed, order)
    augment = jax.jit(data.augment)
    drawn = []
    for epoch in range(draws):
        step = epoch * batches.steps_per_epoch
        batch = batches[step]
        batch.pop("bad_examples")
        drawn.append(augment(jax.random.fold_in(jax.random.key(seed), step), batch))
    return drawn


def _shown(line: str, image: np.ndarray) -> Image.Image:
    return drawing.to_image(unnormalized(line, image)[0], THUMBNAIL)


def _label(names: Sequence[str], label: Any) -> str:
    """Returns the name of a label, or the names of several."""
    if np.ndim(label):
        return ", ".join(name for name, on in zip(names, label, strict=True) if on) or "no label"
    return names[int(label)] if label >= 0 else "label hidden"


def embed_split(
    trained: Trained, split: str, *, batch_size: int
) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
    """Embeds a split.

    Returns:
      Embeddings float32 [N, D], labels int [N], the classes' names.

    Raises:
      ValueError: no such split, or its images have several labels.
    """

    @jax.jit
    def rows(params: Any, objective_state: Any, image: jax.Array) -> jax.Array:
        return embedding(trained.predict(params, objective_state, {"image": image}))

    batches = trained.data.eval_batches(split, batch_size, trained.class_names)
    found, labels = [], []
    for number in range(len(batches)):
        batch = batches[number]
        found.append(np.asarray(rows(trained.params, trained.objective_state, batch["image"]))[batch["mask"]])
        labels.append(batch["label"][batch["mask"]])
    label = np.concatenate(labels)
    if label.ndim != 1:
        raise ValueError("the colours stand for one class an image; the images of this split have several")
    return np.concatenate(found), label, trained.class_names


def embed_folder(trained: Trained, folder: Path, *, batch_size: int) -> Any:
    """The same of a folder of class folders, and why some files could not be read."""
    index, errors = build(trained, [folder], batch_size=batch_size)
    names, label = np.unique(index.label, return_inverse=True)
    return (index.embedding, label, names.tolist()), errors


def embedding_map(
    trained: Trained,
    embedded: tuple[np.ndarray, np.ndarray, Sequence[str]],
    *,
    method: str,
    seed: int,
    what: str,
) -> Image.Image:
    """Draws embeddings in two dimensions, coloured by class.

    Args:
      trained: the network.
      embedded: embeddings, labels and the classes' names.
      method: "pca", or "tsne", which starts from it.
      seed: of both.
      what: was embedded, for the title.

    Raises:
      ValueError: fewer than four images.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    vectors, labels, names = embedded
    if len(vectors) < 4 or vectors.shape[1] < 2:
        raise ValueError(f"a map needs four images or more, and two dimensions; got {vectors.shape}")
    notes = f"{network_of(trained)}: {len(vectors):,} images, {vectors.shape[1]:,} dimensions. "
    if method == "pca":
        pca = PCA(2, random_state=seed)
        points = pca.fit_transform(vectors)
        axes = tuple(
            f"component {i + 1}, {share:.1%} of the variance"
            for i, share in enumerate(pca.explained_variance_ratio_)
        )
        return drawing.scatter(f"PCA of {what}", points, labels, names, notes=notes, axes=axes)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # its threads would wait for those of jax
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
    notes += (
        f"t-SNE of perplexity {perplexity:.3g}: who is near whom counts, distances between groups do not."
    )
    return drawing.scatter(f"t-SNE of {what}", points, labels, names, notes=notes)
