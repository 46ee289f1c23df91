"""The page about finished runs, side by side: its sections, made of what each run left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.config.written import flat_fields
from imgcls_jax.figures import page
from imgcls_jax.figures.evaluation_pictures import example_image

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
      by_class: the classification report of the predictions; None where they are not of single classes.
    """

    name: str
    result: dict[str, Any]
    records: list[dict[str, Any]]
    class_names: tuple[str, ...]
    predictions: Predictions | None
    why_not: str
    by_class: dict[str, Any] | None


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
        return page.picture(example_image(self.source, index), *captions, side=side)


class Searched(NamedTuple):
    """What a page tells of a search.

    Attributes:
      name: of its folder.
      header, rows: of the table of its trials.
      notes: lines above it.
    """

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str]


class Compared(NamedTuple):
    """What a page tells of runs two by two.

    Attributes:
      rows: (run, run, right in the first alone, right in the second alone, p, difference of accuracies, its
        interval), a pair each.
      notes: on the pairs that cannot be compared.
    """

    rows: Sequence[Sequence[Any]]
    notes: Sequence[str]


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
    intervals = [
        {
            f"{evaluation}/{name}": bounds
            for evaluation, fields in run.result["metrics"].items()
            for name, bounds in fields.get("intervals", {}).items()
        }
        for run in runs
    ]
    names = dict.fromkeys(name for metrics in found for name in metrics)

    def cell(name: str, metrics: dict[str, Any], own: dict[str, Any]) -> Any:
        value, bounds = metrics.get(name), own.get(name)
        return value if bounds is None else f"{page.text(value)} {interval(*bounds)}"

    rows = [(name, *(cell(name, *pair) for pair in zip(found, intervals, strict=True))) for name in names]
    told = "<p class=soft>In brackets: intervals at 95 %, by the bootstrap over images.</p>"
    table = page.table(("metric", *(run.name for run in runs)), rows)
    return (told if any(intervals) else "") + table


def interval(low: float, high: float) -> str:
    """Returns an interval as text."""
    return f"[{low:.4g}, {high:.4g}]"


def pairs_section(compared: Compared) -> Iterator[str]:
    """Yields which of two runs is better, pair by pair."""
    yield "<h2>Two by two</h2>"
    if compared.rows:
        yield (
            "<p class=soft>McNemar's exact test on the images that one of two networks alone gets right: p "
            "is how likely so uneven a count would be if both were equally good. It is not corrected for the "
            "number of pairs, and says nothing of other seeds. The interval of the difference of accuracies "
            "is at 95 %.</p>"
        )
        header = ("first", "second", "first alone right", "second alone right", "p", "difference", "interval")
        yield page.table(header, compared.rows)
    yield from (f"<p class=soft>{page.text(note)}</p>" for note in compared.notes)


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
    names, measured = run.class_names, run.by_class
    if measured is None:
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
    if "risk_coverage" in measured:
        curve = measured["risk_coverage"]
        points = list(zip(curve["coverage"], curve["risk"], strict=True))
        yield "<h3>Selective prediction</h3><p>The share of errors among the most confident images; the area "
        yield f"under the curve (AURC) is {page.text(measured['aurc'])}.</p>"
        chart = page.chart("Risk over coverage", [(0, points, False)], unit="coverage")
        yield f'<div class="grid">{chart}</div>'


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


def build(runs: Sequence[Run], searches: Sequence[Searched] = (), compared: Compared | None = None) -> str:
    """Returns the page."""
    title = " · ".join([*(own.name for own in searches), *(run.name for run in runs)])
    body = [f"<h1>{page.text(title)}</h1>"]
    for own in searches:
        body += [f"<h2>{page.text(own.name)}</h2>", *(f"<p>{page.text(line)}</p>" for line in own.notes)]
        body.append(page.table(own.header, own.rows, sorts=True))
    body += overview(runs)
    body += ["<h2>Curves</h2>", curves(runs), "<h2>Final metrics</h2>", metrics_table(runs)]
    body += pairs_section(compared) if compared else ()
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
