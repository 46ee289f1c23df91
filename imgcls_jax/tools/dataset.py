"""Downloads data sets, looks at a folder of images before anything is trained on it, splits and packs it.

  python -m imgcls_jax.tools.dataset download NAME --root FOLDER [--part PART] [--keep]
  python -m imgcls_jax.tools.dataset check ROOT [--source NAME --split SPLIT ...] [--near 2] [--small 32]
    [--format text|json] [--probabilities FILE.npz]
  python -m imgcls_jax.tools.dataset probabilities WORKDIR... --output FILE.npz
  python -m imgcls_jax.tools.dataset split ROOT [--fraction 0.1] [--seed 0]
  python -m imgcls_jax.tools.dataset pack --config FILE.py[:OPTIONS] --out FOLDER [--split train]
    [--name NAME] [--shard_mib 512] [--config.data.root=...]

`download` fetches the files of the source NAME from their publisher, goes on where an earlier start broke
off, checks size and checksum where they are known, and unpacks archives into FOLDER, the later `data.root`.
`--part` chooses where a data set has several, such as years; `--keep` keeps the archives. Of a data set that
asks for an account it says where it is.

ROOT holds `<class>/<image>` or `<split>/<class>/<image>`, told apart as in training. `check` counts images by
split and class, and reports files that cannot be decoded, sides under `--small` pixels, exact duplicates (of
the decoded pixels), groups of near ones (difference hashes of 64 bits that differ in at most `--near` from
another's), and which of these lie in two splits, where they leak, or in two classes, where one label is
wrong. With `--source` it reads splits of that source under ROOT (parquet, webdataset, array_record, cub200,
...), "train" by default, and names images as training does. `split` writes `train.txt` and `val.txt`
into ROOT, `path label` lines that hold out the fraction of every class, and `classes.txt`, for
`data.source = "list_file"`.

`probabilities` predicts every image of a cross-validation (`tools.sweep --folds`) by the run that did not
train on it. With that file `check` also names the images whose label is likely another one, by confident
learning (data/label_errors.py): how many of each label look like which other, and a list, the least probable
label first, in FILE.suspects.csv. Exit status of `check`: 0 nothing found, 1 something, 2 a mistake in the
command.

`pack` writes a split of a configuration's source, all of it, as it is before any transform, into FOLDER:
shards of array_record of some `--shard_mib`, names and labels, and a description, which comes last. Encoded
images stay the bytes that they are. `data.source = "array_record"` with `data.root = FOLDER` reads it. A
split that is there already is not written again; one whose packing was interrupted is not there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.command import (
    add_batch_size,
    add_data,
    at_least_one,
    command,
    exit_with,
    importing,
    parser_of,
    user_path,
    workdir_path,
)
from imgcls_jax.runtime.files import naming
from imgcls_jax.runtime.mistakes import reason, user_mistake
from imgcls_jax.runtime.names import printable
from imgcls_jax.runtime.progress import tracked

with importing(__name__):
    import numpy as np

    from imgcls_jax.data.all_images import Row, rows_of_folder, rows_of_source
    from imgcls_jax.data.contents import real_path
    from imgcls_jax.data.decoding import decode
    from imgcls_jax.data.download import download
    from imgcls_jax.data.duplicates import Found, difference_hash, exact_duplicates, near_duplicates
    from imgcls_jax.data.folders import find_layout
    from imgcls_jax.data.listing import describe_left_out
    from imgcls_jax.data.sources.image_folder import ImageFolder
    from imgcls_jax.data.subsets import stratified_split

NO_FAULTS = ("counts", "left_out", "classes", "joint", "absent")  # parts of a report of nothing wrong
SHOWN = 10  # names of a group that are printed
SHOWN_CLASSES = 20  # of which all counts are printed; of more classes the largest ones


def look(rows: Sequence[Row]) -> tuple[list[Found], dict[str, str]]:
    """Reads images.

    Returns:
      Those that could be read, and {name: why not} for the others.
    """
    found, broken = [], {}
    for row in tracked(rows, "reading"):
        try:
            image = decode(row.read(), may_shrink=True)
        except (OSError, ValueError) as error:
            broken[row.name] = user_mistake(error) or reason(error)
            continue
        pixels = np.asarray(image)
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        found.append(Found(row.name, row.split, row.label, image.size, digest, difference_hash(image)))
    return found, broken


def check(
    root: Path, *, near: int, small: int, probabilities: Path | None = None, source: str = "",
    splits: Sequence[str] = ("train",),
) -> dict[str, Any]:  # fmt: skip
    """Returns what `check` reports.

    Args:
      root: the folder.
      near: bits by which near duplicates may differ.
      small: least side, in pixels, that is not reported.
      probabilities: file of out-of-fold ones, or None.
      source: that reads the splits; "" for folders of images.
      splits: of the source.

    Returns:
      counts {split: {class: images}}; left_out {kind: files that are no images}; unreadable {path: why};
      small, paths; duplicates and near_duplicates, lists of paths each; leaks and conflicts, those of both
      kinds whose images lie in several splits and in several classes. With probabilities also what
      `out_of_fold.suspects` returns, paths relative to the root.
    """
    rows, left_out = rows_of_source(root, source, splits) if source else rows_of_folder(root)
    found, broken = look(rows)
    counts: dict[str, dict[str, int]] = {}
    for image in found:
        classes = counts.setdefault(image.split, {})
        classes[image.label] = classes.get(image.label, 0) + 1
    exact, alike = exact_duplicates(found), near_duplicates(found, near)
    groups = [*exact, *alike]

    def paths(chosen: Sequence[Sequence[int]]) -> list[list[str]]:
        return [[found[position].path for position in group] for group in chosen]

    labels = {} if probabilities is None else _suspects(root, found, probabilities)
    return {
        "counts": counts,
        "left_out": dict(left_out),
        "unreadable": broken,
        "small": [image.path for image in found if min(image.size) < small],
        "duplicates": paths(exact),
        "near_duplicates": paths(alike),
        "leaks": paths([g for g in groups if len({found[position].split for position in g}) > 1]),
        "conflicts": paths([g for g in groups if len({found[position].label for position in g}) > 1]),
    } | labels


def _suspects(root: Path, found: Sequence[Found], probabilities: Path) -> dict[str, Any]:
    from imgcls_jax.inference import out_of_fold  # here, so that all else does without jax

    images = {real_path(root / image.path): image for image in found}
    report = out_of_fold.suspects(probabilities, {path: image.label for path, image in images.items()})
    for row in report["suspects"]:
        row["path"] = images[row["path"]].path
    return report


def split(root: Path, *, fraction: float, seed: int) -> dict[str, int]:
    """Writes train.txt, val.txt and classes.txt into a folder of class folders.

    Args:
      root: holds <class>/<image>.
      fraction: of each class that is held out, in (0, 1).
      seed: of the choice.

    Returns:
      {"train": lines, "val": lines}.

    Raises:
      ValueError: root has split folders already, holds no class, or a fraction leaves nothing.
    """
    if find_layout(root).splits:
        raise ValueError(f"{root} is split into folders already; data.source = 'image_folder' reads it")
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction lies between 0 and 1; got {fraction}")
    everything = ImageFolder("train", root=root, test_fraction=1e-9)
    parts = stratified_split(everything.labels, fraction, seed)
    if not all(map(len, parts)):
        raise ValueError(f"{root}: a fraction of {fraction} leaves a part of the split without images")
    inside = everything.root.relative_to(root)
    names = [(inside / file).as_posix() for file in everything.paths]
    for name in (*names, *everything.class_names):
        _require_listable(root, name)
    lists = {"classes": [f"{name}\n" for name in everything.class_names]}
    for part, indices in zip(("train", "val"), parts, strict=True):
        lists[part] = [f"{names[i]} {everything.labels[i]}\n" for i in indices]
    for part, lines in lists.items():
        with naming(root / f"{part}.txt", way_out=""):
            (root / f"{part}.txt").write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    return {"train": len(parts[0]), "val": len(parts[1])}


def _require_listable(root: Path, name: str) -> None:
    """Raises ValueError for a name that a list, a line a name, gives back as another."""
    if name != name.strip() or len(name.splitlines()) > 1:
        raise ValueError(
            f"{printable(root / name)}: a name in a list has no line break, and no blank at its ends: rename "
            "it"
        )


def write_text(report: dict[str, Any]) -> None:
    """Prints a report for reading."""
    for name, classes in sorted(report["counts"].items()):
        sizes = classes.values()
        spread = f"{len(classes)} classes of {min(sizes)} to {max(sizes)}"
        print(printable(f"{name or 'all'}: {sum(sizes)} images in {spread}"))
        for label, count in sorted(classes.items()):
            print(printable(f"  {count:7d}  {label}"))
    if report["left_out"]:
        print(f"left out: {describe_left_out(report['left_out'])}")
    for file, why in report["unreadable"].items():
        print(printable(f"unreadable: {file}: {why}"))
    for file in report["small"]:
        print(printable(f"small: {file}"))
    for kind in ("duplicates", "near_duplicates", "leaks", "conflicts"):
        for group in report[kind]:
            more = f"  and {len(group) - SHOWN} more" if len(group) > SHOWN else ""
            print(printable(f"{kind.replace('_', ' ')}: {'  '.join(group[:SHOWN])}{more}"))
    if "joint" in report:
        _write_labels(report)
    kinds = {kind: len(value) for kind, value in report.items() if kind not in NO_FAULTS}
    print(", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items()))


def _write_labels(report: dict[str, Any]) -> None:
    """Prints the confident joint, and the suspects."""
    names, joint = report["classes"], np.array(report["joint"])
    if len(names) <= SHOWN_CLASSES:
        width = max(len(str(joint.max())), 3) + 1
        print("images by given label (row) and likely label (column), in the same order:")
        for name, row in zip(names, joint.tolist(), strict=True):
            print(printable("".join(f"{count:{width}d}" for count in row) + f"  {name}"))
    else:
        others = np.where(np.eye(len(names), dtype=bool), 0, joint)
        for at in np.argsort(-others, axis=None, kind="stable")[:SHOWN_CLASSES]:
            given, likely = np.unravel_index(at, others.shape)
            if others[given, likely]:
                pair = f"{names[given]} that look like {names[likely]}"
                print(printable(f"{others[given, likely]:7d}  {pair}"))
    for row in report["suspects"]:
        told = f"{row['label']} {row['p_label']:.4f}, likely {row['likely']} {row['p_likely']:.4f}"
        print(printable(f"suspect: {row['path']}: {told}"))
    if report["absent"]:
        print(f"not here any more under their label: {report['absent']} images of the probabilities")


def run_check(arguments: argparse.Namespace) -> int:
    """Prints what is found; returns the exit status."""
    file = arguments.probabilities
    report = check(
        arguments.root, near=arguments.near, small=arguments.small, probabilities=file,
        source=arguments.source, splits=arguments.split or ["train"],
    )  # fmt: skip
    if file:
        from imgcls_jax.inference.out_of_fold import write_suspects

        write_suspects(file.with_suffix(".suspects.csv"), report["suspects"])
    if arguments.format == "json":
        print(json.dumps(report, indent=2))
    else:
        write_text(report)
    return int(any(value for kind, value in report.items() if kind not in NO_FAULTS))


def run_probabilities(arguments: argparse.Namespace) -> int:
    """Writes the out-of-fold probabilities; returns the exit status."""
    from imgcls_jax.inference import out_of_fold
    from imgcls_jax.train.known_data import named

    if arguments.output.suffix != ".npz":
        raise ValueError(f"--output ends with .npz; got {arguments.output}")
    found = out_of_fold.collect(arguments.workdirs, data=named(arguments), batch_size=arguments.batch_size)
    out_of_fold.write(arguments.output, found)
    right = float((found.probabilities.argmax(axis=1) == found.labels).mean())
    print(printable(f"{arguments.output}: {len(found.names)} images, out-of-fold accuracy {right:.4f}"))
    return 0


def run_split(arguments: argparse.Namespace) -> int:
    """Writes the lists; returns the exit status."""
    lines = split(arguments.root, fraction=arguments.fraction, seed=arguments.seed)
    print(printable(f"{arguments.root}: train.txt {lines['train']} images, val.txt {lines['val']}"))
    return 0


def run_download(arguments: argparse.Namespace) -> int:
    """Downloads; returns the exit status."""
    for line in download(arguments.name, arguments.part, arguments.root, keep=arguments.keep):
        print(printable(line), flush=True)
    print(printable(f"--config.data.source={arguments.name} --config.data.root={arguments.root}"))
    return 0


def run_pack(arguments: argparse.Namespace) -> int:
    """Packs a split; returns the exit status."""
    from imgcls_jax.config.files import read_config
    from imgcls_jax.config.resolve import resolve
    from imgcls_jax.data.datasets import DataSide
    from imgcls_jax.data.packed import pack

    configuration = resolve(read_config([f"--config={arguments.config}", *arguments.overrides]))
    source = DataSide(configuration.data).read(arguments.split)
    indices = tracked(range(len(source)), "packing")
    name, out = arguments.name or arguments.split, arguments.out
    made = pack(source, out, name, shard_bytes=arguments.shard_mib * 2**20, indices=indices)
    size = sum(shard.bytes for shard in made.shards) / 2**20
    print(printable(f"{out}: {name}, {made.examples} images in {len(made.shards)} shards, {size:.1f} MiB"))
    print(printable(f"--config.data.source=array_record --config.data.root={out}"))
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("dataset", __doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="what", required=True)
    downloading = commands.add_parser("download", help="fetch and unpack a published data set")
    downloading.set_defaults(run=run_download)
    downloading.add_argument("name", help="of the source, such as cifar10")
    downloading.add_argument("--root", type=user_path, required=True, metavar="FOLDER", help="where to")
    downloading.add_argument("--part", action="append", default=[], help="of a data set that has several")
    downloading.add_argument("--keep", action="store_true", help="keep the archives, in FOLDER/.downloads")
    checking = commands.add_parser("check", help="find broken, small, duplicate and leaking images")
    checking.set_defaults(run=run_check)
    checking.add_argument("root", type=user_path)
    checking.add_argument("--source", default="", metavar="NAME", help="of splits that are no folders")
    checking.add_argument("--split", action="append", default=[], help="of the source; several are compared")
    checking.add_argument("--near", type=int, default=2, help="bits of 64 that near duplicates may differ in")
    checking.add_argument("--small", type=int, default=32, help="least side in pixels (default 32)")
    checking.add_argument("--format", choices=("text", "json"), default="text")
    checking.add_argument(
        "--probabilities", type=user_path, metavar="FILE.npz", help="find images whose label is likely wrong"
    )
    predicting = commands.add_parser("probabilities", help="predict every image by a run without it")
    predicting.set_defaults(run=run_probabilities)
    predicting.add_argument(
        "workdirs", nargs="+", type=workdir_path, metavar="WORKDIR", help="one a fold, or the trial's folder"
    )
    predicting.add_argument("--output", type=user_path, required=True, metavar="FILE.npz")
    add_data(predicting)
    add_batch_size(predicting)
    splitting = commands.add_parser("split", help="write train.txt, val.txt and classes.txt")
    splitting.set_defaults(run=run_split)
    splitting.add_argument("root", type=user_path)
    splitting.add_argument("--fraction", type=float, default=0.1, help="of each class for val.txt")
    splitting.add_argument("--seed", type=int, default=0)
    packing = commands.add_parser("pack", help="write a split as shards of array_record", allow_abbrev=False)
    packing.set_defaults(run=run_pack)
    packing.add_argument("--config", required=True, metavar="FILE.py[:OPTIONS]", help="with its overrides")
    packing.add_argument("--out", type=user_path, required=True, metavar="FOLDER", help="where to")
    packing.add_argument("--split", default="train", help="of the source (default train)")
    packing.add_argument("--name", default="", help="of the split there, if it is to be another")
    packing.add_argument("--shard_mib", type=at_least_one, default=512, help="of a shard (default 512)")
    arguments, overrides = parser.parse_known_args(argv)
    if overrides and arguments.run is not run_pack:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    arguments.overrides = overrides
    if arguments.run is run_check and arguments.split and not arguments.source:
        parser.error("--split is of --source")
    if arguments.run is run_check and arguments.source and arguments.probabilities:
        parser.error("--probabilities are of images in folders: leave out --source")
    return arguments


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    return arguments.run(arguments)


if __name__ == "__main__":
    exit_with(main)
