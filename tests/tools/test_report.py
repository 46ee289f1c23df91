"""Runs compared two by two, intervals and risk over coverage on the report's page."""

import numpy as np
import pytest

from imgcls_jax.data.source import Arrays, Files
from imgcls_jax.data.subsets import subset
from imgcls_jax.evaluators.classification_report import report as classification_report
from imgcls_jax.figures.run_page import classes_section, metrics_table, pairs_section
from imgcls_jax.tools import report
from imgcls_jax.tools.report import Predictions, Run

CLASSES = ("a", "b")
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (60, 2, 2, 1), np.uint8), np.arange(60) % 2


def run_of(name, wrong, source=None, labels=LABELS, metrics=None):
    """A run that errs on some images."""
    sure = np.where(np.isin(np.arange(len(labels)), wrong), 1 - labels, labels)
    probabilities = np.where(np.arange(2) == sure[:, None], 0.9, 0.1)
    source = source or Arrays(IMAGES, LABELS, CLASSES, "own")
    predictions = Predictions(source, probabilities, labels)
    measured = classification_report(probabilities, labels)
    return Run(name, {"metrics": metrics or {}}, [], CLASSES, predictions, "", measured)


def test_runs_on_the_same_images_are_paired():
    runs = [run_of("one", [0]), run_of("other", [0, 1, 2, 3, 4, 5, 6]), run_of("<third>", [9])]
    compared = report.compare(runs)
    assert [row[:4] for row in compared.rows] == [
        ("one", "other", 6, 0),
        ("one", "<third>", 1, 1),
        ("other", "<third>", 1, 7),
    ]
    assert compared.rows[0][4] == "0.031" and compared.rows[0][5] == pytest.approx(0.1)
    content = "".join(pairs_section(compared))
    assert "McNemar" in content and "&lt;third&gt;" in content and "0.031" in content
    assert report.compare(runs[:1]) is None


@pytest.mark.parametrize("other", ["images", "order", "fewer", "names"])
def test_other_images_are_not_paired(tmp_path, other):
    one = run_of("one", [0])
    if other == "images":
        changed = Arrays(255 - IMAGES, LABELS, CLASSES, "own")
    elif other == "order":
        changed = subset(one.predictions.source, [2, 1, 0, *range(3, 60)])
    elif other == "fewer":
        two = run_of("two", [3], subset(one.predictions.source, range(40)), LABELS[:40])
    else:
        for name in ("a.png", "b.png", "c.png", "d.png"):
            (tmp_path / name).write_bytes(b"x")
        one = run_of("one", [0], Files(tmp_path, ["a.png", "b.png"], [0, 1], CLASSES), LABELS[:2])
        two = run_of("two", [0], Files(tmp_path, ["c.png", "d.png"], [0, 1], CLASSES), LABELS[:2])
    if other in ("images", "order"):
        two = run_of("two", [3], changed)
    compared = report.compare([one, two])
    assert not compared.rows
    assert compared.notes == ["one and two are not compared: they predict different images."]
    assert "different images" in "".join(pairs_section(compared))
    assert len(report.compare([one, one]).rows) == 1


def test_intervals_stand_beside_the_numbers():
    metrics = {"test": {"accuracy": 0.75, "loss": 0.5, "intervals": {"accuracy": [0.7, 0.8]}}}
    content = metrics_table([run_of("one", [0], metrics=metrics), run_of("two", [0], metrics={"test": {}})])
    assert "0.75 [0.7, 0.8]" in content and ">0.5<" in content and "95 %" in content
    assert "95 %" not in metrics_table([run_of("two", [0], metrics={"test": {"accuracy": 0.5}})])


def test_risk_over_coverage_is_drawn():
    content = "".join(classes_section(run_of("one", [0, 1, 2])))
    assert "Risk over coverage" in content and "AURC" in content


def damaged(**fields):
    config = {
        "model": {"name": "m"},
        "objective": {"name": "o"},
        "data": {"source": "s"},
        "optimizer": {"name": "sgd"},
        "train": {},
        "evals": {"test": {"split": "test"}},
    }
    return {"config": config, "metrics": {"test": fields}}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"intervals": [1]}, "intervals"),
        ({"intervals": {"a": "text"}}, "intervals"),
        ({"intervals": {"a": [1.0]}}, "an interval is two numbers"),
        ({"risk_coverage": 3, "aurc": 0.1}, "risk_coverage"),
        ({"risk_coverage": {"coverage": [], "risk": []}}, "aurc"),
        ({"risk_coverage": {"coverage": [1.0], "risk": []}, "aurc": 0.1}, "differ in length"),
    ],
)
def test_a_strangers_result_that_no_page_can_show(tmp_path, fields, named):
    with pytest.raises(ValueError, match=f"metrics.test.*{named}"):
        report._check_shown(tmp_path / "result.json", damaged(**fields), 2)
    fine = {"intervals": {"a": [0, 1.5], "b": None}, "aurc": 0.1}
    report._check_shown(tmp_path / "r", damaged(**fine), 2)
