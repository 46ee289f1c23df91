"""Results files against the runs they come from, and the table of the documentation against the files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls_jax.tools import results

ROOT = Path(__file__).parents[2]
WORDS = {"method": "M", "protocol": "P", "command": "C", "published": "-"}


def run_of(folder, value, seed=0, **fields):
    folder.mkdir()
    content = {
        "config": {"train": {"seed": seed}, "optimizer": {"learning_rate": 0.1} | fields},
        "metrics": {"test": {"accuracy": value}},
        "steps": 7,
        "wall_seconds": 60.0 + seed,
        "config_digest": "c",
        "state_digest": f"s{seed}",
        "versions": {"jax": "0"},
        "device": {"platform": "cpu", "kind": "cpu", "count": 1, "cores": 2},
    }
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def test_mean_and_spread_over_seeds(tmp_path):
    runs = [run_of(tmp_path / str(seed), value, seed) for seed, value in enumerate((0.9, 0.92, 0.94))]
    content = results.gather(runs, "test/accuracy", **WORDS)
    assert [run["seeds"]["train.seed"] for run in content["runs"]] == [0, 1, 2]
    cells = results.row(content)
    assert cells == ("M", "P", "92.00 ± 2.00 % (3 seeds)", "61 s", "2 CPU cores", "-")


def test_one_run_has_no_spread(tmp_path):
    content = results.gather([run_of(tmp_path / "a", 0.5)], "test/accuracy", **WORDS)
    assert results.row(content)[2] == "50.00 %"


def test_runs_of_two_configurations_are_refused(tmp_path):
    runs = [run_of(tmp_path / "a", 0.9), run_of(tmp_path / "b", 0.9, 1, learning_rate=0.2)]
    with pytest.raises(ValueError, match="another configuration .* optimizer.learning_rate"):
        results.gather(runs, "test/accuracy", **WORDS)
    with pytest.raises(ValueError, match="no test/top5; it has test/accuracy"):
        results.gather(runs[:1], "test/top5", **WORDS)
    with pytest.raises(ValueError, match=r"result.json is absent"):
        results.gather([tmp_path], "test/accuracy", **WORDS)


def test_the_commands(tmp_path):
    workdir = run_of(tmp_path / "run", 0.75)
    module = [sys.executable, "-m", "imgcls_jax.tools.results"]
    words = [f"--{name}={word}" for name, word in WORDS.items()]
    file = tmp_path / "kept" / "a.json"
    subprocess.run([*module, "add", str(file), "--metric=test/accuracy", *words, str(workdir)], check=True)
    shown = subprocess.run([*module, "table", str(file.parent)], check=True, capture_output=True, text=True)
    assert shown.stdout.splitlines()[-1] == "| M | P | 75.00 % | 60 s | 2 CPU cores | - |"


@pytest.mark.skipif(not (ROOT / "results").exists(), reason="no results are kept yet")
def test_the_documentation_shows_what_the_files_hold():
    assert results.table(ROOT / "results") in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
