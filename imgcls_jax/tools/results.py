"""Keeps measured figures: from finished workdirs to a small JSON file, to a table, and to a run once more.

  python -m imgcls_jax.tools.results add results/digits_mixmatch.json --metric test/accuracy \\
    --method MixMatch --protocol "digits, 10 labels a class, test split" \\
    --command "python -m imgcls_jax.main --config configs/digits_mixmatch.py" runs/mixmatch_{0,1,2}
  python -m imgcls_jax.tools.results table results
  python -m imgcls_jax.tools.results reproduce results/digits_mixmatch.json --seeds 1 2
  python -m imgcls_jax.tools.results certify --config configs/digits_mixmatch.py --workdir runs/certified

The workdirs of one file are runs of one configuration that differ in their seed alone; the file keeps what
each measured, how long it took, and on what. `add` to a file that exists keeps its runs of other seeds.
`table` prints a line a file, in the order of their names.

`reproduce` runs the recorded command again, and says whether the configuration, the final state and the
metric are those of the file (rerun/reproduce.py has the rule). `certify` runs a configuration once through
and once more killed and resumed, and compares both. Each writes a certificate as JSON.
Exit status: 0, of these two only where all agrees, else 1; 2 for a mistake.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.buckets import as_path
from imgcls_jax.runtime.command import (
    at_least_one,
    command,
    exit_with,
    importing,
    parser_of,
    user_path,
    workdir_path,
)
from imgcls_jax.runtime.files import read_json, write_json
from imgcls_jax.runtime.names import printable

with importing(__name__):
    from imgcls_jax.config import compare, files
    from imgcls_jax.config.resolve import resolve
    from imgcls_jax.config.written import flat_fields
    from imgcls_jax.rerun import certify, recorded, reproduce
    from imgcls_jax.rerun.recorded import SEEDS
    from imgcls_jax.train import finished

CERTIFICATE = "certificate.json"  # also the end of its name beside a results file
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
        "config": first,
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


def joined(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Returns new content with the runs of a results file before its own; of the same seeds it has the new.

    Raises:
      ValueError: the file is damaged, or of another metric, configuration, device or other versions.
    """
    known = _read(path)
    for field in ("metric", "versions", "device"):
        if known[field] != content[field]:
            raise ValueError(
                f"{path} holds runs of {field} {known[field]}, and these are of {content[field]}: "
                "give another file"
            )
    others = [
        line for line in compare.differing_fields(known["config"], content["config"]) if line not in SEEDS
    ]
    if others:
        raise ValueError(f"{path} holds runs of another configuration: {others[0]}; give another file")
    new = [run["seeds"] for run in content["runs"]]
    runs = [run for run in known["runs"] if run["seeds"] not in new] + content["runs"]
    return content | {"published": content["published"] or known["published"], "runs": runs}


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
    return content["method"], content["protocol"], measured, wall, where, content["published"] or "-"


def kept(folder: Path) -> list[Path]:
    """Returns a folder's results files by their names, without the certificates beside them."""
    return sorted(path for path in folder.glob("*.json") if not path.name.endswith(f".{CERTIFICATE}"))


def table(folder: Path) -> str:
    """Returns the Markdown table of a folder's results files."""
    found = kept(folder)
    if not found:
        raise ValueError(f"{folder} holds no results file (.json)")
    rows = [HEADER, ("---",) * len(HEADER), *(row(_read(file)) for file in found)]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in rows)


def _cell(text: str) -> str:
    """Returns a text that stays within its cell of Markdown."""
    return printable(text).replace("|", "\\|")


def run_add(arguments: argparse.Namespace) -> int:
    """Writes a results file; returns the exit status."""
    words = {name: getattr(arguments, name) for name in ("method", "protocol", "command", "published")}
    content = gather(arguments.workdirs, arguments.metric, **words)
    if arguments.file.exists():
        content = joined(arguments.file, content)
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.file, content, way_out="")
    return 0


def run_table(arguments: argparse.Namespace) -> int:
    """Prints the table; returns the exit status."""
    print(table(arguments.folder))
    return 0


def run_reproduce(arguments: argparse.Namespace) -> int:
    """Repeats recorded runs, prints and keeps what came out; returns the exit status."""
    path, tolerance = arguments.file, arguments.tolerance
    content = recorded.read(path)
    runs = reproduce.chosen(content, arguments.seeds, arguments.all)
    named = recorded.parse(content["command"], trust=arguments.trust_config)
    folder = arguments.workdir or Path("runs", f"reproduce_{path.stem}")
    output = arguments.output or path.with_suffix(f".{CERTIFICATE}")
    compared = []
    for run in runs:
        workdir = folder / "_".join(
            f"{seed.rpartition('.')[2]}_{run['seeds'][seed]}" for seed in run["seeds"]
        )
        found = reproduce.again(
            content, run, named, workdir, moved=arguments.overrides, tolerance=tolerance, tell=say
        )
        compared.append(found)
        say("\n".join(reproduce.told(content["metric"], found)))
    agrees = all(found["verdict"] != reproduce.DIFFERS for found in compared)
    certificate = {
        "certificate": "reproduction",
        "agrees": agrees,
        "results": str(path),
        "results_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "command": content["command"],
        "rule": reproduce.rule(content, tolerance),
        "recorded": {name: content[name] for name in ("versions", "device")},
        "runs": compared,
    }
    say(certificate["rule"])
    return _certified(output, certificate)


