"""The input alone: JPEG files to uint8 batches beside PyTorch's DataLoader, and arrays in memory to batches.

  python benchmarks/input.py [--photos FOLDER] [--workers 0,1,2] [--size 500x375] [--rounds 5] [--json FILE]

JPEG files are read, decoded, cropped at random and resized to 224 pixels; flips are the device's here, and
torchvision's RandomHorizontalFlip there. With 0 workers both read in the calling process, ours in one thread.
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
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL
from PIL import Image

from imgcls_jax.data import augment, transforms
from imgcls_jax.data.pipeline import TrainBatches, iterate
from imgcls_jax.data.sources import Arrays, ImageFolder

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


def speed_of(batches: Iterator[Any], count: int, batch_size: int) -> float:
    """Returns images a second over `count` batches after a first."""
    next(batches)
    begun = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * batch_size / (time.perf_counter() - begun)


def by_ours(folder: Path, workers: int) -> Callable[[], float]:
    """Returns a function that reads the files by the project's pipeline, and returns images a second."""
    ops = transforms.parse(f"decode | random_resized_crop({TARGET})")[0]
    batches = TrainBatches(ImageFolder("train", root=folder), ops, batch_size=BATCH, seed=0)
    count = FILES // BATCH * 2

    def run() -> float:
        if not workers:
            return speed_of(map(batches.__getitem__, range(count + 1)), count, BATCH)
        with iterate(batches, 0, count + 1, num_workers=workers, prefetch=workers) as iterator:
            return speed_of(iterator, count, BATCH)

    return run


def by_torch(folder: Path, workers: int) -> Callable[[], float]:
    """Returns the same by PyTorch's DataLoader and torchvision's transforms of Pillow images."""
    line = [vision.RandomResizedCrop(TARGET), vision.RandomHorizontalFlip(), vision.PILToTensor()]
    dataset = datasets.ImageFolder(folder / "train", vision.Compose(line))
    dataset.samples = dataset.samples * 4  # so that workers do not start anew within a round
    count = FILES // BATCH * 2

    def run() -> float:
        loader = torch.utils.data.DataLoader(
            dataset, BATCH, shuffle=True, num_workers=workers, prefetch_factor=1 if workers else None
        )
        return speed_of(iter(loader), count, BATCH)

    return run


def by_gathering(on_device: bool) -> Callable[[], float]:
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


def rounds_of(forms: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Returns the images a second of each form, round by round."""
    speeds: dict[str, list[float]] = {form: [] for form in forms}
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
        speeds = rounds_of(forms, arguments.rounds)
    # Last, since PyTorch forks its workers, which a process must not do once jax has started.
    arrays = {"array": by_gathering(False), "array, device augmentation": by_gathering(True)}
    speeds |= rounds_of(arrays, arguments.rounds)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {"jax": jax.__version__, "numpy": np.__version__, "pillow": PIL.__version__}
    versions |= {"torch": torch.__version__} if torch else {}
    print(f"{cores} cores, JPEG of {arguments.size}, {kilobytes:.0f} kB, {versions}")
    print(f"{'':32}{'best':>10}{'median':>10}  images/s")
    rows = []
    for form, values in speeds.items():
        row = {"form": form, "images_per_second": values}
        line = f"{form:32}{max(values):10.0f}{statistics.median(values):10.0f}"
        if f"{form}, torch" in speeds:
            ratios = [own / other for own, other in zip(values, speeds[f"{form}, torch"], strict=True)]
            row |= {"ours_faster": ratios}
            best = max(values) / max(speeds[f"{form}, torch"])
            line += f"  {best:.2f}x torch by the best, by round {statistics.median(ratios):.2f}x"
            line += f" ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line)
        rows.append(row)
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        result = {"cores": cores, "versions": versions, "kilobytes": kilobytes, "settings": settings}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result | {"rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
