"""Writes one HTML page about finished runs, side by side, that opens anywhere and fetches nothing.

  python -m imgcls_jax.tools.report runs/a runs/b [--output report.html] [--split test] [--no_data]

For every run: curves, final metrics, the classes one by one, the confusion matrix, the pairs most often
confused, the pictures it gets wrong with most confidence, calibration, the configuration with the fields that
differ, and the environment; for runs without classes, pictures of each cluster. What needs predictions reads
the split again, with the data where the run found them; `--no_data` leaves it out, and so does a run whose
data are gone, which the page says. Exit status: 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from imgcls_jax.config.written import flat_fields, plain
from imgcls_jax.data import decoding
from imgcls_jax.evaluators.classification_report import report as classification_report
from imgcls_jax.figures import page
from imgcls_jax.inference.trained import Trained, load, probabilities
from imgcls_jax.runtime.command import exit_with
from imgcls_jax.train import finished
from imgcls_jax.train.workdir import load_task

PAIRS, WRONG, CLUSTERS, MEMBERS = 20, 24, 40, 12  # shown at most
CLASS_COLUMNS = ("support", "precision", "recall", "specificity", "f1", "average_precision", "roc_auc")
LABEL_COLUMNS = ("support", "precision", "recall", "f1", "average_precision", "roc_auc")


@dataclasses.dataclass
class Run:
    """What a page tells of a workdir.

    Attributes:
      name: of its folder.
      result: its result.json.
      records: of its metrics.jsonl, in order.
      class_names: K names.
      predictions: of the split, where it could be read.
      why_not: why it could not, "" where it could.
    """

    name: str
    result: dict[str, Any]
    records: list[dict[str, Any]]
    class_names: tuple[str, ...]
    predictions: Predictions | None
    why_not: str


@dataclasses.dataclass
class Predictions:
    """A split as a network sees it.

    Attributes:
      source: of the examples.
      probabilities: float32 [N, K].
      label: int32 [N] or [N, K].
    """

    source: Any
    probabilities: np.ndarray
    label: np.ndarray

    def picture(self, index: int, *captions: str, side: int = 112) -> str:
        example = self.source[index]["image"]
        if isinstance(example, np.ndarray):
            image = Image.fromarray(example[:, :, 0] if example.shape[2] == 1 else example)
        else:
            image = decoding.decode(example)
        return page.picture(image, *captions, side=side)


def read_run(workdir: Path, *, split: str, data: bool) -> Run:
    """Reads a workdir.

    Args:
      workdir: of a finished run.
      split: to predict; "" for that of its first evaluation.
      data: whether to predict at all.

    Raises:
      ValueError: it is not the workdir of a finished run.
    """
    result = finished.read_result(workdir)
    class_names = load_task(workdir)[1]
    _check_shown(workdir / "result.json", result, len(class_names))
    records = finished.read_records(workdir / "metrics.jsonl")
    predictions, why_not = None, "left out on request"
    if data:
        evaluations = list(result["config"].get("evals", {}).values())
        split = split or (evaluations[0].get("split", "test") if evaluations else "test")
        try:
            predictions, why_not = predict(load(workdir), split), ""
        except (ValueError, OSError) as error:
            why_not = str(error)
    return Run(workdir.resolve().name, result, records, class_names, predictions, why_not)


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
    batches = trained.data.eval_batches(split, batch_size, trained.class_names)

    @jax.jit
    def rows(params: Any, objective_state: Any, image: jax.Array) -> jax.Array:
        return probabilities(trained.predict(params, objective_state, {"image": image}))

    found, labels = [], []
    for number in range(len(batches)):
        batch = batches[number]
        mask = batch["mask"]
        found.append(
            np.asarray(rows(trained.params, trained.objective_state, batch["image"]), np.float32)[mask]
        )
        labels.append(batch["label"][mask])
    return Predictions(trained.data.source(split), np.concatenate(found), np.concatenate(labels))


def flat_metrics(result: dict[str, Any]) -> dict[str, Any]:
    """Returns {"evaluation/metric": number} of a result."""
    return {
        f"{evaluation}/{name}": value
        for evaluation, fields in result["metrics"].items()
        for name, value in fields.items()
        if value is None or isinstance(value, (int, float))
    }


def overview(runs: Sequence[Run]) -> Iterator[str]:
    """Yields the first section: what each run is and what it reached."""
    rows = []
    for run in runs:
        config, result = run.result["config"], run.result
        device = result["device"]
        where = f"{device['cores']} cores" if device["platform"] == "cpu" else device["kind"]
        network = config["model"].get("variant") or config["model"]["name"]
        data = config["data"].get("name") or config["data"]["source"]
        minutes = result["wall_seconds"] / 60
        rows.append((run.name, data, config["objective"]["name"], network, result["steps"], minutes, where))
    header = ("run", "data", "objective", "network", "steps", "minutes", "on")
    yield page.table(header, rows)
    if len(runs) == 1:
        tiles = "".join(
            f'<div class="tile">{page.text(name)}<b>{page.text(value)}</b></div>'
            for name, value in list(flat_metrics(runs[0].result).items())[:8]
        )
        yield f'<div class="tiles">{tiles}</div>'


def metrics_table(runs: Sequence[Run]) -> str:
    """Returns the final metrics, a row a metric and a column a run."""
    found = [flat_metrics(run.result) for run in runs]
    names = dict.fromkeys(name for metrics in found for name in metrics)
    return page.table(
        ("metric", *(run.name for run in runs)),
        [(name, *(metrics.get(name) for metrics in found)) for name in names],
    )


def curves(runs: Sequence[Run]) -> str:
    """Returns a chart for each quantity that was logged more than once, all runs in it."""
    names = dict.fromkeys(
        name
        for run in runs
        for record in run.records
        for name in record
        if name != "step" and not name.endswith(("epoch", "examples_per_second", "num_examples"))
    )
    charts = []
    for name in names:
        lines = []
        for number, run in enumerate(runs):
            points = [(r["step"], r[name]) for r in run.records if r.get(name) is not None]
            lines.append((number, points, False))
        if max(len(points) for _, points, _ in lines) > 1:
            charts.append(page.chart(name, lines))
    return f'{page.key([run.name for run in runs])}<div class="grid">{"".join(charts)}</div>'


def classes_section(run: Run) -> Iterator[str]:
    """Yields what is known of a run's classes, one by one and in pairs."""
    found = run.predictions
    names = run.class_names
    if found is not None and found.label.ndim == 1 and found.probabilities.shape[1] == len(names):
        measured = classification_report(found.probabilities, found.label)
    else:
        kept = run.result["metrics"].values()
        measured = next((m for m in kept if "recall" in m or "per_class_accuracy" in m), {})
    if "per_class_accuracy" in measured:
        measured = {"recall": measured["per_class_accuracy"]}
    columns = _lists(measured, CLASS_COLUMNS, len(names))
    if columns:
        yield "<h3>Class by class</h3><p class=soft>A click on a column's head sorts by it.</p>"
        values = zip(names, *(measured[column] for column in columns), strict=True)
        yield page.table(("class", *columns), list(values), sorts=True)
    if "confusion_matrix" in measured:
        yield "<h3>Confusion</h3>"
        yield page.confusion(measured["confusion_matrix"], names)
        yield from confused_pairs(np.array(measured["confusion_matrix"]), names)
    if "reliability" in measured:
        yield f"<h3>Calibration</h3><p>Expected calibration error {page.text(measured['ece'])}.</p>"
        yield f'<div class="grid">{page.reliability(measured["reliability"])}</div>'


