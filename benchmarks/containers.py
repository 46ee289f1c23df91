"""The same images from a folder, Parquet files, tar shards and packed shards: images a second, and the start.

  python benchmarks/containers.py --cub FOLDER [--images 800] [--rounds 5] [--many 100000]
    [--json FILE]

The first --images training images of CUB-200-2011 are written into each form (Parquet in row groups of 100,
as the hub has them; shards of 8 MB), and read by one thread: decoded and resized to 224 pixels
(`decode | resize(224)`), shuffled and in order, and shuffled without decoding. The forms alternate round by
round; the fastest round counts, and the processor's time an image, which others on the same machine disturb
less. All files are in the page cache: a disk or a network would add its own time, most of it to the folder's
many files. Parquet's row groups stay in memory, as long as they are no more than 256 MiB; the row "parquet,
read anew" keeps none.

The start is the time from the import of the source to its first image in a new process, with --many examples
of 200 bytes: the least of three, and for tar shards also the first one, which makes the index.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.data import parquet_files, transforms
from imgcls_jax.data.packed import pack
from imgcls_jax.data.pipeline import EvalBatches, TrainBatches
from imgcls_jax.data.read_ahead import iterate
from imgcls_jax.data.source import Source
from imgcls_jax.data.sources.cub200 import Cub200
from imgcls_jax.data.sources.image_folder import ImageFolder
from imgcls_jax.data.subsets import subset

ANEW = "parquet, read anew"
WHATS = ("shuffled", "in order", "undecoded")
LINE, BATCH, SHARD_BYTES, GROUP = "decode | resize(224)", 32, 2**23, 100
START = (
    "import time; begin = time.perf_counter(), time.process_time(); "
    "from imgcls_jax.data.sources.{kind} import make; make('train', root={root!r})[0]; "
    "print(time.perf_counter() - begin[0], time.process_time() - begin[1])"
)


def write_folder(source: Any, root: Path) -> None:
    for index in range(len(source)):
        path = root / "train" / source.class_names[source.labels[index]] / f"{index:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source[index]["image"])


def _shards(source: Source) -> list[list[int]]:
    shards: list[list[int]] = [[]]
    size = 0
    for index in range(len(source)):
        if size > SHARD_BYTES:
            shards, size = [*shards, []], 0
        shards[-1].append(index)
        size += len(source[index]["image"])
    return shards


def write_parquet(source: Any, root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, rows in enumerate(shards := _shards(source)):
        images = [{"bytes": source[row]["image"], "path": str(row)} for row in rows]
        table = pa.table({"image": images, "label": [source.class_names[source.labels[row]] for row in rows]})
        path = root / f"train-{number:05d}-of-{len(shards):05d}.parquet"
        pq.write_table(table, path, row_group_size=GROUP)


def write_webdataset(source: Any, root: Path) -> None:
    for number, rows in enumerate(_shards(source)):
        with tarfile.open(root / f"train-{number:06d}.tar", "w") as archive:
            for row in rows:
                label = source.class_names[source.labels[row]].encode()
                for suffix, content in (("jpg", source[row]["image"]), ("cls", label)):
                    member = tarfile.TarInfo(f"{row:07d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def write_packed(source: Any, root: Path) -> None:
    pack(source, root, "train", shard_bytes=SHARD_BYTES, indices=range(len(source)))


WRITERS = {
    "image_folder": write_folder,
    "parquet": write_parquet,
    "webdataset": write_webdataset,
    "array_record": write_packed,
}


class Many:
    """Examples of random bytes."""

    def __init__(self, count: int) -> None:
        self.class_names = tuple(f"class{number:03d}" for number in range(100))
        self.labels = np.sort(np.arange(count, dtype=np.int32) % 100)
        self.paths = [f"{self.class_names[label]}/{i:07d}.jpg" for i, label in enumerate(self.labels)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": np.random.default_rng(index).bytes(200), "label": self.labels[index]}

    def describe(self, index: int) -> str:
        return self.paths[index]


def forms_of(source: Any, root: Path) -> dict[str, Path]:
    """Writes the forms; returns {source: root}."""
    for kind, write in WRITERS.items():
        (root / kind).mkdir(parents=True)
        write(source, root / kind)
    return {kind: root / kind for kind in WRITERS}


def decoded(batches: TrainBatches | EvalBatches, count: int) -> Callable[[], tuple[float, float]]:
    def run() -> tuple[float, float]:
        begin, used = time.perf_counter(), time.process_time()
        with iterate(batches, 0, count, num_threads=1) as iterator:
            images = sum(len(batch["image"]) for batch in iterator)
        return images / (time.perf_counter() - begin), (time.process_time() - used) / images

    return run


def undecoded(source: Source) -> Callable[[], tuple[float, float]]:
    order = np.random.default_rng(0).permutation(len(source)).tolist()

    def run() -> tuple[float, float]:
        begin, used = time.perf_counter(), time.process_time()
        for index in order:
            source[index]
        return len(order) / (time.perf_counter() - begin), (time.process_time() - used) / len(order)

    return run


def starts(kind: str, root: Path, rounds: int) -> list[tuple[float, ...]]:
    """Returns (seconds, seconds of the processor) of each start."""
    command = [sys.executable, "-c", START.format(kind=kind, root=str(root))]
    done = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(rounds)]
    return [tuple(map(float, own.stdout.split())) for own in done]


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Prints a table; with --json also writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cub", required=True, help="folder of CUB-200-2011")
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--many", type=int, default=100_000, help="examples of the start")
    parser.add_argument("--json", help="file to write the figures to")
    arguments = parser.parse_args(argv)
    ops = transforms.parse(LINE)[0]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        whole = Cub200("train", root=arguments.cub)
        begin_with = subset(whole, np.arange(min(arguments.images, len(whole))))
        write_folder(begin_with, Path(folder) / "images")  # in the order of class folders, in every form
        roots = forms_of(ImageFolder("train", root=Path(folder) / "images"), Path(folder) / "cub")
        many = forms_of(Many(arguments.many), Path(folder) / "many")
        runs: dict[tuple[str, str], Callable[[], tuple[float, float]]] = {}
        for kind, root in roots.items():
            source = importlib.import_module(f"imgcls_jax.data.sources.{kind}").make("train", root=root)
            steps = len(source) // BATCH
            shuffled = TrainBatches(source, ops, batch_size=BATCH, seed=0)
            runs[kind, "shuffled"] = decoded(shuffled, steps)
            runs[kind, "in order"] = decoded(EvalBatches(source, ops, batch_size=BATCH), steps)
            runs[kind, "undecoded"] = undecoded(source)
            if kind == "parquet":
                anew = copy.copy(source)
                anew._rows = copy.copy(source._rows)
                anew._rows._recent = parquet_files._Recent(0)
                runs[ANEW, "shuffled"] = decoded(TrainBatches(anew, ops, batch_size=BATCH, seed=0), steps)
                runs[ANEW, "undecoded"] = undecoded(anew)
        seen: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in runs}
        for _ in range(arguments.rounds):
            for key, run in runs.items():
                seen[key].append(run())
        for kind in (*roots, ANEW):
            row: dict[str, Any] = {"source": kind}
            for what in (own for own in WHATS if (kind, own) in seen):
                rates, used = zip(*seen[kind, what], strict=True)
                row[what] = {"images_per_second": max(rates), "processor_us": min(used) * 1e6}
                print(
                    f"{kind}, {what}: {max(rates):,.0f} images/s, {min(used) * 1e6:,.0f} us of the processor"
                )
            if kind in many:
                first, *others = starts(kind, many[kind], 4)
                row |= {"start": [min(column) for column in zip(*others, strict=True)], "first_start": first}
                for what in ("start", "first_start"):
                    print(f"{kind}, {what}: {row[what][0]:.2f} s, {row[what][1]:.2f} s of the processor")
            rows.append(row)
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"settings": settings, "rows": rows}, file, indent=2)
    return rows


if __name__ == "__main__":
    main()
