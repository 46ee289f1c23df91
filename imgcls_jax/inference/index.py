"""Stored embeddings of images, and the neighbours found among them.

An image's class is the folder that holds it: the first below the folder that was named, or that one itself.
The index of a workdir is `<workdir>/index.npz`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.data.folders import find_layout, unwrapped
from imgcls_jax.data.image_files import find_images
from imgcls_jax.evaluators.knn import nearest, vote
from imgcls_jax.inference.array_file import read_arrays, write_arrays
from imgcls_jax.inference.trained import Trained, embedding
from imgcls_jax.runtime.buckets import as_path
from imgcls_jax.runtime.mistakes import reason
from imgcls_jax.runtime.progress import tracked

FILE = "index.npz"
ALIGNMENT = 64  # bytes: of memory that begins at a multiple of this, jax on a CPU makes no copy


class Index(NamedTuple):
    """Stored embeddings.

    Attributes:
      embedding: float32 [N, D].
      path: str [N].
      label: str [N], the classes' names.
      step: of the checkpoint that made them.
    """

    embedding: np.ndarray
    path: np.ndarray
    label: np.ndarray
    step: int


def read(workdir: str | Path, step: int) -> Index:
    """Reads a workdir's index.

    Args:
      workdir: of a run.
      step: of the checkpoint in use, which must be the one that made the index.

    Raises:
      ValueError: there is none, it is damaged, or another checkpoint made it.
    """
    file = as_path(workdir) / FILE
    try:
        content = read_arrays(file)
        index = Index(content["embedding"], content["path"], content["label"], int(content["step"]))
        _check(index)
        index = index._replace(embedding=aligned(index.embedding))
    except FileNotFoundError as error:
        raise ValueError(f"{file} is absent: make it by imgcls_jax.tools.index") from error
    except Exception as error:  # whatever a damaged file makes NumPy raise
        raise ValueError(f"{file} is no index of this program ({reason(error)}); make it anew") from error
    if index.step != step:
        raise ValueError(
            f"{file} holds embeddings of step {index.step}, the network in use is of step {step}: make the "
            "index anew, or choose that checkpoint"
        )
    return index


def _check(index: Index) -> None:
    rows = {len(column) for column in index[:3]}
    texts = index.path.dtype.kind + index.label.dtype.kind
    if rows != {len(index.path)} or index.embedding.ndim != 2 or texts != "UU" or not index.path.size:
        raise ValueError("its columns are not embeddings, paths and classes of the same images")
    if index.embedding.dtype != np.float32 or not np.isfinite(index.embedding).all():
        raise ValueError("its embeddings are not finite numbers of float32")


def aligned(array: np.ndarray) -> np.ndarray:
    """Returns an array whose memory begins at a multiple of ALIGNMENT: each search of an index on a CPU would
    copy all of it otherwise."""
    if array.ctypes.data % ALIGNMENT == 0:
        return array
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    moved = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    np.copyto(moved, array)
    return moved


def class_of(path: Path, folders: Sequence[Path]) -> str:
    """Returns the class of an image: the first folder below the classes' own, or the folder that was named.

    Args:
      path: of the image.
      folders: those that hold the classes, of `class_roots`.
    """
    for folder in folders:
        if path.is_relative_to(folder):
            inside = path.relative_to(folder).parts
            return inside[0] if len(inside) > 1 else folder.resolve().name
    return path.resolve().parent.name


def class_roots(folders: Sequence[Path]) -> list[Path]:
    """Returns the folders of the classes in those named, the innermost first: the splits where they are split
    (`data.folders.find_layout`), else themselves."""
    roots = []
    for folder in folders:
        if folder.is_dir():
            top, splits = find_layout(folder)
            roots += [top, *map(unwrapped, splits.values())]
    return sorted(dict.fromkeys(roots), key=lambda root: -len(root.parts))


def build(trained: Trained, folders: Sequence[Path], *, batch_size: int) -> tuple[Index, dict[Path, str]]:
    """Embeds all images of folders.

    Returns:
      The index, and why some files could not be read.

    Raises:
      ValueError: not one could.
    """
    rows, errors = [], {}
    paths = find_images([str(folder) for folder in folders])
    roots = class_roots(folders)
    found = trained.outputs_of_files(paths, embedding, batch_size=batch_size)
    for path, row, error in tracked(found, "embedding", len(paths)):
        if error:
            errors[path] = error
        else:
            rows.append((row, str(path), class_of(path, roots)))
    if not rows:
        raise ValueError(f"no readable image in {', '.join(map(str, folders))}")
    vectors, names, labels = zip(*rows, strict=True)
    return Index(np.stack(vectors), np.array(names), np.array(labels), trained.step), errors


def write(workdir: str | Path, index: Index) -> Path:
    """Writes a workdir's index, whole or not at all, and returns its path.

    Raises:
      OSError: it cannot be written; names it.
    """
    return write_arrays(as_path(workdir) / FILE, index._asdict())


def joined(old: Index, new: Index) -> Index:
    """Returns both indices as one, the new one's images in place of the same of the old, by whatever path."""
    here = {os.path.realpath(path) for path in new.path.tolist()}
    kept = np.array([os.path.realpath(path) not in here for path in old.path.tolist()])
    embedding, path, label = (np.concatenate([a[kept], b]) for a, b in zip(old[:3], new[:3], strict=True))
    return Index(embedding, path, label, new.step)


def search(index: Index, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows of an index most like others.

    Args:
      index: of stored embeddings.
      queries: float32 [N, D].
      k: neighbours, at most all of the index.

    Returns:
      Cosines float32 [N, k], the largest first, and the rows of the index, int [N, k].

    Raises:
      ValueError: the index holds embeddings of another size.
    """
    if queries.shape[1] != index.embedding.shape[1]:
        raise ValueError(
            "the index holds embeddings of another network: make it anew by imgcls_jax.tools.index"
        )
    return nearest(queries, index.embedding, k=min(k, len(index.path)))


def retrieve(
    trained: Trained, index: Index, paths: Sequence[Path], *,
    k: int, temperature: float, unknown_below: float = -1.0, batch_size: int,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yields an answer a file, in order.

    Args:
      trained, index: the network and the embeddings it made.
      paths: of images.
      k: neighbours, at most all of the index.
      temperature: of the vote, positive.
      unknown_below: where the nearest neighbour's cosine is less than this, the class is None.
      batch_size: files at a time.

    Yields:
      {"path", "class", "neighbours": [{"path", "class", "similarity"}, ...]}, the most alike first, or
      {"path", "error"}.
    """
    outputs = trained.outputs_of_files(paths, embedding, batch_size=batch_size)
    found = list(tracked(outputs, "embedding", len(paths)))
    queries = [output for _, output, error in found if not error]
    if queries:
        similarity, position = search(index, np.stack(queries), k)
    row = 0
    for path, _, error in found:
        if error:
            yield {"path": str(path), "error": error}
            continue
        neighbours = [
            {"path": str(index.path[i]), "class": str(index.label[i]), "similarity": float(cosine)}
            for cosine, i in zip(similarity[row], position[row], strict=True)
        ]
        known = similarity[row, 0] >= unknown_below
        # Among the classes of the neighbours alone: an index may hold a class an image.
        names, classes = np.unique(index.label[position[row]], return_inverse=True)
        scores = vote(
            similarity[row : row + 1], classes[None], num_classes=len(names), temperature=temperature
        )
        label = str(names[scores[0].argmax()]) if known else None
        yield {"path": str(path), "class": label, "neighbours": neighbours}
        row += 1
