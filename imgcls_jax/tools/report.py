"""Writes one HTML page about finished runs, side by side, that opens anywhere and fetches nothing.

  python -m imgcls_jax.tools.report runs/a runs/b [--output report.html] [--split test] [--no_data]
  python -m imgcls_jax.tools.report from_elsewhere --data_root FOLDER
  python -m imgcls_jax.tools.report runs/sweep

For every run: curves, final metrics with their intervals, the classes one by one, the confusion matrix, the
pairs most often confused, the pictures it gets wrong with most confidence, calibration, risk over coverage,
the configuration with the fields that differ, and the environment; for runs without classes, pictures of each
cluster. Runs that predict the same images are compared two by two, by McNemar's test. The folder of a search
stands for the table of its trials and the runs of its best choice. What needs predictions reads the split
again; `--no_data` leaves it out. The data are read where the run found them, if you trained on them on this
machine. A run from elsewhere could name any file of yours: its data are left out, as those that are gone, and
the page says so, until you name their folder by `--data_root`, or give `--trust_data`. Exit status: 0, or 2
for a mistake.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.buckets import is_bucket
from imgcls_jax.runtime.command import (
    add_data,
    command,
    exit_with,
    importing,
    parser_of,
    tell,
    user_path,
    workdir_path,
)
from imgcls_jax.runtime.files import naming, whole
from imgcls_jax.runtime.mistakes import reason, user_mistake
from imgcls_jax.runtime.names import printable

with importing(__name__):
    import numpy as np

    from imgcls_jax.config.configuration import Configuration
    from imgcls_jax.config.resolve import resolve_data
    from imgcls_jax.config.written import plain
    from imgcls_jax.data.contents import names_of
    from imgcls_jax.data.datasets import DataSide
    from imgcls_jax.data.subsets import subset
    from imgcls_jax.evaluators.classification_report import answers_of
    from imgcls_jax.evaluators.classification_report import report as classification_report
    from imgcls_jax.figures.run_page import Compared, Predictions, Run, Searched, build, interval
    from imgcls_jax.inference import predictions_file
    from imgcls_jax.inference.trained import Trained, load, probabilities
    from imgcls_jax.metrics.paired import paired
    from imgcls_jax.search import summary, trials
    from imgcls_jax.train import finished
    from imgcls_jax.train.known_data import NOTHING, Named, named, placed
    from imgcls_jax.train.workdir import load_task


COMPARED = 64  # images without names that are looked at, whether two splits are the same


def read_run(workdir: Path, *, split: str, data: Named | None) -> Run:
    """Reads a workdir.

    Args:
      workdir: of a finished run.
      split: to predict; "" for that of its first evaluation.
      data: what the user says of the run's data; None to read none.

    Raises:
      ValueError: it is not the workdir of a finished run.
    """
    result = finished.read_result(workdir)
    class_names = load_task(workdir)[1]
    _check_shown(workdir / "result.json", result, len(class_names))
    records = finished.read_records(workdir / "metrics.jsonl")
    predictions, why_not = None, "left out on request"
    if data is not None:
        evaluations = list(result["config"].get("evals", {}).values())
        split = split or (evaluations[0].get("split", "test") if evaluations else "test")
        try:
            if predictions_file.path(workdir, split).exists():  # of a run whose model is not kept
                predictions, withheld = kept_predictions(workdir, split, result["config"], data)
            else:
                trained = load(workdir, data=data)
                withheld = trained.data.withheld
                predictions = None if withheld else predict(trained, split)
            why_not = f"left out: {withheld}" if withheld else ""
        except (ValueError, OSError) as error:
            why_not = user_mistake(error) or reason(error)
    by_class = None
    if predictions is not None and predictions.label.ndim == 1:
        if predictions.probabilities.shape[1] == len(class_names):
            by_class = classification_report(predictions.probabilities, predictions.label)
    return Run(_name(workdir), result, records, class_names, predictions, why_not, by_class)


def compare(runs: Sequence[Run]) -> Compared | None:
    """Compares the runs that predict single classes, two by two; None where there are no two."""
    able = [run for run in runs if run.by_class is not None and run.predictions is not None]
    rows, notes = [], []
    for first, second in itertools.combinations(able, 2):
        one, other = first.predictions, second.predictions
        if one is None or other is None or not _same_images(one, other):
            notes.append(f"{first.name} and {second.name} are not compared: they predict different images.")
            continue
        found = paired(*(answers_of(own.probabilities, own.label).hits for own in (one, other)))
        bounds = interval(found.low, found.high)
        rows.append((first.name, second.name, *found[:2], f"{found.p_value:.2g}", found.difference, bounds))
    return Compared(rows, notes) if rows or notes else None


def _same_images(one: Predictions, other: Predictions) -> bool:
    """Whether two splits hold the same images in the same order, as far as names and labels tell; where the
    images have no names, some of them are compared."""
    if not np.array_equal(one.label, other.label) or len(one.source) != len(other.source):
        return False
    names, others = names_of(one.source), names_of(other.source)
    if names or others:
        return names == others
    some = np.unique(np.linspace(0, len(one.source) - 1, COMPARED).astype(int)).tolist()
    return all(np.array_equal(one.source[i]["image"], other.source[i]["image"]) for i in some)


def read_search(folder: Path) -> tuple[Searched, list[Path]]:
    """Reads the folder of a search; returns what to tell of it, and the workdirs of its best choice.

    Raises:
      ValueError: its sweep.json is damaged.
    """
    content = trials.read(folder)
    plan, found = content["plan"], content["trials"]
    header, rows = summary.rows(found, list(plan["space"]), maximize=plan["maximize"])
    best = summary.ranked(found, maximize=plan["maximize"])[:1]
    notes = [summary.best(plan, number, found[number]) for number in best if found[number].value is not None]
    notes += summary.retrained(content["final"]) if content["final"] else []
    runs = trials.finished_runs(folder, content["final"], best[0]) if notes else []
    return Searched(_name(folder), header, rows, notes), runs


def _name(folder: Path) -> str:
    return folder.name if is_bucket(folder) else folder.resolve().name


def _check_shown(path: Path, result: dict[str, Any], num_classes: int) -> None:
    """Raises ValueError where a page would not know how to show a field of a result."""
    try:
        config = plain(result["config"])
    except ValueError as error:
        raise ValueError(f"{path}: config: {error}") from error
    for section, field in (("model", "name"), ("objective", "name"), ("data", "source")):
        finished.require_fields(f"{path}: config.{section}", config[section], {field: str})
    for name, fields in config["evals"].items():
        finished.require_fields(f"{path}: config.evals.{name}", {"split": ""} | fields, {"split": str})
    for name, metrics in result["metrics"].items():
        where = f"{path}: metrics.{name}"
        if "confusion_matrix" in metrics:
            finished.require_fields(where, metrics, {"confusion_matrix": Sequence[Sequence[int]]})
            if [len(row) for row in metrics["confusion_matrix"]] != [num_classes] * num_classes:
                raise ValueError(f"{where} is damaged: confusion_matrix is not {num_classes} x {num_classes}")
        if "intervals" in metrics:
            finished.require_fields(where, metrics, {"intervals": dict})
            bounds = dict.fromkeys(metrics["intervals"], Sequence[float] | None)
            finished.require_fields(f"{where}.intervals", metrics["intervals"], bounds)
            if any(own is not None and len(own) != 2 for own in metrics["intervals"].values()):
                raise ValueError(f"{where}.intervals is damaged: an interval is two numbers")
        if "risk_coverage" in metrics:
            finished.require_fields(where, metrics, {"risk_coverage": dict, "aurc": float})
            curve, of = metrics["risk_coverage"], dict.fromkeys(("coverage", "risk"), Sequence[float])
            finished.require_fields(f"{where}.risk_coverage", curve, of)
            if len(curve["coverage"]) != len(curve["risk"]):
                raise ValueError(f"{where}.risk_coverage is damaged: its lists differ in length")
        if "reliability" in metrics:
            finished.require_fields(where, metrics, {"reliability": dict, "ece": float})
            bins = metrics["reliability"]
            lists = dict.fromkeys(("confidence", "accuracy"), Sequence[float | None])
            finished.require_fields(f"{where}.reliability", bins, lists)
            if len(bins["confidence"]) != len(bins["accuracy"]):
                raise ValueError(f"{where}.reliability is damaged: its lists differ in length")


def predict(trained: Trained, split: str) -> Predictions:
    """Predicts a split, every example once, in its order.

    Raises:
      ValueError, OSError: the data are not there, or the objective predicts no classes.
    """
    batch_size = trained.settings.train.evaluated_at_once
    found, labels = trained.outputs_of_split(split, probabilities, batch_size=batch_size)
    return Predictions(trained.data.source(split), found, labels)


def kept_predictions(
    workdir: Path, split: str, config: dict[str, Any], data: Named
) -> tuple[Predictions | None, str]:
    """Returns the predictions of a split that a workdir keeps, with the images, and why these stay closed.

    Raises:
      ValueError, OSError: the file is damaged, or the data are not there or others.
    """
    found = predictions_file.read(workdir, split)
    resolve_data(config["data"])  # checks every field
    configuration, withheld = placed(Configuration({}, config), workdir, data)
    if withheld:
        return None, withheld
    source = DataSide(configuration.data).source(split)
    labels = source.labels
    if found.example[-1] >= len(source) or (
        labels is not None and (labels[found.example] != found.label).any()
    ):
        raise ValueError(f"the split {split!r} holds other images now than those of the run")
    probabilities = np.exp(found.log_probabilities)
    return Predictions(subset(source, found.example), probabilities, found.label), ""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("report", __doc__)
    parser.add_argument("workdirs", nargs="+", type=workdir_path, metavar="WORKDIR")
    parser.add_argument("--output", type=user_path, help="default: report.html in the first workdir")
    parser.add_argument("--split", default="", help="to predict; default: that of a run's first evaluation")
    parser.add_argument("--no_data", action="store_true", help="read no split")
    add_data(parser)
    arguments = parser.parse_args(argv)
    if arguments.no_data and named(arguments) != NOTHING:
        parser.error("--no_data reads nothing: leave out --data_root and --trust_data")
    return arguments


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    output = arguments.output or arguments.workdirs[0] / "report.html"
    data = None if arguments.no_data else named(arguments)
    folders = [path for path in arguments.workdirs if (path / trials.FILE).exists()]
    searches = {folder: read_search(folder) for folder in folders}
    workdirs = [own for path in arguments.workdirs for own in searches.get(path, (None, [path]))[1]]
    runs = [read_run(workdir, split=arguments.split, data=data) for workdir in workdirs]
    page = build(runs, [told for told, _ in searches.values()], compare(runs))
    content = page.encode("utf-8", errors="backslashreplace")  # a name may be of no UTF-8
    with naming(output, way_out=""):
        if arguments.output:
            output.write_bytes(content)
        else:  # in a workdir, where a link may stand
            with whole(output) as file:
                file.write(content)
    for run in runs:
        if run.why_not and not arguments.no_data:
            tell(f"{run.name}: without predictions: {run.why_not}")
    print(printable(f"{output}: {len(content) / 2**20:.2f} MiB"))
    return 0


if __name__ == "__main__":
    exit_with(main)
