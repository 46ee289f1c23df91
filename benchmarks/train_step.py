"""Training step and inference side by side with the same network in PyTorch, on the same machine.

  python benchmarks/train_step.py [--networks resnet18,vit_s16_mae] [--inference] [--rounds 5] [--json FILE]
  python benchmarks/train_step.py --networks vgg16_bilinear --size 448
  python benchmarks/train_step.py --dtype bfloat16 --compile
  taskset -c 0 python benchmarks/train_step.py

The two alternate round by round, so that a drift of the machine's speed meets both, and the ratio is taken
round by round; each runs once unmeasured when its turn comes, since it finds its memory and the caches taken.
PyTorch computes in every form that a user has, and the fastest counts: on a CPU in both memory layouts, with
`--compile` each also by torch.compile; on a GPU with channels last and torch.compile. Without `--dtype` a
CPU computes in float32 and a GPU in bfloat16, which is PyTorch's autocast. PyTorch has a thread for each core
that the process may use, so `taskset` is for both sides. Needs PyTorch, torchvision and timm beside the
packages of requirements.txt; `--alone` measures this project only.

FLOP are those of convolutions and matrix products in the traced step, of convolutions by their definition,
so that Winograd's spare none of them; the utilisation (MFU) is their rate over that of a large matrix product
measured beside it. The memory bound is XLA's count of bytes that the
compiled step reads and writes, over the speed of a pass over a large array.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from imgcls_jax.runtime import compiler, huge_pages

if __name__ == "__main__":
    huge_pages.ask_for_them(__file__)
compiler.configure()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from imgcls_jax.contracts.objective import Objective, Task  # noqa: E402
from imgcls_jax.objectives import mae, mixmatch, supervised  # noqa: E402
from imgcls_jax.planning.flops import flops  # noqa: E402
from imgcls_jax.runtime.files import write_json  # noqa: E402
from imgcls_jax.train.step import make_init, make_train_step  # noqa: E402

LEARNING_RATE, MOMENTUM = 0.1, 0.9
# Rows of the large matrices and bytes of the large array. A GPU needs larger ones: there the start of a
# program would take as long as its work.
LARGE_ON_CPU, LARGE_ON_GPU = (2048, 2**28), (8192, 2**31)
SHARE_OF_MEMORY = "0.5"  # of a GPU's, which is then ours; the rest is PyTorch's
MEMORY, OLD_MEMORY = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"  # jax refuses both together
DIRECT = "cuda"  # a platform on which convolutions keep the form of their definition


class Network(NamedTuple):
    """One row of the table.

    Attributes:
      family, fields: of models/.
      batch: images of a step on a CPU.
      gpu_batch: on a GPU.
      size: pixels of a side.
      classes: K.
      head: of supervised.make.
    """

    family: str
    fields: dict[str, Any]
    batch: int
    gpu_batch: int
    size: int = 224
    classes: int = 1000
    head: dict[str, Any] = {}  # noqa: RUF012 (never changed)


_BILINEAR = dict(variant="vgg16", top=False, last_pool=False)
NETWORKS = {
    "simpleconv3": Network("simpleconv3", {}, 64, 512, 48, 2),
    "vgg11": Network("vgg", dict(variant="vgg11"), 4, 128),
    "vgg16": Network("vgg", dict(variant="vgg16"), 4, 64),
    "vgg16_bilinear": Network("vgg", _BILINEAR, 4, 32, 224, 200, dict(head="bilinear")),
    "vgg16_compact": Network(
        "vgg",
        _BILINEAR,
        4,
        32,
        224,
        200,
        dict(head="bilinear", head_fields=dict(projection="tensor_sketch", dim=8192)),
    ),
    "resnet18": Network("resnet", dict(variant="resnet18"), 16, 256),
    "resnet50": Network("resnet", dict(variant="resnet50"), 8, 256),
    "se_resnet50": Network("resnet", dict(variant="se_resnet50"), 8, 256),
    "resnet50_bam": Network("resnet", dict(variant="resnet50_bam"), 8, 256),
    "densenet121": Network("densenet", dict(variant="densenet121"), 8, 128),
    "efficientnet_b0": Network("efficientnet", dict(variant="efficientnet_b0"), 16, 256),
    "resnext50_32x4d": Network("resnet", dict(variant="resnext50_32x4d"), 8, 128),
    "mobilenet_v2": Network("mobilenet_v2", dict(variant="mobilenet_v2"), 16, 256),
    "squeezenet1_1": Network("squeezenet", dict(variant="squeezenet1_1"), 16, 256),
    "alexnet": Network("alexnet", dict(variant="alexnet"), 32, 512),
    "googlenet": Network("googlenet", dict(variant="googlenet"), 16, 256),
    "inception_v3": Network("inception_v3", dict(variant="inception_v3"), 8, 128, 299),
    "convnext_tiny": Network("convnext", dict(variant="convnext_tiny"), 8, 128),
    "resnet20": Network("cifar_resnet", dict(variant="resnet20"), 128, 1024, 32, 10),
    "densenet_bc_100_12": Network("densenet", dict(variant="densenet_bc_100_12"), 64, 512, 32, 10),
    "airbench94": Network("airbench", dict(variant="airbench94"), 500, 1024, 32, 10),
    "wrn_28_2": Network("wide_resnet", dict(variant="wrn_28_2"), 64, 512, 32, 10),
    "wrn_28_2_mixmatch": Network("wide_resnet", dict(variant="wrn_28_2"), 16, 64, 32, 10),
    "vit_s16": Network("vit", dict(variant="vit_s16"), 8, 256),
    "vit_b16": Network("vit", dict(variant="vit_b16"), 4, 128),
    "vit_s16_mae": Network("vit", dict(variant="vit_s16", position="sincos"), 8, 256),
}
HEADER = (
    f"{'network':18}{'batch':>6}{'ours ms':>9}{'torch ms':>9}  {'by round':22}{'img/s':>8}{'MFU':>8}"
    f"{'compute':>9}{'memory':>9}"
)
PARTS = ("mixmatch", "mae")  # networks named after what they are trained by have no inference of their own


def inputs_of(network: Network, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, float32 [B, H, W, 3], and labels, int32 [B]."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, network.size, network.size, 3)).astype(np.float32)
    return images, rng.integers(0, network.classes, batch_size).astype(np.int32)


def own_dtype() -> str:
    """Returns the dtype that the backend is meant to compute in."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def objective_and_batch(
    name: str, network: Network, images: np.ndarray, labels: np.ndarray, dtype: str = ""
) -> tuple[Objective, Any]:
    """Returns the algorithm that trains a network and one batch of what it reads."""
    family = importlib.import_module(f"imgcls_jax.models.{network.family}")
    backbone = family.build(**network.fields, dtype=jnp.dtype(dtype or own_dtype()))
    task = Task(network.classes, 100 * len(images), 100, 10_000, images.shape[1:])
    batch = {"image": images, "label": labels, "index": np.arange(len(labels), dtype=np.int32)}
    if name.endswith("mae"):
        return mae.make(backbone, task), {"image": images}
    if name.endswith("mixmatch"):
        objective = mixmatch.make(backbone, task, alpha=0.75, lambda_u=75.0)
        return objective, {"labeled": batch, "views": (images, np.ascontiguousarray(images[:, :, ::-1]))}
    return supervised.make(backbone, task, **network.head), batch


