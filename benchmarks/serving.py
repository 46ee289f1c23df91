"""How many images a second `tools.serve` answers over loopback, beside the network alone, and how soon.

  python benchmarks/serving.py --exported FOLDER | --network resnet18 [--image FILE] [--seconds 10]
    [--batch_size 32] [--at_once 1 8 32] [--burst 300] [--json FILE]

`--network` takes one of train_step.py with random weights, of photos at its size. The network alone runs on
batches that lie ready. The decoder alone decodes and resizes, in one thread a core. Then the server runs in a
process of its own, and a client here asks with so many connections at once, each its next image when it has
its answer. At last `--burst` images come at the same moment, each on a connection of its own, to a queue of
128. Client and server share the machine's cores. The processor's time an image is shown beside the rates:
others at work on the same machine disturb it less.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import train_step
from PIL import Image

from imgcls_jax.data.image_files import decoded, operations_for_files
from imgcls_jax.inference import export

PHOTO = (500, 375)  # pixels, as those of ImageNet


def photo() -> bytes:
    """Returns a JPEG file of smooth noise, of the size of a photo of ImageNet."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(PHOTO, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_untrained(name: str, folder: Path) -> None:
    """Writes an export of a network with random weights."""
    network = train_step.NETWORKS[name]
    inputs = train_step.inputs_of(network, 1)
    objective, batch = train_step.objective_and_batch(name, network, *inputs)
    params, objective_state = jax.jit(objective.init)(jax.random.key(0), batch)

    def predict(params: Any, objective_state: Any, batch: Any) -> Any:
        return objective.predict(params, objective_state, {"image": batch["image"] / 127.5 - 1})

    line = f"decode | resize_short({network.size * 8 // 7}) | center_crop({network.size})"
    data = SimpleNamespace(settings=SimpleNamespace(eval_transforms=line))
    shape, names = inputs[0].shape[1:], [f"class {number}" for number in range(network.classes)]
    trained = SimpleNamespace(
        predict=predict, params=params, objective_state=objective_state, objective=objective, data=data,
        source_shape=shape, class_names=names, step=0,
    )  # fmt: skip
    export.write(trained, folder, [{"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())])


def rate(work: Callable[[], int], seconds: float) -> dict[str, float]:
    """Returns what calls that say how many images each did make of a second, and of the processor."""
    work()
    begin, spent, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < seconds:
        count += work()
    wall, spent = time.perf_counter() - begin, time.process_time() - spent
    return {"images_per_second": count / wall, "cpu_ms_per_image": spent / count * 1000}


def spent_by(process: int) -> float:
    """Returns the processor's time of a process so far, in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(connection: http.client.HTTPConnection, body: bytes) -> int:
    connection.request("POST", "/predict", body)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def load(port: int, server: int, body: bytes, at_once: int, seconds: float) -> dict[str, Any]:
    """Asks from so many threads, and returns what came."""
    took: list[float] = []
    statuses: collections.Counter[int] = collections.Counter()
    end = time.perf_counter() + seconds

    def one() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while (begin := time.perf_counter()) < end:
            statuses[ask(connection, body)] += 1
            took.append(time.perf_counter() - begin)
        connection.close()

    begin, spent = time.perf_counter(), spent_by(server)
    threads = [threading.Thread(target=one) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begin
    middle, tail, last = (float(np.quantile(took, q)) * 1000 for q in (0.5, 0.99, 1.0))
    return {
        "at_once": at_once,
        "images_per_second": len(took) / wall,
        "milliseconds": {"median": middle, "p99": tail, "largest": last},
        "statuses": dict(statuses),
        "cpu_ms_per_image": (spent_by(server) - spent) / len(took) * 1000,
    }


def burst(port: int, body: bytes, count: int) -> dict[str, Any]:
    """Sends so many images at one moment, and returns what came of each."""
    ready = threading.Barrier(count)

    def one(_: int) -> int | str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.connect()
            ready.wait(60)
            return ask(connection, body)
        except OSError as error:
            return type(error).__name__
        finally:
            connection.close()

    begin = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        found = collections.Counter(pool.map(one, range(count)))
    return {"images": count, "answers": dict(found), "seconds": time.perf_counter() - begin}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns all rows."""
    body = arguments.image.read_bytes() if arguments.image else photo()
    network = export.read(arguments.exported)
    shape, size = tuple(network.image_shape), arguments.batch_size
    operations = operations_for_files(network.eval_transforms, shape)
    images = np.stack([decoded(body, operations, shape)] * size)

    def alone() -> int:
        np.asarray(network.function(images)["probabilities"])
        return size

    cores = os.cpu_count() or 1
    rows: dict[str, Any] = {"network": arguments.exported.name, "bytes": len(body), "cores": cores}
    rows["network_alone"] = rate(alone, arguments.seconds)
    with ThreadPoolExecutor(cores) as pool:
        work = lambda: len(list(pool.map(lambda _: decoded(body, operations, shape), range(64))))  # noqa: E731
        rows["decoder_alone"] = rate(work, arguments.seconds / 2)
    command = [sys.executable, "-m", "imgcls_jax.tools.serve", "--exported", str(arguments.exported)]
    command += ["--port", "0", "--batch_size", str(size), "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rsplit(":", 1)[1])
            rows["served"] = [load(port, server.pid, body, n, arguments.seconds) for n in arguments.at_once]
            rows["burst"] = burst(port, body, arguments.burst) if arguments.burst else None
        finally:
            server.terminate()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--exported", type=Path)
    network.add_argument("--network", choices=list(train_step.NETWORKS))
    parser.add_argument("--image", type=Path, help="a file; default: a JPEG of 500 x 375 pixels")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--at_once", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--burst", type=int, default=300, help="images; 0 for none")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        if arguments.network:
            arguments.exported = Path(folder) / arguments.network
            write_untrained(arguments.network, arguments.exported)
        rows = measure(arguments)
    for name in ("network_alone", "decoder_alone"):
        row = rows[name]
        print(
            f"{name}: {row['images_per_second']:.0f} images/s, {row['cpu_ms_per_image']:.2f} ms of CPU each"
        )
    for row in rows["served"]:
        times = ", ".join(f"{name} {value:.0f} ms" for name, value in row["milliseconds"].items())
        print(
            f"{row['at_once']} at once: {row['images_per_second']:.0f} images/s, "
            f"{row['cpu_ms_per_image']:.2f} ms of CPU each; {times}; {row['statuses']}"
        )
    if rows["burst"]:
        print(f"burst of {rows['burst']['images']}: {rows['burst']['answers']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
