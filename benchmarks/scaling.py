"""What an image costs as the batch, its size and the number of classes grow, and what bounds it.

  python benchmarks/scaling.py [--network resnet18] [--inference] [--rounds 3] [--json FILE]

One of the three grows at a time, the others stay at the values of train_step.py. Compute is the network's
FLOP over the speed of a large matrix product, memory XLA's count of bytes over the speed of a pass over a
large array, both measured beside it; the larger one is the bound, and the share of the time that it explains
stands beside it. What neither explains is convolutions of few channels, loops over bytes that are in no
cache, and, where the batch is small, the parts of a step that do not grow with it, such as the optimizer's.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from imgcls_jax.runtime import huge_pages

if __name__ == "__main__":
    huge_pages.ask_for_them(__file__)

import train_step  # noqa: E402

BATCHES, SIZES, CLASSES = (1, 2, 4, 8, 16, 32), (64, 96, 128, 160, 224, 320), (10, 100, 1000, 10_000)


def cases(network: train_step.Network) -> list[tuple[str, int, int, int]]:
    """Returns (what grows, batch, pixels of a side, classes) of each row."""
    batch, size, classes = network.batch, network.size, network.classes
    return [
        *(("batch", number, size, classes) for number in BATCHES),
        *(("pixels of a side", batch, number, classes) for number in SIZES),
        *(("classes", batch, size, number) for number in CLASSES),
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--network", default="resnet18", choices=sorted(train_step.NETWORKS))
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", default="", help="file for the figures")
    arguments = parser.parse_args()
    network = train_step.NETWORKS[arguments.network]
    rates = train_step.machine_rates()
    print(f"{arguments.network}, {rates[0] / 1e9:.0f} GFLOP/s, {rates[1] / 1e9:.1f} GB/s")
    print(
        f"{'grows':18}{'batch':>6}{'size':>6}{'classes':>8}{'ms/image':>10}{'compute':>9}{'memory':>9}  bound"
    )
    rows: list[dict[str, Any]] = []
    for grows, batch, size, classes in cases(network):
        measured = train_step.measure(
            arguments.network,
            network._replace(size=size, classes=classes),
            training=not arguments.inference,
            rounds=arguments.rounds,
            batch_size=batch,
            dtype=train_step.own_dtype(),
            peers="",
            rates=rates,
        )
        compute, memory = (measured[f"{kind}_bound_ms"] / batch for kind in ("compute", "memory"))
        taken = min(measured["milliseconds"]["ours"]) / batch
        bound = "compute" if compute > memory else "memory"
        rows.append(measured | {"grows": grows, "size": size, "classes": classes})
        print(
            f"{grows:18}{batch:6}{size:6}{classes:8}{taken:10.2f}{compute:9.2f}{memory:9.2f}  "
            f"{bound} {100 * max(compute, memory) / taken:.0f} %",
            flush=True,
        )
        if arguments.json:
            with open(arguments.json, "w", encoding="utf-8") as file:
                json.dump({"rates": rates, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
