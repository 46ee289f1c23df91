"""Keeps measured figures: from finished workdirs to a small JSON file, and from such files to a table.

  python -m imgcls_jax.tools.results add results/digits_mixmatch.json --metric test/accuracy \\
    --method MixMatch --protocol "digits, 10 labels a class, test split" \\
    --command "python -m imgcls_jax.main --config configs/digits_mixmatch.py" runs/mixmatch_{0,1,2}
  python -m imgcls_jax.tools.results table results

The workdirs of one file are runs of one configuration that differ in their seed alone; the file keeps what
each measured, how long it took, and on what. `table` prints a line a file, in the order of their names.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.buckets import as_path
from imgcls_jax.runtime.command import command, exit_with, importing, parser_of, user_path, workdir_path
from imgcls_jax.runtime.files import read_json, write_json
from imgcls_jax.runtime.names import printable

with importing(__name__):
    from imgcls_jax.config import compare
    from imgcls_jax.config.written import flat_fields
    from imgcls_jax.train import finished

SEEDS = ("train.seed", "data.label_seed")  # what runs of one file may differ in
FILE = {"method": str, "protocol": str, "published": str, "device": dict, "runs": list}
HEADER = ("method", "protocol", "measured", "wall time", "on", "published")


def gather(
    workdirs: Sequence[Path], metric: str, *, method: str, protocol: str, command: str, published: str
) -> dict[str, Any]:
    """Returns what a results file holds.

    Args:
      workdirs: of finished runs.
      metric: "evaluation/metric", as the summary of a run prints it.
      method, protocol, command, published: words for the reader; published is a figure with its source.

    Raises:
      ValueError: a run is not finished, lacks the metric, or is of another configuration.
    """
    results = [finished.read_result(as_path(workdir)) for workdir in workdirs]
    evaluation, _, name = metric.partition("/")
    first = results[0]["config"]
    for workdir, result in zip(workdirs, results, strict=True):
        if name not in result["metrics"].get(evaluation, {}):
            known = [f"{key}/{field}" for key, fields in result["metrics"].items() for field in fields]
            raise ValueError(f"{workdir} measured no {metric}; it has {', '.join(known)}")
        finished.require_fields(
            f"{workdir / 'result.json'}: metrics.{evaluation}", result["metrics"][evaluation], {name: float}
        )
        others = [line for line in compare.differing_fields(first, result["config"]) if line not in SEEDS]
        if others:
            raise ValueError(f"{workdir} is of another configuration than {workdirs[0]}: {others[0]}")
    versions, device = results[0]["versions"], results[0]["device"]
    return {
        "method": method,
        "protocol": protocol,
        "metric": metric,
        "published": published,
        "command": command,
        "versions": versions,
        "device": device,
        "runs": [
            {
                "seeds": {seed: flat_fields(result["config"]).get(seed, 0) for seed in SEEDS},
                "value": result["metrics"][evaluation][name],
                "metrics": result["metrics"],
                "steps": result["steps"],
                "wall_seconds": result["wall_seconds"],
                "config_digest": result["config_digest"],
                "state_digest": result["state_digest"],
            }
            for result in results
        ],
    }


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    finished.require_fields(path, content, FILE)
    finished.require_fields(f"{path}: device", content["device"], finished.DEVICE)
    if not content["runs"]:
        raise ValueError(f"{path} is damaged: it holds no runs")
    for number, run in enumerate(content["runs"]):
        finished.require_fields(f"{path}: runs[{number}]", run, {"value": float, "wall_seconds": float})
    return content


def row(content: dict[str, Any]) -> tuple[str, ...]:
    """Returns a results file as the cells of `HEADER`; the spread is the standard deviation (n - 1)."""
    values = [100 * run["value"] for run in content["runs"]]
    measured = f"{statistics.mean(values):.2f} %"
    if len(values) > 1:
        measured = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} % ({len(values)} seeds)"
    seconds = statistics.median(run["wall_seconds"] for run in content["runs"])
    wall = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
    device = content["device"]
    cores = device["cores"]
    where = f"{cores} CPU core{'s' if cores > 1 else ''}" if device["platform"] == "cpu" else device["kind"]
    return content["method"], content["protocol"], measured, wall, where, content["published"]


def table(folder: Path) -> str:
    """Returns the Markdown table of a folder's results files."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"{folder} holds no results file (.json)")
    rows = [HEADER, ("---",) * len(HEADER), *(row(_read(file)) for file in files)]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in rows)


def _cell(text: str) -> str:
    """Returns a text that stays within its cell of Markdown."""
    return printable(text).replace("|", "\\|")


def run_add(arguments: argparse.Namespace) -> int:
    """Writes a results file; returns the exit status."""
    words = {name: getattr(arguments, name) for name in ("method", "protocol", "command", "published")}
    content = gather(arguments.workdirs, arguments.metric, **words)
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.file, content, way_out="")
    return 0


def run_table(arguments: argparse.Namespace) -> int:
    """Prints the table; returns the exit status."""
    print(table(arguments.folder))
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("results", __doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    add = commands.add_parser("add", help="write a results file from finished workdirs")
    add.set_defaults(run=run_add)
    add.add_argument("file", type=user_path)
    add.add_argument("workdirs", type=workdir_path, nargs="+")
    for field in ("metric", "method", "protocol", "command"):
        add.add_argument(f"--{field}", required=True)
    add.add_argument("--published", default="-", help="the published figure with its source and protocol")
    show = commands.add_parser("table", help="print a folder's files as a table")
    show.set_defaults(run=run_table)
    show.add_argument("folder", type=user_path)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake."""
    arguments = parse_arguments(argv)
    return arguments.run(arguments)


if __name__ == "__main__":
    exit_with(main)