def _lists(measured: dict[str, Any], names: Sequence[str], length: int) -> list[str]:
    """Returns those of the names that have a list with a number a class."""
    return [name for name in names if isinstance(measured.get(name), list) and len(measured[name]) == length]


def confused_pairs(confusion: np.ndarray, names: Sequence[str]) -> Iterator[str]:
    """Yields the pairs of classes most often taken for each other."""
    errors = confusion * (1 - np.eye(len(confusion), dtype=int))
    order = np.argsort(-errors, axis=None, kind="stable")[:PAIRS]
    rows = [
        (names[true], names[taken], int(errors[true, taken]), errors[true, taken] / confusion[true].sum())
        for true, taken in zip(*np.unravel_index(order, errors.shape), strict=True)
        if errors[true, taken]
    ]
    if rows:
        yield "<h3>Most often confused</h3>"
        yield page.table(("true", "taken for", "times", "of its class"), rows)


def wrong_pictures(run: Run) -> Iterator[str]:
    """Yields the pictures that a run gets wrong with most confidence."""
    found = run.predictions
    if found is None or found.label.ndim != 1 or found.probabilities.shape[1] != len(run.class_names):
        return
    predicted = found.probabilities.argmax(axis=1)
    confidence = found.probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != found.label)
    if not len(wrong):
        return
    yield "<h3>Wrong with most confidence</h3>"
    pictures = [
        found.picture(
            int(i),
            f"{run.class_names[found.label[i]]}",
            f"taken for {run.class_names[predicted[i]]}, {confidence[i]:.2f}",
        )
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")][:WRONG]
    ]
    yield f'<div class="pictures">{"".join(pictures)}</div>'


