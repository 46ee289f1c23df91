"""Training step side by side with the same network in PyTorch, on the same machine in one process.

  python benchmarks/train_step.py [--batch_size 64] [--rounds 12] [--json FILE]

Blocks of steps of the two alternate, so that a drift of the machine's speed meets both; the ratio is taken
block by block. Needs PyTorch beside the packages of requirements.txt. CPU: PyTorch runs in both memory
layouts and the faster one counts.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
import optax
import torch

from imgcls_jax.models import simpleconv3
from imgcls_jax.objectives import supervised
from imgcls_jax.objectives.base import Task
from imgcls_jax.train.step import make_init, make_train_step

STEPS_A_BLOCK = 15
SIZE, CLASSES, LEARNING_RATE, MOMENTUM = 48, 2, 0.1, 0.9


def jax_step(images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """Returns a function that does one step of the project's own."""
    task = Task(CLASSES, len(labels), 1, 1, images.shape[1:])
    objective = supervised.make(simpleconv3.build(), task)
    tx = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    batch = jax.device_put({"image": images, "label": labels})
    state = jax.jit(make_init(objective, tx, batch))(jax.random.key(0))
    step = jax.jit(make_train_step(objective, tx, lambda rng, batch: batch), donate_argnums=0)

    def run() -> None:
        nonlocal state
        state, _ = step(state, batch)
        jax.block_until_ready(state)

    return run


def torch_network() -> torch.nn.Module:
    """Returns Simpleconv3 in PyTorch."""
    nn, layers, channels = torch.nn, [], (3, 12, 24, 48)
    for inputs, outputs in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    layers += [
        nn.Flatten(),
        nn.Linear(1728, 512),
        nn.ReLU(),
        nn.Linear(512, 128),
        nn.ReLU(),
        nn.Linear(128, CLASSES),
    ]
    return nn.Sequential(*layers)


def torch_step(
    images: np.ndarray, labels: np.ndarray, memory_format: torch.memory_format
) -> Callable[[], None]:
    """Returns a function that does one step in PyTorch."""
    network = torch_network().to(memory_format=memory_format)
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    targets = torch.from_numpy(labels).long()
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def run() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(inputs), targets).backward()
        optimizer.step()

    return run


def block(run: Callable[[], None]) -> float:
    """Returns the median milliseconds of a step over one block, after a step that is not counted."""
    times = []
    for _ in range(STEPS_A_BLOCK + 1):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", default="", help="file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    rng = np.random.default_rng(0)
    images = rng.normal(size=(arguments.batch_size, SIZE, SIZE, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, arguments.batch_size).astype(np.int32)
    runs = {
        "jax": jax_step(images, labels),
        "torch": torch_step(images, labels, torch.contiguous_format),
        "torch channels-last": torch_step(images, labels, torch.channels_last),
    }
    for run in runs.values():
        block(run)
    times = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            times[name].append(block(run))
    versions = f"jax {jax.__version__}, torch {torch.__version__}"
    print(f"Simpleconv3, batch {arguments.batch_size}, {SIZE}x{SIZE}, {versions}")
    for name, values in times.items():
        print(f"{name:<20} min {min(values):6.2f}  median {statistics.median(values):6.2f} ms a step")
    ratios = [min(pair) / own for own, *pair in zip(*times.values(), strict=True)]
    spread = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"speed against the faster torch, round by round, median: {spread}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(
                {"milliseconds": times, "ratios": ratios, "jax": jax.__version__, "torch": torch.__version__},
                file,
            )


if __name__ == "__main__":
    main()
