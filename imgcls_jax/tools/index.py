"""Stores the embeddings of images, so that `tools.retrieve` finds their neighbours and classes by them.

  python -m imgcls_jax.tools.index --workdir runs/birds FOLDER...

An image's class is the folder that holds it: the first below FOLDER, or FOLDER itself. No training is needed
for a class that the network never saw: index a folder of its images with `--add`, which keeps what is there
and replaces images indexed before. The index is `<workdir>/index.npz`. Exit status: 0 all stored, 1 some
could not be read, 2 none or a mistake in the command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgcls_jax.data.image_files import find_images
from imgcls_jax.tools import exit_with
from imgcls_jax.train.trained import Trained, embedding, load

FILE = "index.npz"


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
    file = Path(workdir) / FILE
    try:
        with np.load(file, allow_pickle=False) as content:
            index = Index(*(content[name] for name in ("embedding", "path", "label")), int(content["step"]))
        _check(index)
    except FileNotFoundError as error:
        raise ValueError(f"{file} is absent: make it by imgcls_jax.tools.index") from error
    except Exception as error:  # whatever a damaged file makes NumPy raise
        raise ValueError(f"{file} is no index of this program ({error}); make it anew") from error
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


def class_of(path: Path, folders: Sequence[Path]) -> str:
    """Returns the class of an image: the first folder below the one that was named, or that one."""
    for folder in folders:
        if path.is_relative_to(folder):
            inside = path.relative_to(folder).parts
            return inside[0] if len(inside) > 1 else folder.resolve().name
    return path.resolve().parent.name


def build(trained: Trained, folders: Sequence[Path], *, batch_size: int) -> tuple[Index, dict[Path, str]]:
    """Embeds all images of folders.

    Returns:
      The index, and why some files could not be read.

    Raises:
      ValueError: not one could.
    """
    rows, errors = [], {}
    paths = find_images([str(folder) for folder in folders])
    for path, row, error in trained.outputs_of_files(paths, embedding, batch_size=batch_size):
        if error:
            errors[path] = error
        else:
            rows.append((row, str(path), class_of(path, folders)))
    if not rows:
        raise ValueError(f"no readable image in {', '.join(map(str, folders))}")
    vectors, names, labels = zip(*rows, strict=True)
    return Index(np.stack(vectors), np.array(names), np.array(labels), trained.step), errors


def joined(old: Index, new: Index) -> Index:
    """Returns both indices as one, the new one's images in place of the same of the old."""
    kept = ~np.isin(old.path, new.path)
    columns = [np.concatenate([a[kept], b]) for a, b in zip(old[:3], new[:3], strict=True)]
    return Index(*columns, new.step)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m imgcls_jax.tools.index", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--workdir", required=True, help="of a training run")
    parser.add_argument("--checkpoint", default="latest", help="'latest' (default), 'best' or a step")
    parser.add_argument("--add", action="store_true", help="to the index that is there")
    parser.add_argument("--batch_size", type=int, default=32)
    arguments = parser.parse_args(argv)
    if arguments.batch_size < 1:
        parser.error("--batch_size is at least 1")
    missing = [folder for folder in arguments.folders if not folder.exists()]
    try:
        if missing:
            raise ValueError(f"{missing[0]} does not exist")
        trained = load(arguments.workdir, arguments.checkpoint)
        old = read(arguments.workdir, trained.step) if arguments.add else None
        index, errors = build(trained, arguments.folders, batch_size=arguments.batch_size)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path, error in errors.items():
        print(f"{path}: {error}", file=sys.stderr)
    if old is not None:
        index = joined(old, index)
    file = Path(arguments.workdir) / FILE
    partial = file.with_name(f"partial_{FILE}")
    np.savez(partial, **index._asdict())
    partial.replace(file)
    print(f"{file}: {len(index.path)} images of {len(np.unique(index.label))} classes")
    return 1 if errors else 0


if __name__ == "__main__":
    exit_with(main)
