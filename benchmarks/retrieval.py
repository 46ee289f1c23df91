"""Exact search for neighbours among stored embeddings, beside NumPy's product and scikit-learn's search.

  python benchmarks/retrieval.py [--examples 1000000] [--dim 512] [--queries 1,256] [--k 10] [--rounds 3]
  [--json FILE]

Each takes embeddings in the host's memory, where the index that `tools.retrieve` reads has them, and returns
the k most similar of each query. The forms alternate round by round, the median of their processor seconds,
those of all cores together, counts, and their answers are compared. The floor is the product alone, by a
large matrix product measured beside it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from sklearn.neighbors import NearestNeighbors

from imgcls_jax.evaluators.knn import nearest
from imgcls_jax.inference.index import aligned

PEAK_SIZE = 2048


def by_numpy(queries: np.ndarray, bank: np.ndarray, k: int) -> np.ndarray:
    """Returns positions [n, k], the most similar first; both sides have unit rows."""
    similarity = queries @ bank.T
    found = np.argpartition(-similarity, k, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(similarity, found, axis=1), axis=1)
    return np.take_along_axis(found, order, axis=1)


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Returns (processor seconds, what it returned)."""
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


def matmul_flops() -> float:
    """Returns FLOP a processor second of a large float32 product on the device."""
    square = jax.random.normal(jax.random.key(0), (PEAK_SIZE, PEAK_SIZE))
    product = jax.jit(lambda a: jax.numpy.matmul(a, a, precision="highest")).lower(square).compile()
    product(square).block_until_ready()
    return 2 * PEAK_SIZE**3 / min(seconds(lambda: product(square).block_until_ready())[0] for _ in range(5))


def measure(bank: np.ndarray, queries: np.ndarray, k: int, rounds: int) -> dict[str, Any]:
    """Returns the median processor seconds of each form, and the part of positions in which all agree."""
    library = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(bank)
    forms: dict[str, Callable[[], np.ndarray]] = {
        "ours": lambda: nearest(queries, bank, k=k)[1],
        "numpy": lambda: by_numpy(queries, bank, k),
        "scikit-learn": lambda: library.kneighbors(queries, return_distance=False),
    }
    forms["ours"]()  # compiles
    times: dict[str, list[float]] = {name: [] for name in forms}
    found = {}
    for _ in range(rounds):
        for name, form in forms.items():
            spent, found[name] = seconds(form)
            times[name].append(spent)
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    agree = np.mean((found["ours"] == found["numpy"]) & (found["ours"] == found["scikit-learn"]))
    return medians | {"agree": float(agree)}


def main() -> None:
    """Prints a table; with --json also writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", default="1,256")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((arguments.examples, arguments.dim), np.float32)
    bank = aligned(bank / np.linalg.norm(bank, axis=1, keepdims=True))
    peak = matmul_flops()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {peak / 1e9:.0f} GFLOP/s in a product")
    rows = []
    for count in map(int, arguments.queries.split(",")):
        queries = bank[rng.choice(len(bank), count)] + 0.03 * rng.standard_normal((count, bank.shape[1]))
        queries = np.float32(queries / np.linalg.norm(queries, axis=1, keepdims=True))
        row = {"queries": count, "floor": 2 * count * bank.size / peak}
        rows.append(row | measure(bank, queries, arguments.k, arguments.rounds))
        print("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        result = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "peak_flops": peak}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result | {"settings": settings, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
