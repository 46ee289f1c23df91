"""Bilinear pooling, full and compact: time and memory over d, batch and channels, against the FLOP floor.

  python benchmarks/compact_bilinear.py [--rounds 7] [--json FILE]

Timed is what a training step adds to the backbone: pooling, signed square root, L2 norm and the linear
classifier of 200 classes, forward and backward, for maps of 14 x 14 positions. The forms alternate round by
round and the median counts. Memory is XLA's own count: temporaries of the compiled program, and the
classifier with its gradient and momentum. The floor is the least work the form could do, divided by the speed
of a large matrix product measured beside it.
"""

import argparse
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

from imgcls_jax.layers.bilinear import Bilinear
from imgcls_jax.losses import softmax_cross_entropy

CLASSES, SIDE, PEAK_SIZE = 200, 14, 2048
CASES = [  # (projection, d, batch, channels)
    *(("full", 0, batch, channels) for batch, channels in ((8, 512), (32, 512), (8, 256))),
    *(
        (projection, dim, batch, channels)
        for projection in ("tensor_sketch", "random_maclaurin")
        for dim, batch, channels in ((2048, 8, 512), (8192, 8, 512), (8192, 32, 512), (8192, 8, 256))
    ),
]


def classifier_step(projection: str, dim: int, batch: int, channels: int) -> tuple[Any, int, int]:
    """Returns (run, bytes of XLA's temporaries, bytes of the classifier with gradient and momentum)."""
    head = Bilinear(CLASSES, projection=projection, dim=dim or 1)
    maps = jax.nn.relu(jax.random.normal(jax.random.key(0), (batch, SIDE, SIDE, channels)))
    labels = jnp.arange(batch) % CLASSES
    variables = dict(head.init(jax.random.key(1), maps, train=False))
    params = variables.pop("params")

    def loss(params: Any, maps: jax.Array) -> jax.Array:
        logits = head.apply({"params": params, **variables}, maps, train=True)
        return jnp.mean(softmax_cross_entropy(logits, labels))

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, maps).compile()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return lambda: compiled(params, maps), compiled.memory_analysis().temp_size_in_bytes, 3 * size


def floor_flop(projection: str, dim: int, batch: int, channels: int) -> float:
    """Returns the fewest FLOP of a step.

    Of pooling once forward and once backward, since a map pooled with itself has one gradient and projections
    have none; of the classifier once forward and twice backward.
    """
    positions = SIDE * SIDE
    pooled = dim or channels * channels
    pooling = 2 * positions * channels * channels
    if projection == "random_maclaurin":
        pooling = min(2 * 2 * positions * channels * dim, pooling + 2 * channels**2 * dim)
    return batch * (2.0 * pooling + 3 * 2 * pooled * CLASSES)


def matmul_rate(rounds: int) -> float:
    """Returns FLOP/s of a large float32 matrix product, the best of some rounds."""
    x = jnp.ones((PEAK_SIZE, PEAK_SIZE))
    product = jax.jit(jnp.dot)
    product(x, x).block_until_ready()
    return 2 * PEAK_SIZE**3 / min(seconds_of(lambda: product(x, x)) for _ in range(rounds))


def seconds_of(run: Any) -> float:
    """Returns the wall time of one call."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each form")
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    steps = {case: classifier_step(*case) for case in CASES}
    for run, _, _ in steps.values():
        jax.block_until_ready(run())
    times: dict[Any, list[float]] = {case: [] for case in CASES}
    for _ in range(args.rounds):
        for case, (run, _, _) in steps.items():
            times[case].append(seconds_of(run))
    rate = matmul_rate(args.rounds)
    rows = []
    for case, (_, temporaries, classifier) in steps.items():
        projection, dim, batch, channels = case
        rows.append(
            {
                "projection": projection,
                "d": dim or channels**2,
                "batch": batch,
                "channels": channels,
                "milliseconds": 1e3 * statistics.median(times[case]),
                "fastest": 1e3 * min(times[case]),
                "floor": 1e3 * floor_flop(*case) / rate,
                "temporaries_mib": temporaries / 2**20,
                "classifier_mib": classifier / 2**20,
            }
        )
    device = jax.devices()[0]
    print(f"{device.platform} {device.device_kind}, jax {jax.__version__}, optax {optax.__version__}")
    print(f"matrix product {PEAK_SIZE}^3: {rate / 1e9:.0f} GFLOP/s")
    print(
        f"{'form':18}{'d':>8}{'batch':>7}{'C':>6}{'ms':>9}{'min':>9}{'floor':>9}{'temp MiB':>10}{'fc MiB':>9}"
    )
    for row in rows:
        print(
            f"{row['projection']:18}{row['d']:8}{row['batch']:7}{row['channels']:6}{row['milliseconds']:9.1f}"
            f"{row['fastest']:9.1f}{row['floor']:9.1f}{row['temporaries_mib']:10.1f}{row['classifier_mib']:9.1f}"
        )
    if args.json:
        settings = {"jax": jax.__version__, "device": device.device_kind, "matmul_flop_per_second": rate}
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(settings | {"rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
