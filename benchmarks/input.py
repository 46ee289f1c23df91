"""The input alone: JPEG files to uint8 batches beside PyTorch's DataLoader, and arrays in memory to batches.

  python benchmarks/input.py [--photos FOLDER] [--workers 0,1,2] [--size 500x375] [--rounds 5] [--json FILE]

JPEG files are read, decoded, cropped at random and resized to 224 pixels; flips are the device's here, and
torchvision's RandomHorizontalFlip there. With 0 workers both read in the calling process, ours in one thread;
then the processor's time an image stands beside the speed, which others on the same core disturb less. The
cached rows keep the decoded images in memory, as data.cache_gib does.
The files are the photos of a folder resized, or smooth noise, saved by Pillow at quality 87. The array rows
are a gathered batch, and its flips and crops on the device as CIFAR has them. The forms alternate round by
round; a round begins when a first batch has come, so that the start of workers does not count. PyTorch is
left out where it is not installed. To compare on one core, start it under `taskset -c 1`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import PIL
from PIL import Image

from imgcls_jax.data import augment, host_operations, transforms
from imgcls_jax.data.cache import Cached, ExampleCache
from imgcls_jax.data.pipeline import TrainBatches
from imgcls_jax.data.read_ahead import iterate
from imgcls_jax.data.source import Arrays
from imgcls_jax.data.sources.image_folder import ImageFolder

try:
    import torch
    from torchvision import datasets
    from torchvision import transforms as vision
except ModuleNotFoundError:
    torch = None

TARGET, QUALITY, BATCH, FILES = 224, 87, 32, 128
ARRAY_IMAGES, ARRAY_BATCH, ARRAY_BATCHES = 50_000, 256, 50  # as CIFAR has them
ARRAY_LINE = "pad_and_crop(4) | flip | normalize(0.5, 0.5)"


def write_jpegs(folder: Path, photos: str, size: tuple[int, int]) -> float:
    """Writes the files as one class of an image folder; returns their mean size in kB."""
    (folder / "train" / "one").mkdir(parents=True)
    known = sorted(Path(photos).rglob("*.[jJ][pP]*[gG]"))[:FILES] if photos else []
    rng = np.random.default_rng(0)
    for number in range(FILES):
        if known:
            image = Image.open(known[number % len(known)]).convert("RGB")
        else:
            image = Image.fromarray(rng.integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8))
        image = image.resize(size, Image.Resampling.BICUBIC)
        image.save(folder / "train" / "one" / f"{number:03}.jpg", quality=QUALITY)
    return float(np.mean([path.stat().st_size for path in folder.rglob("*.jpg")])) / 1e3


class Speed(NamedTuple):
    """Images a second, and milliseconds of this process's processor time an image."""

    images_per_second: float
    cpu_ms: float


def speed_of(batches: Iterator[Any], count: int, batch_size: int) -> Speed:
    """Returns the speed over `count` batches after a first."""
    next(batches)
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(batches)
    images, cpu = count * batch_size, time.process_time() - cpu
    return Speed(images / (time.perf_counter() - begun), 1e3 * cpu / images)


def by_ours(folder: Path, workers: int) -> Callable[[], Speed]:
    """Returns a function that reads the files by the project's pipeline, and returns the speed."""
    ops = transforms.parse(f"decode | random_resized_crop({TARGET})")[0]
    batches = TrainBatches(ImageFolder("train", root=folder), ops, batch_size=BATCH, seed=0)
    count = FILES // BATCH * 2

    def run() -> Speed:
        if not workers:
            return speed_of(map(batches.__getitem__, range(count + 1)), count, BATCH)
        with iterate(batches, 0, count + 1, num_workers=workers, prefetch=workers) as iterator:
            return speed_of(iterator, count, BATCH)

    return run


def by_cache(folder: Path, later: bool) -> Callable[[], Speed]:
    """Returns the same with the decoded images kept in memory: of the first epoch or of the later ones."""
    decode, *rest = transforms.parse(f"decode | random_resized_crop({TARGET})")[0]
    epoch = FILES // BATCH

    def run() -> Speed:
        source = Cached(ImageFolder("train", root=folder), (decode,), ExampleCache(2**30))
        batches = TrainBatches(source, rest, batch_size=BATCH, seed=0)
        steps = map(batches.__getitem__, range(3 * epoch + 1))
        if not later:
            return speed_of(steps, epoch - 1, BATCH)
        for _ in range(epoch):
            next(steps)
        return speed_of(steps, 2 * epoch, BATCH)

    return run


