"""Out-of-fold probabilities: of every image by the network of a cross-validation that did not see it.

A file (.npz) has four arrays: `names` [N], the images' paths or, where the data are no files, what the source
calls them; `labels` int [N]; `class_names` [K]; `probabilities` float32 [N, K].
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.config.settings import FOLD
from imgcls_jax.data.contents import paths_of
from imgcls_jax.data.label_errors import find_label_errors
from imgcls_jax.inference.array_file import read_arrays, write_arrays
from imgcls_jax.inference.trained import load, probabilities
from imgcls_jax.runtime.files import naming, whole
from imgcls_jax.runtime.mistakes import reason
from imgcls_jax.runtime.names import csv_cell
from imgcls_jax.train.known_data import Named

SUM_TOLERANCE = 1e-2  # of an image's probabilities: float16 writers stay below


class OutOfFold(NamedTuple):
    """The arrays of a file.

    Attributes:
      names: N texts, each another.
      labels: int64 [N] in [0, K).
      class_names: K texts.
      probabilities: float32 [N, K], rows that sum to 1.
    """

    names: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]
    probabilities: np.ndarray


def collect(workdirs: Sequence[Path], *, data: Named, batch_size: int) -> OutOfFold:
    """Predicts, by the network of each fold, the images that were held out of it.

    Args:
      workdirs: of the runs of one cross-validation, one a fold; a trial's folder of `tools.sweep` stands for
        those in it.
      data: what the user says of the runs' data.
      batch_size: images at a time.

    Raises:
      ValueError: a workdir is of no fold, holds out images that another one does, or has other classes; the
        data are not there, or stay closed; images cannot be read.
    """
    class_names: tuple[str, ...] = ()
    parts = []
    for workdir in _runs(workdirs):
        trained = load(workdir, data=data)
        settings = trained.settings.data
        if not settings.folds:
            raise ValueError(
                f"{workdir} was trained on all images (config.data.folds = 0), so its probabilities of them "
                "say nothing of their labels: name the runs of tools.sweep --folds"
            )
        class_names = class_names or tuple(trained.class_names)
        if class_names != tuple(trained.class_names):
            raise ValueError(f"{workdir} has other classes than {workdirs[0]}")
        source = trained.data.source(FOLD)
        found, labels = trained.outputs_of_split(FOLD, probabilities, batch_size=batch_size)
        if labels.ndim != 1:
            raise ValueError(f"{workdir}: its images have any number of labels; confident learning takes one")
        if len(labels) != len(source):
            raise ValueError(
                f"{workdir}: {len(source) - len(labels)} images of its fold cannot be read; `dataset check` "
                "names them"
            )
        names = paths_of(source) or [source.describe(index) for index in range(len(source))]
        parts.append((names, labels, found))
    every = [name for names, _, _ in parts for name in names]
    if twice := next(_repeated(every), ""):
        raise ValueError(f"{twice} is held out twice: name each fold of one cross-validation once")
    labels, found = (np.concatenate([part[column] for part in parts]) for column in (1, 2))
    return OutOfFold(every, labels.astype(np.int64), class_names, found)


def _runs(workdirs: Sequence[Path]) -> Iterator[Path]:
    for workdir in workdirs:
        yield from sorted(own.parent for own in workdir.glob("fold_*/config.json")) or [workdir]


def _repeated(names: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


def write(file: Path, found: OutOfFold) -> None:
    """Writes a file, whole or not at all.

    Raises:
      OSError: it cannot be written; names it.
    """
    write_arrays(
        file,
        {
            "names": np.array(found.names, str),
            "labels": found.labels,
            "class_names": np.array(found.class_names, str),
            "probabilities": np.asarray(found.probabilities, np.float32),
        },
    )


def read(file: Path) -> OutOfFold:
    """Reads a file, whoever wrote it.

    Raises:
      ValueError: it is absent or damaged, or its arrays do not go together; names it and the array.
    """
    try:
        arrays = read_arrays(file)
    except FileNotFoundError as error:
        raise ValueError(f"{file} is absent: `dataset probabilities` writes it") from error
    except Exception as error:  # whatever a damaged file makes NumPy raise
        raise ValueError(f"{file} is no file of `dataset probabilities`: {reason(error)}") from error
    missing = [name for name in ("names", "labels", "class_names", "probabilities") if name not in arrays]
    if missing:
        raise ValueError(f"{file} has no array {missing[0]!r}")
    names, labels, classes, found = (arrays[n] for n in ("names", "labels", "class_names", "probabilities"))
    shape = (len(names) if names.ndim else 0, len(classes) if classes.ndim else 0)
    sound = {
        "names": names.dtype.kind == "U" and names.ndim == 1 and names.size > 0,
        "class_names": classes.dtype.kind == "U" and classes.ndim == 1 and classes.size > 0,
        "labels": labels.dtype.kind in "iu" and labels.shape == shape[:1],
        "probabilities": found.dtype.kind == "f" and found.shape == shape,
    }
    if unsound := [name for name, good in sound.items() if not good]:
        array = arrays[unsound[0]]
        raise ValueError(
            f"{file}: {unsound[0]} is {array.dtype} {list(array.shape)}; expected names [N] and class_names "
            "[K] of texts, labels [N] of integers and probabilities [N, K]"
        )
    if not 0 <= labels.min() <= labels.max() < shape[1]:
        raise ValueError(f"{file}: labels lie in 0..{shape[1] - 1}; got {labels.min()} to {labels.max()}")
    rows = found.astype(np.float64)
    wrong = ~((rows >= 0).all(axis=1) & (np.abs(rows.sum(axis=1) - 1) <= SUM_TOLERANCE))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{file}: row {row} of probabilities sums to {rows[row].sum():.4g}, not to 1")
    if twice := next(_repeated(names.tolist()), ""):
        raise ValueError(f"{file}: names holds {twice!r} twice")
    return OutOfFold(names.tolist(), labels.astype(np.int64), classes.tolist(), found)


def suspects(file: Path, classes: Mapping[str, str]) -> dict[str, Any]:
    """Returns what confident learning says of the images of a folder.

    Args:
      file: of probabilities.
      classes: {path, as `paths_of` has it: class folder} of the folder's images.

    Returns:
      classes: K names. joint: K lists of K, images by given and likely label. suspects: a list of {"path",
      "label", "likely", "p_label", "p_likely"}, the least probable given label first. absent: how many
      images of the file are not in the folder under their label.

    Raises:
      ValueError: the file cannot be read, or has no image of the folder.
    """
    found = read(file)
    names = found.class_names
    kept = [
        row
        for row, (path, label) in enumerate(zip(found.names, found.labels.tolist(), strict=True))
        if classes.get(path) == names[label]
    ]
    if not kept:
        raise ValueError(
            f"{file} has no image of this folder under its label; its first is {found.names[0]}, labeled "
            f"{names[found.labels[0]]!r}"
        )
    p, labels = found.probabilities[kept], found.labels[kept]
    errors = find_label_errors(p, labels)
    rows = [
        {
            "path": found.names[kept[row]],
            "label": names[labels[row]],
            "likely": names[errors.likely[row]],
            "p_label": float(p[row, labels[row]]),
            "p_likely": float(p[row, errors.likely[row]]),
        }
        for row in errors.suspects.tolist()
    ]
    return {
        "classes": list(names),
        "joint": errors.counts.tolist(),
        "suspects": rows,
        "absent": len(found.names) - len(kept),
    }


def write_suspects(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes suspects as CSV: path, label, likely, p_label, p_likely. Names are made safe for terminals and
    spreadsheets.

    Raises:
      OSError: it cannot be written; names it.
    """
    with naming(file, way_out=""), whole(file, "w") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["path", "label", "likely", "p_label", "p_likely"])
        for row in rows:
            texts = [csv_cell(row[name]) for name in ("path", "label", "likely")]
            writer.writerow([*texts, f"{row['p_label']:.6f}", f"{row['p_likely']:.6f}"])
