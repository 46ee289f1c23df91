"""What one more process costs: times of a step, its input and a checkpoint, and memory of the host.

  python benchmarks/processes.py [--processes 1 2 4] [--steps 40] [--parallel replicated] [--json FILE]

Each row is a run of digits_simpleconv3 in so many processes on this machine, over loopback, one CPU device
each and one global batch of 64. Times are the shortest of all steps in milliseconds, a checkpoint's the
shorter of two; they are process 0's, memory is the largest process's peak. The processes share the cores
there are, so on a laptop the table shows what the joining costs and not how training scales.
"""

import argparse
import json
import os
import resource
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "digits_simpleconv3.py"


def measure(steps: int, parallel: str, workdir: Path) -> dict[str, float]:
    """Trains so many steps in this process and saves twice; returns milliseconds and MiB."""
    import jax

    from imgcls_jax.config.written import plain
    from imgcls_jax.data.read_ahead import iterate
    from imgcls_jax.train import sharding
    from imgcls_jax.train.checkpoint import Checkpoints
    from imgcls_jax.train.compiled import compile_step
    from imgcls_jax.train.initial import initial_state
    from imgcls_jax.train.setup import Setup

    config = plain(runpy.run_path(str(CONFIG))["get_config"]("test"))
    config["train"]["parallel"] = parallel
    setup = Setup(config)
    state, compiled = initial_state(setup), compile_step(setup, setup.phases[0])
    times: dict[str, list[float]] = {"input": [], "step": [], "checkpoint": []}
    with (
        iterate(setup.batches, 0, steps, **setup.data.reading) as batches,
        Checkpoints(workdir / "checkpoints") as checkpoints,
    ):
        for number in range(steps):
            begun = time.perf_counter()
            batch = next(batches)
            placed = sharding.place({key: batch[key] for key in setup.spec}, setup.mesh)
            read = time.perf_counter()
            state, _ = jax.block_until_ready(compiled(state, placed))
            stepped = time.perf_counter()
            times["input"].append(read - begun)
            times["step"].append(stepped - read)
            if number >= steps - 2:
                checkpoints.save(state, wait=True)
                times["checkpoint"].append(time.perf_counter() - stepped)
    shortest = {name: 1000 * min(values) for name, values in times.items()}
    return shortest | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def run(processes: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Measures a run of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    options = ["--steps", str(arguments.steps), "--parallel", arguments.parallel]
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, __file__, *options, "--worker", workdir, str(port), str(processes)]
        running = [
            subprocess.Popen([*command, str(i)], env=environment, stdout=subprocess.PIPE, text=True)
            for i in range(processes)
        ]
        try:
            outputs = [process.communicate(timeout=600)[0] for process in running]
        finally:
            for process in running:
                process.kill()
    if any(process.returncode for process in running):
        raise SystemExit(f"error: a process of {processes} failed; see above")
    measured = [json.loads(output.splitlines()[-1]) for output in outputs]
    return measured[0] | {"memory": max(one["memory"] for one in measured)}


def main() -> None:
    """Prints the table, or, as one of the processes, a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--parallel", default="replicated", help="as train.parallel")
    parser.add_argument("--json", type=Path, help="where the figures go besides")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        workdir, port, processes, process = arguments.worker
        if int(processes) > 1:
            import jax

            jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(process))
        print(json.dumps(measure(arguments.steps, arguments.parallel, Path(workdir))))
        return
    rows: dict[int, Any] = {}
    print(f"{'processes':>9}{'step ms':>10}{'input ms':>10}{'checkpoint ms':>15}{'peak MiB':>10}")
    for processes in arguments.processes:
        row = rows[processes] = run(processes, arguments)
        print(
            f"{processes:9d}{row['step']:10.2f}{row['input']:10.2f}{row['checkpoint']:15.0f}"
            f"{row['memory']:10.0f}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
