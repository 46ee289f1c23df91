"""From the command to the first step, without and with the persistent compilation cache; and imports.

  python benchmarks/startup.py [--config configs/digits_simpleconv3.py:test] [--rounds 5] [--json FILE]

Every figure is of fresh processes, which alternate round by round. The first step counts as done when the
line of step 1 is printed. "cold" finds no compiled programs, "cached" those of a run before it, "off" is told
not to look (JAX_ENABLE_COMPILATION_CACHE=false).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parents[1]
FIRST_STEP = "step 1/"


def seconds_of(*command: str, status: int = 0) -> float:
    """Returns the wall time of a Python process, which must end with a status."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL)
    if done.returncode != status:
        raise SystemExit(f"error: {' '.join(command)} ended with status {done.returncode}")
    return time.perf_counter() - begun


def first_step(config: str, environment: dict[str, str]) -> float:
    """Returns the seconds from the command to the line of its first step; then ends the run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", "-m", "imgcls_jax.main", f"--config={config}"]
        command += [f"--workdir={folder}/run", "--config.train.log_every_steps=1"]
        unset = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        begun = time.perf_counter()
        with subprocess.Popen(
            command, cwd=ROOT, env=unset | environment, stdout=subprocess.PIPE, text=True
        ) as run:
            for line in run.stdout:
                if line.startswith(FIRST_STEP):
                    spent = time.perf_counter() - begun
                    run.kill()
                    return spent
        raise SystemExit(f"error: {' '.join(command)} came to no first step")


def forms_of(config: str, caches: Path) -> dict[str, Callable[[], float]]:
    """Returns what is measured, by name; each is a function that returns seconds."""
    warm = {"XDG_CACHE_HOME": str(caches / "warm")}

    def cold() -> float:
        with tempfile.TemporaryDirectory(dir=caches) as folder:
            return first_step(config, {"XDG_CACHE_HOME": folder})

    def cached() -> float:
        if not (caches / "warm").exists():
            first_step(config, warm)
        return first_step(config, warm)

    return {
        "python -c pass": lambda: seconds_of("-c", "pass"),
        "import jax": lambda: seconds_of("-c", "import jax"),
        "import imgcls_jax.losses": lambda: seconds_of("-c", "import imgcls_jax.losses"),
        "main --help": lambda: seconds_of("-m", "imgcls_jax.main", "--help", status=1),
        "import train.run": lambda: seconds_of("-c", "import imgcls_jax.train.run"),
        "first step, off": lambda: first_step(config, {"JAX_ENABLE_COMPILATION_CACHE": "false"}),
        "first step, cold": cold,
        "first step, cached": cached,
    }


def main() -> None:
    """Prints a table; with --json also writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--config", default="configs/digits_simpleconv3.py:test")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write the figures to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as caches:
        forms = forms_of(arguments.config, Path(caches))
        times: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(arguments.rounds):
            for name, form in forms.items():
                times[name].append(form())
    device = jax.devices()[0].device_kind
    print(f"{device}, Python {platform.python_version()}, jax {jax.__version__}, {arguments.config}")
    print(f"{'':28}{'min s':>8}{'median':>8}")
    for name, spent in times.items():
        print(f"{name:28}{min(spent):8.2f}{statistics.median(spent):8.2f}")
    pairs = zip(times["first step, off"], times["first step, cached"], strict=True)
    ratios = [off / cached for off, cached in pairs]
    best = min(times["first step, off"]) / min(times["first step, cached"])
    spread = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"to the first step, off over cached: {best:.2f}x by the minima, round by round {spread}")
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        result = {"device": device, "python": platform.python_version(), "jax": jax.__version__}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(
                result | {"settings": settings, "rows": times, "off_over_cached": ratios}, file, indent=2
            )


if __name__ == "__main__":
    main()