def jax_run(
    name: str, network: Network, images: np.ndarray, labels: np.ndarray, *, training: bool, dtype: str = ""
) -> tuple[Callable[[], None], float, float]:
    """Returns (a function that does one step or inference, its FLOP, its bytes by XLA's count)."""
    objective, batch = objective_and_batch(name, network, images, labels, dtype)
    tx = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    batch = jax.device_put(batch)
    state = jax.jit(make_init(objective, tx, batch))(jax.random.key(0))
    if training:
        function = make_train_step(objective, tx, lambda rng, batch: batch)
        arguments, donated = (state, batch), 0
    else:
        function, arguments, donated = objective.predict, (state.params, state.objective_state, batch), None
    jitted = jax.jit(function, donate_argnums=donated)
    work = flops(jax.make_jaxpr(function)(*arguments), DIRECT)
    compiled = jitted.lower(*arguments).compile()
    moved = compiled.cost_analysis().get("bytes accessed", float("nan"))

    def run() -> None:
        nonlocal state
        if training:
            state, _ = compiled(state, batch)
            jax.block_until_ready(state)
        else:
            jax.block_until_ready(compiled(*arguments))

    return run, work, moved


def seconds_of(run: Callable[[], Any], calls: int) -> float:
    """Returns the median wall time of some calls."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def machine_rates() -> tuple[float, float]:
    """Returns (FLOP/s of a large product in the backend's dtype, bytes/s of a pass over a large array)."""
    on_cpu, dtype = jax.default_backend() == "cpu", jnp.dtype(own_dtype())
    rows, array_bytes = LARGE_ON_CPU if on_cpu else LARGE_ON_GPU
    square, long = jnp.ones((rows, rows), dtype), jnp.ones(array_bytes // 4, jnp.float32)
    product, add = jax.jit(jnp.dot), jax.jit(lambda x: x + 1, donate_argnums=0)

    def pass_over() -> None:
        nonlocal long
        long = add(long).block_until_ready()

    runs = [lambda: product(square, square).block_until_ready(), pass_over]
    fastest = [min(seconds_of(run, 1) for _ in range(6)) for run in runs]
    return 2 * rows**3 / fastest[0], 2 * array_bytes / fastest[1]


def runs_of(
    name: str, network: Network, batch_size: int, training: bool, dtype: str, peers: str
) -> tuple[dict[str, Any], float, float]:
    """Returns ({what: function of one step}, FLOP, bytes) of one row; peers: "", "eager" or "compiled"."""
    images, labels = inputs_of(network, batch_size)
    run, work, moved = jax_run(name, network, images, labels, training=training, dtype=dtype)
    runs = {"ours": run}
    if peers:
        import torch_networks

        on_cpu = jax.default_backend() == "cpu"
        by = (False, True) if peers == "compiled" else (False,)
        forms = [(last, compiled) for compiled in by for last in (True, False)]
        for channels_last, compiled in forms if on_cpu else [(True, True)]:
            what = f"torch{' compiled' if compiled else ''}{' channels last' if channels_last else ''}"
            runs[what] = torch_networks.step(
                name,
                images,
                labels,
                network.classes,
                training=training,
                channels_last=channels_last,
                device="cpu" if on_cpu else "cuda",
                compiled=compiled,
                autocast=dtype == "bfloat16",
            )
    return runs, work, moved


def measure(
    name: str,
    network: Network,
    *,
    training: bool,
    rounds: int,
    batch_size: int,
    dtype: str,
    peers: str,
    rates: tuple[float, float],
) -> dict[str, Any]:
    """Returns one row: times in milliseconds, the ratio round by round, FLOP, utilisation and bounds."""
    batch_size = batch_size or (network.batch if jax.default_backend() == "cpu" else network.gpu_batch)
    runs, work, moved = runs_of(name, network, batch_size, training, dtype, peers)
    calls = {what: max(1, min(30, int(0.5 / seconds_of(run, 2)))) for what, run in runs.items()}
    times: dict[str, list[float]] = {what: [] for what in runs}
    for _ in range(rounds):
        for what, run in runs.items():
            run()
            times[what].append(1e3 * seconds_of(run, calls[what]))
    ours, *theirs = times.values()
    fastest = min(ours) / 1e3
    return {
        "network": name,
        "what": "training step" if training else "inference",
        "batch": batch_size,
        "size": network.size,
        "dtype": dtype,
        "milliseconds": times,
        "ratios": [min(others) / own for own, *others in zip(*times.values(), strict=True)] if theirs else [],
        "images_per_second": batch_size / fastest,
        "gflop": work / 1e9,
        "utilisation": work / fastest / rates[0],
        "compute_bound_ms": 1e3 * work / rates[0],
        "memory_bound_ms": 1e3 * moved / rates[1],
    }


def line_of(row: dict[str, Any]) -> str:
    """Returns a row of the table."""
    times, ratios = row["milliseconds"], row["ratios"]
    theirs = min((min(values) for what, values in times.items() if what != "ours"), default=float("nan"))
    by_round = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"
    return (
        f"{row['network']:18}{row['batch']:6}{min(times['ours']):9.1f}{theirs:9.1f}  {by_round:22}"
        f"{row['images_per_second']:8.1f}{100 * row['utilisation']:6.0f} %"
        f"{row['compute_bound_ms']:9.1f}{row['memory_bound_ms']:9.1f}"
    )


def names_of(text: str, training: bool) -> Sequence[str]:
    """Returns the networks asked for; all that the kind of run has where none is named."""
    names = text.split(",") if text else [n for n in NETWORKS if training or not n.endswith(PARTS)]
    unknown = sorted(set(names) - set(NETWORKS))
    if unknown:
        raise SystemExit(f"error: no network {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    return names


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--networks", default="", help="names joined by commas; all without it")
    parser.add_argument("--inference", action="store_true", help="logits of a batch, no training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=0, help="instead of each network's own")
    parser.add_argument("--size", type=int, default=0, help="pixels of a side, instead of each network's own")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of both sides' computation")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too, on a CPU")
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    parser.add_argument("--json", default="", help="file for the figures")
    arguments = parser.parse_args()
    names = names_of(arguments.networks, not arguments.inference)
    if not arguments.alone and OLD_MEMORY not in os.environ:
        os.environ.setdefault(MEMORY, SHARE_OF_MEMORY)
    versions = {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    if not arguments.alone:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        versions["torch"] = torch.__version__
    rates = machine_rates()
    versions |= {"gflop_per_second": round(rates[0] / 1e9), "gb_per_second": round(rates[1] / 1e9, 1)}
    print(", ".join(f"{key} {value}" for key, value in versions.items()))
    print(HEADER)
    rows = []
    for name in names:
        row = measure(
            name,
            NETWORKS[name]._replace(size=arguments.size or NETWORKS[name].size),
            training=not arguments.inference,
            rounds=arguments.rounds,
            batch_size=arguments.batch_size,
            dtype=arguments.dtype or own_dtype(),
            peers="" if arguments.alone else "compiled" if arguments.compile else "eager",
            rates=rates,
        )
        rows.append(row)
        print(line_of(row), flush=True)
        if arguments.json:
            write_json(Path(arguments.json), versions | {"rows": rows}, way_out="")


if __name__ == "__main__":
    main()