def clusters_section(run: Run) -> Iterator[str]:
    """Yields pictures of each cluster of a run that learned without classes."""
    found = run.predictions
    if found is None or found.label.ndim != 1:
        return
    clusters = found.probabilities.argmax(axis=1)
    sizes = np.bincount(clusters, minlength=found.probabilities.shape[1])
    yield "<h3>Clusters</h3><p class=soft>The largest first; the members nearest to certain.</p>"
    for cluster in np.argsort(-sizes, kind="stable")[:CLUSTERS]:
        members = np.flatnonzero(clusters == cluster)
        if not len(members):
            break
        sure = members[np.argsort(-found.probabilities[members, cluster], kind="stable")][:MEMBERS]
        classes, counts = np.unique(found.label[members], return_counts=True)
        largest = np.argsort(-counts, kind="stable")[:3]
        made = ", ".join(f"{run.class_names[classes[i]]} {counts[i] / len(members):.0%}" for i in largest)
        yield f"<p>Cluster {cluster}: {len(members)} images ({page.text(made)})</p>"
        pictures = "".join(found.picture(int(i), side=48) for i in sure)
        yield f'<div class="pictures">{pictures}</div>'


def labels_section(run: Run) -> Iterator[str]:
    """Yields the labels of a multi-label run, one by one, and the sets it gets wrong most surely."""
    for evaluation, measured in run.result["metrics"].items():
        if "hamming_loss" in measured:
            columns = _lists(measured, LABEL_COLUMNS, len(run.class_names))
            yield f"<h3>Label by label: {page.text(evaluation)}</h3>"
            values = list(zip(run.class_names, *(measured[column] for column in columns), strict=True))
            yield page.table(("label", *columns), values, sorts=True)
    found = run.predictions
    if found is None or found.label.ndim != 2:
        return
    gap = np.abs(found.probabilities - found.label).max(axis=1)

    def named(row: np.ndarray) -> str:
        return ", ".join(name for name, on in zip(run.class_names, row, strict=True) if on) or "none"

    yield "<h3>Furthest from their labels</h3>"
    pictures = [
        found.picture(int(i), named(found.label[i]), f"said: {named(found.probabilities[i] >= 0.5)}")
        for i in np.argsort(-gap, kind="stable")[:WRONG]
    ]
    yield f'<div class="pictures">{"".join(pictures)}</div>'


def configurations(runs: Sequence[Run]) -> str:
    """Returns the configurations as a table, the fields that differ first and marked."""
    flat = [flat_fields(run.result["config"]) for run in runs]
    names = sorted({name for fields in flat for name in fields})
    differing = [name for name in names if len({repr(fields.get(name)) for fields in flat}) > 1]
    rows = [
        (name, *(str(fields.get(name, "")) for fields in flat))
        for name in [*differing, *(name for name in names if name not in differing)]
    ]
    return page.table(("field", *(run.name for run in runs)), rows, marked=range(len(differing)))


def environments(runs: Sequence[Run]) -> str:
    """Returns versions, devices and digests as a table."""
    kept = [
        run.result["versions"]
        | {f"device {key}": value for key, value in run.result["device"].items()}
        | {key: run.result.get(key) for key in ("config_digest", "state_digest")}
        for run in runs
    ]
    names = dict.fromkeys(name for fields in kept for name in fields)
    return page.table(
        ("", *(run.name for run in runs)), [(name, *(fields.get(name) for fields in kept)) for name in names]
    )


def build(runs: Sequence[Run]) -> str:
    """Returns the page."""
    title = " · ".join(run.name for run in runs)
    body = [f"<h1>{page.text(title)}</h1>", *overview(runs)]
    body += ["<h2>Curves</h2>", curves(runs), "<h2>Final metrics</h2>", metrics_table(runs)]
    for run in runs:
        body.append(f"<h2>{page.text(run.name)}</h2>")
        if run.why_not:
            body.append(f"<p class=soft>Without pictures and predictions: {page.text(run.why_not)}</p>")
        multi_label = any("hamming_loss" in measured for measured in run.result["metrics"].values())
        clustering = any("nmi" in measured for measured in run.result["metrics"].values())
        if multi_label:
            body += labels_section(run)
        elif clustering:
            body += clusters_section(run)
        else:
            body += [*classes_section(run), *wrong_pictures(run)]
    body += ["<h2>Configuration</h2>", configurations(runs), "<h2>Environment</h2>", environments(runs)]
    return page.page(title, body)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m imgcls_jax.tools.report", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument("--output", type=Path, help="default: report.html in the first workdir")
    parser.add_argument("--split", default="", help="to predict; default: that of a run's first evaluation")
    parser.add_argument("--no_data", action="store_true", help="read no split")
    arguments = parser.parse_args(argv)
    output = arguments.output or arguments.workdirs[0] / "report.html"
    try:
        runs = [
            read_run(path, split=arguments.split, data=not arguments.no_data) for path in arguments.workdirs
        ]
        output.write_text(build(runs), encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for run in runs:
        if run.why_not and not arguments.no_data:
            print(f"{run.name}: without predictions: {run.why_not}", file=sys.stderr)
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    exit_with(main)