def run_certify(arguments: argparse.Namespace) -> int:
    """Kills and resumes a run, prints and keeps what came out; returns the exit status."""
    overrides = dict(arguments.overrides)
    if arguments.steps:
        overrides["train.total_steps"] = str(arguments.steps)
    named = files.find(arguments.config, overrides)
    resolve(files.load(named)[0])
    found = certify.Certifying(
        arguments.config, overrides, arguments.workdir, seconds=60 * arguments.minutes, tell=say
    ).certify(arguments.kills, arguments.seed)
    state = "the same to the bit" if found["state_digest"]["same"] else "differ"
    differing = ", ".join(found["differing_metrics"][:5])
    say(f"final states: {state}; metrics: {f'differ: {differing}' if differing else 'the same'}")
    hits, wanted = len(found["kills"]), found["kills_wanted"]
    if hits < wanted:
        say(f"{hits} of {wanted} kills came before the run was over")
    if not any(kill["resumed_from"] for kill in found["kills"]):
        say("after no kill the run went on from a checkpoint: this says little")
    return _certified(
        arguments.output or arguments.workdir / CERTIFICATE, {"certificate": "resumption"} | found
    )


def _certified(output: Path, certificate: Mapping[str, Any]) -> int:
    """Writes a certificate with its date; returns the exit status."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    write_json(output, {**certificate, "date": now}, way_out="")
    say(f"{'agrees' if certificate['agrees'] else 'differs'}: {output}")
    return 0 if certificate["agrees"] else 1


def say(text: str) -> None:
    """Prints lines at once, free of escape codes."""
    print("\n".join(map(printable, text.splitlines())), flush=True)


def positive(text: str) -> float:
    """Parses a number above 0, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0; got {printable(text)!r}")
    return number


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    words, overrides = files.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = parser_of("results", __doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="what", required=True)
    add = commands.add_parser("add", help="write finished workdirs to a results file, new or not")
    add.set_defaults(run=run_add)
    add.add_argument("file", type=user_path)
    add.add_argument("workdirs", type=workdir_path, nargs="+")
    for field in ("metric", "method", "protocol", "command"):
        add.add_argument(f"--{field}", required=True)
    add.add_argument("--published", default="", help="the published figure with its source and protocol")
    show = commands.add_parser("table", help="print a folder's files as a table")
    show.set_defaults(run=run_table)
    show.add_argument("folder", type=user_path)
    _add_reproduce(commands.add_parser("reproduce", help="run a file's command again, and compare"))
    _add_certify(commands.add_parser("certify", help="kill and resume a run, and compare"))
    arguments = parser.parse_args(words)
    for field in overrides:
        if arguments.what != "certify" and (arguments.what != "reproduce" or field not in compare.WHERE):
            raise ValueError(
                f"{files.PREFIX}{field} is of certify; reproduce takes those that say where data lie, "
                "such as --config.data.root=FOLDER"
            )
    arguments.overrides = overrides
    return arguments


def _add_reproduce(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_reproduce)
    parser.add_argument("file", type=user_path, help="a results file")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[],
        help="train.seed of the runs to repeat (default: the first)",
    )
    which.add_argument("--all", action="store_true", help="repeat every run")
    parser.add_argument("--workdir", type=user_path, help="folder of the runs (default: runs/reproduce_FILE)")
    parser.add_argument("--output", type=user_path, help="the certificate (default: beside the file)")
    parser.add_argument(
        "--tolerance",
        type=positive,
        help="how far the metric may lie from the recorded mean, in its own unit",
    )
    parser.add_argument(
        "--trust_config",
        action="store_true",
        help="run a configuration that is none of this project's, and open places that the command names",
    )


def _add_certify(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_certify)
    parser.add_argument("--config", required=True, metavar="FILE.py[:OPTIONS]", help="as of main; so are "
                        "overrides, --config.SECTION.FIELD=VALUE")  # fmt: skip
    parser.add_argument("--workdir", type=user_path, required=True, help="a new folder for both runs")
    parser.add_argument("--kills", type=at_least_one, default=3, help="how many (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the steps at which they come (default 0)")
    parser.add_argument("--steps", type=at_least_one, help="a shorter run, of so many steps")
    parser.add_argument("--minutes", type=positive, default=30, help="that all may take (default 30)")
    parser.add_argument(
        "--output", type=user_path, help="the certificate (default: WORKDIR/certificate.json)"
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake."""
    arguments = parse_arguments(argv)
    return arguments.run(arguments)


if __name__ == "__main__":
    exit_with(main)
