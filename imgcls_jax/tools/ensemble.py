"""Evaluates several trained networks, one by one and as an ensemble: the mean of their probabilities.

  python -m imgcls_jax.tools.ensemble runs/digits_1 runs/digits_2 runs/digits_3 [--split test] [--output FILE]

The workdirs are of runs on the same classes; their networks and transforms may differ. Measured is by the
evaluations of the first workdir that read classes alone, such as "classification". `tools.predict` takes
several networks, too. Exit status: 0, or 2 for a mistake in the command or the data.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from imgcls_jax.runtime.command import (
    add_batch_size,
    add_checkpoint,
    add_data,
    command,
    exit_with,
    importing,
    parser_of,
    user_path,
    workdir_path,
)
from imgcls_jax.runtime.names import printable

with importing(__name__):
    from imgcls_jax.inference import ensemble
    from imgcls_jax.inference.trained import load
    from imgcls_jax.runtime.files import write_json
    from imgcls_jax.train import known_data


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("ensemble", __doc__)
    parser.add_argument("workdirs", nargs="+", type=workdir_path, metavar="WORKDIR", help="of training runs")
    add_checkpoint(parser)
    parser.add_argument("--split", default="", help="to evaluate on instead of each evaluation's own")
    parser.add_argument("--output", type=user_path, help="JSON file to write all metrics to")
    add_data(parser)
    add_batch_size(parser)
    return parser.parse_args(argv)


def table(result: dict[str, dict[str, Any]]) -> str:
    """Returns a line for each network and one for the ensemble, a column for each metric that is a number."""
    metrics = [
        f"{name}/{metric}"
        for name, own in result["ensemble"].items()
        for metric, value in own.items()
        if isinstance(value, (int, float))
    ]
    width = max(map(len, map(printable, result)))
    lines = [" " * width + "".join(f"  {name}" for name in metrics)]
    for name, evaluations in result.items():
        cells = []
        for metric in metrics:
            evaluation, _, field = metric.partition("/")
            cells.append(f"  {evaluations[evaluation][field]:>{len(metric)}.5g}")
        lines.append(f"{printable(name):<{width}}" + "".join(cells))
    return "\n".join(lines)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    names = [str(workdir) for workdir in arguments.workdirs]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError("an ensemble is of two workdirs at least, each named once")
    members = [load(name, arguments.checkpoint, data=known_data.named(arguments)) for name in names]
    for member in members:
        if member.data.withheld:
            raise ValueError(member.data.withheld)
    result = ensemble.evaluate(members, names, split=arguments.split, batch_size=arguments.batch_size)
    print(table(result))
    if arguments.output:
        steps = {name: member.step for name, member in zip(names, members, strict=True)}
        write_json(arguments.output, {"steps": steps} | result, way_out=". The figures were shown")
    return 0


if __name__ == "__main__":
    exit_with(main)
