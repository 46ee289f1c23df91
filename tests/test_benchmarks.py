"""The benchmarks run; how fast anything is, no test asks."""

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "network, options", [("simpleconv3", ["--size=32"]), ("simpleconv3", ["--inference"])]
)
def test_a_row_of_the_training_step(network, options, tmp_path):
    command = [sys.executable, "benchmarks/train_step.py", "--alone", "--rounds=1", "--batch_size=2"]
    command += [f"--networks={network}", f"--json={tmp_path / 'row.json'}", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=200)
    (row,) = json.loads((tmp_path / "row.json").read_text())["rows"]
    assert row["network"] == network and row["batch"] == 2 and row["ratios"] == []
    inference = "--inference" in options
    assert (row["what"], row["size"]) == (("inference", 48) if inference else ("training step", 32))
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


@pytest.mark.slow
def test_a_small_session(tmp_path):
    command = [sys.executable, "benchmarks/gpu_session.py", "--small", f"--workdir={tmp_path / 'work'}"]
    command += [f"--json={tmp_path / 'figures.json'}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=400)
    content = json.loads((tmp_path / "figures.json").read_text())
    (row,) = content["table"]
    assert (row["network"], row["batch"], row["size"]) == ("simpleconv3", 2, 48)
    fast, few_labels = content["runs"]
    for run, config in ((fast, "digits_simpleconv3:test"), (few_labels, "digits_mixmatch:test")):
        assert run["config"] == config and run["finished"] and run["step"] == run["total_steps"]
        assert run["metrics"]["test/num_examples"] == 144  # a tenth of the training images
        assert 0 < run["training_seconds"] < run["wall_seconds"]
    left_out = {row["what"]: row["reason"] for row in content["left_out"]}
    assert "no option '96'" in left_out.pop("digits_simpleconv3:96")
    without = [name for name in ("torch", "torchvision", "timm") if importlib.util.find_spec(name) is None]
    assert list(left_out) == (["PyTorch's side of the table"] if without else [])
    assert all(f"pip install {' '.join(without)}" in reason for reason in left_out.values())


@pytest.fixture
def gpu_session(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_session")


def test_a_session_says_what_is_missing(gpu_session, monkeypatch):
    monkeypatch.setattr(gpu_session, "PACKAGES", {"table": ("json",), "fast": ("json", "no_such_package")})
    gpu_session.require_packages(["table"])
    with pytest.raises(SystemExit, match="not installed: no_such_package.* --parts=table$"):
        gpu_session.require_packages(["table", "fast"])


def test_a_process_of_a_session_ends_in_time(gpu_session, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_session, "LEAST_SECONDS", 1)
    monkeypatch.setattr(gpu_session, "STOP_SECONDS", 1)
    session = gpu_session.Session(tmp_path / "figures.json", tmp_path, 60, {})
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    fails = [sys.executable, "-c", "raise SystemExit('error: no luck')"]
    assert not session.run(sleeps, "sleeps", 2, signal.SIGTERM)
    with pytest.raises(gpu_session.Failed, match="error: no luck .status 1"):
        session.run(fails, "fails", 20, signal.SIGKILL)
    with pytest.raises(gpu_session.Failed, match="no time is left: 0 s"):
        session.run(sleeps, "sleeps", -3, signal.SIGTERM)
    assert 55 < session.left() < 60


def test_a_session_reads_how_far_a_run_is(gpu_session, tmp_path):
    with pytest.raises(gpu_session.Failed, match="before its first line"):
        gpu_session.reached(tmp_path)
    lines = [
        {"step": 50, "train/examples_per_second": 10.0},
        {"step": 64, "test/accuracy": 0.5},
        {"step": 100, "train/examples_per_second": 20.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.json").write_text(json.dumps({"resolved": {"train": {"total_steps": 1000}}}))
    row = {"config": "own"} | gpu_session.reached(tmp_path)
    assert row["metrics"] == lines[1]
    assert gpu_session.line_of(row) == "own: step 100 of 1,000, 20 examples/s, test/accuracy 0.5000"