def by_torch(folder: Path, workers: int) -> Callable[[], Speed]:
    """Returns the same by PyTorch's DataLoader and torchvision's transforms of Pillow images."""
    line = [vision.RandomResizedCrop(TARGET), vision.RandomHorizontalFlip(), vision.PILToTensor()]
    dataset = datasets.ImageFolder(folder / "train", vision.Compose(line))
    dataset.samples = dataset.samples * 4  # so that workers do not start anew within a round
    count = FILES // BATCH * 2

    def run() -> Speed:
        loader = torch.utils.data.DataLoader(
            dataset, BATCH, shuffle=True, num_workers=workers, prefetch_factor=1 if workers else None
        )
        return speed_of(iter(loader), count, BATCH)

    return run


def by_gathering(on_device: bool) -> Callable[[], Speed]:
    """Returns a function that cuts batches out of an array in memory, and augments them where told to."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (ARRAY_IMAGES, 32, 32, 3), np.uint8)
    source = Arrays(images, np.zeros(ARRAY_IMAGES, np.int64), ["one"], "benchmark")
    batches = TrainBatches(source, (), batch_size=ARRAY_BATCH, seed=0)
    device_line = jax.jit(augment.compose(transforms.parse(ARRAY_LINE)[1]))

    def batch(step: int) -> Any:
        columns = batches[step]
        if on_device:
            placed = {"image": jax.device_put(columns["image"])}
            return jax.block_until_ready(device_line(jax.random.key(step), placed))
        return columns

    return lambda: speed_of(map(batch, range(ARRAY_BATCHES + 1)), ARRAY_BATCHES, ARRAY_BATCH)


def rounds_of(forms: dict[str, Callable[[], Speed]], rounds: int) -> dict[str, list[Speed]]:
    """Returns the speeds of each form, round by round."""
    speeds: dict[str, list[Speed]] = {form: [] for form in forms}
    for _ in range(rounds):
        for form, run in forms.items():
            speeds[form].append(run())
    return speeds


def main() -> None:
    """Prints a table; with --json also writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--photos", default="", help="folder of photos; without one, smooth noise")
    parser.add_argument("--size", default="500x375", help="of the files, width x height")
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write the figures to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        kilobytes = write_jpegs(Path(name), arguments.photos, tuple(map(int, arguments.size.split("x"))))
        forms = {}
        for workers in map(int, arguments.workers.split(",")):
            forms[f"JPEG, {workers} workers"] = by_ours(Path(name), workers)
            if torch:
                forms[f"JPEG, {workers} workers, torch"] = by_torch(Path(name), workers)
        forms["JPEG, cached, first epoch"] = by_cache(Path(name), later=False)
        forms["JPEG, cached, later epochs"] = by_cache(Path(name), later=True)
        speeds = rounds_of(forms, arguments.rounds)
    # Last, since PyTorch forks its workers, which a process must not do once jax has started.
    arrays = {"array": by_gathering(False), "array, device augmentation": by_gathering(True)}
    speeds |= rounds_of(arrays, arguments.rounds)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {"jax": jax.__version__, "numpy": np.__version__, "pillow": PIL.__version__}
    versions |= {"torch": torch.__version__} if torch else {}
    versions |= {"cykooz-resizer": metadata.version("cykooz-resizer")} if host_operations.resizer else {}
    print(f"{cores} cores, JPEG of {arguments.size}, {kilobytes:.0f} kB, {versions}")
    print(f"{'':32}{'best':>10}{'median':>10}  images/s{'CPU ms':>9}")
    rows = []
    for form, values in speeds.items():
        rates, cpu = (list(column) for column in zip(*values, strict=True))
        row = {"form": form, "images_per_second": rates}
        line = f"{form:32}{max(rates):10.0f}{statistics.median(rates):10.0f}{'':10}"
        own_process = "workers" not in form or " 0 workers" in form
        if own_process:
            row["cpu_ms"] = cpu
        line += f"{min(cpu):9.3f}" if own_process else " " * 9
        if f"{form}, torch" in speeds:
            others, others_cpu = zip(*speeds[f"{form}, torch"], strict=True)
            ratios = [own / other for own, other in zip(rates, others, strict=True)]
            row |= {"ours_faster": ratios}
            line += f"  {max(rates) / max(others):.2f}x torch by the best, "
            line += f"{min(others_cpu) / min(cpu):.2f}x by CPU, " if own_process else ""
            line += f"by round {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line)
        rows.append(row)
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        result = {"cores": cores, "versions": versions, "kilobytes": kilobytes, "settings": settings}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result | {"rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
