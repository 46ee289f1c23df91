"""The benchmarks run; how fast anything is, no test asks."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("network, options", [("simpleconv3", []), ("simpleconv3", ["--inference"])])
def test_a_row_of_the_training_step(network, options, tmp_path):
    command = [sys.executable, "benchmarks/train_step.py", "--alone", "--rounds=1", "--batch_size=2"]
    command += [f"--networks={network}", f"--json={tmp_path / 'row.json'}", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=200)
    (row,) = json.loads((tmp_path / "row.json").read_text())["rows"]
    assert row["network"] == network and row["batch"] == 2 and row["ratios"] == []
    assert row["what"] == ("inference" if options else "training step")
    assert row["gflop"] > 0 and row["milliseconds"]["ours"][0] > 0 and row["memory_bound_ms"] > 0


def test_rows_of_the_scaling(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    scaling = importlib.import_module("scaling")
    for what, values in (("BATCHES", (1, 2)), ("SIZES", (48,)), ("CLASSES", (3,))):
        monkeypatch.setattr(scaling, what, values)
    monkeypatch.setattr(scaling.train_step, "machine_rates", lambda: (1e11, 1e10))
    options = ["--network=simpleconv3", "--inference", "--rounds=1", f"--json={tmp_path / 'rows.json'}"]
    monkeypatch.setattr(sys, "argv", ["scaling.py", *options])
    scaling.main()
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(row["grows"], row["batch"], row["size"], row["classes"]) for row in rows] == [
        ("batch", 1, 48, 2),
        ("batch", 2, 48, 2),
        ("pixels of a side", 64, 48, 2),
        ("classes", 64, 48, 3),
    ]
    assert rows[1]["gflop"] == pytest.approx(2 * rows[0]["gflop"])
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)


def test_an_unknown_network_is_refused():
    done = subprocess.run(
        [sys.executable, "benchmarks/train_step.py", "--networks=resnet19"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: no network resnet19; there are")
