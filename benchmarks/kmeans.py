"""k-means beside scikit-learn's and faiss's: equal points, start and iterations; and its parts one by one.

  python benchmarks/kmeans.py [--sizes 10000x64x100,50000x256x1000] [--iterations 10] [--rounds 5]
  [--json FILE]

Sizes are points x width x clusters. Every form gets the same centroids to start from, does the same number of
Lloyd's iterations and assigns the points once more; the objectives at the end are shown. The forms alternate
round by round. The floor is the products of points and centroids alone, by a large matrix product measured
beside them. faiss is left out where it is not installed (pip install faiss-cpu). To compare on one core,
start it under `taskset -c 1`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sklearn
from sklearn.cluster import KMeans

try:
    import faiss
except ModuleNotFoundError:
    faiss = None

ours = importlib.import_module("imgcls_jax.losses.kmeans")  # the package's own `kmeans` is the function
PEAK_SIZE = 2048
SPREAD = 0.6  # of the blobs' centres, in deviations of their points: they overlap


def blobs(num_points: int, width: int, num_clusters: int) -> np.ndarray:
    """Returns float32 [N, D], drawn around as many centres as there will be clusters."""
    rng = np.random.default_rng(0)
    centres = SPREAD * rng.standard_normal((num_clusters, width), np.float32)
    return centres[rng.integers(0, num_clusters, num_points)] + rng.standard_normal(
        (num_points, width), np.float32
    )


def whole_forms(points: np.ndarray, start: np.ndarray, iterations: int) -> dict[str, Callable[[], float]]:
    """Returns functions that cluster and return the objective, the mean squared distance."""

    def by_ours() -> float:
        return float(ours.lloyd(jax.random.key(0), points, start, num_iterations=iterations).objectives[-1])

    def by_sklearn() -> float:
        form = KMeans(len(start), init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd")
        return form.fit(points).inertia_ / len(points)

    def by_faiss() -> float:
        form = faiss.Kmeans(
            points.shape[1],
            len(start),
            niter=iterations,
            min_points_per_centroid=1,
            max_points_per_centroid=len(points),  # no sampling
        )
        form.train(points, init_centroids=start)
        return float(np.mean(form.index.search(points, 1)[0]))

    forms = {"ours": by_ours, "scikit-learn": by_sklearn}
    return forms | {"faiss": by_faiss} if faiss else forms


def parts_of_ours(points: jax.Array, start: jax.Array) -> dict[str, Callable[[], Any]]:
    """Returns what an iteration consists of, and the other ways to sum by cluster."""
    num_clusters = len(start)
    assignments = ours.nearest_centroid(points, start)[0]

    def by_sorting(points: jax.Array, assignments: jax.Array) -> jax.Array:
        order = jnp.argsort(assignments)
        return jax.ops.segment_sum(points[order], assignments[order], num_clusters, indices_are_sorted=True)

    sums = {
        "update: segment_sum": lambda values, of: jax.ops.segment_sum(values, of, num_clusters),
        "update: sorted first": by_sorting,
        "update: one-hot product": lambda values, of: ours._multiply(values, of, num_clusters),
    }
    compiled = {name: jax.jit(form).lower(points, assignments).compile() for name, form in sums.items()}
    update = {name: (lambda form=form: form(points, assignments)) for name, form in compiled.items()}
    return {"assignment": lambda: ours.nearest_centroid(points, start)} | update


def rounds_of(forms: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], Any]:
    """Returns (seconds of each form by round, what each returned last); a first call is not counted."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    results = {name: jax.block_until_ready(form()) for name, form in forms.items()}
    for _ in range(rounds):
        for name, form in forms.items():
            begun = time.perf_counter()
            results[name] = jax.block_until_ready(form())
            times[name].append(time.perf_counter() - begun)
    return times, results


def matmul_rate() -> float:
    """Returns FLOP/s of a large float32 product, the best of five."""
    square = jnp.ones((PEAK_SIZE, PEAK_SIZE))
    product = jax.jit(jnp.dot).lower(square, square).compile()
    times, _ = rounds_of({"product": lambda: product(square, square)}, 5)
    return 2 * PEAK_SIZE**3 / min(times["product"])


def measure(size: tuple[int, int, int], iterations: int, rounds: int) -> list[dict[str, Any]]:
    """Returns the rows of one size."""
    num_points, width, num_clusters = size
    points = blobs(*size)
    start = points[np.random.default_rng(1).choice(num_points, num_clusters, replace=False)]
    times, objectives = rounds_of(whole_forms(points, start, iterations), rounds)
    part_times, _ = rounds_of(parts_of_ours(jnp.asarray(points), jnp.asarray(start)), rounds)
    flop = 2.0 * num_points * width * num_clusters
    rows = []
    for name, spent in (times | part_times).items():
        row = {"size": "x".join(map(str, size)), "form": name, "seconds": spent}
        row |= {"min": min(spent), "median": statistics.median(spent)}
        if name in times:
            ratios = [other / own for other, own in zip(spent, times["ours"], strict=True)]
            row |= {"objective": objectives[name], "flop": (iterations + 1) * flop}
            row |= {"ours_faster": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}
            row |= {"ours_faster_by_min": min(spent) / min(times["ours"])}
        rows.append(row)
    return rows


def show(row: dict[str, Any], rate: float) -> None:
    """Prints a row of the table."""
    line = f"{row['size']:16}{row['form']:26}{1e3 * row['min']:10.2f}{1e3 * row['median']:10.2f}"
    if "flop" in row:
        low, high = row["spread"]
        line += f"{1e3 * row['flop'] / rate:10.2f}{row['objective']:12.5f}"
        line += f"{row['ours_faster_by_min']:8.2f}{row['ours_faster']:8.2f} ({low:.2f} to {high:.2f})"
    print(line, flush=True)


def main() -> None:
    """Prints a table; with --json also writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", default="10000x64x100,50000x256x1000")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write the figures to")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if faiss:
        faiss.omp_set_num_threads(cores)
    versions = {"jax": jax.__version__, "scikit-learn": sklearn.__version__}
    versions |= {"faiss": faiss.__version__} if faiss else {}
    device, rate = jax.devices()[0].device_kind, matmul_rate()
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"{device}, {cores} cores, {named}; {rate / 1e9:.0f} GFLOP/s in a product")
    print(
        f"{'size':16}{'form':26}{'min ms':>10}{'median':>10}{'floor':>10}{'objective':>12}{'ours faster':>16}"
    )
    rows = []
    for size in arguments.sizes.split(","):
        for row in measure(tuple(map(int, size.split("x"))), arguments.iterations, arguments.rounds):
            show(row, rate)
            rows.append(row)
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        result = {"device": device, "cores": cores, "versions": versions, "matmul_flop_per_second": rate}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result | {"settings": settings, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
