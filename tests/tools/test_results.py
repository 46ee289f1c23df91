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


def test_runs_are_added_to_a_file_and_take_the_place_of_their_own_seed_alone(tmp_path):
    kept = results.gather(
        [run_of(tmp_path / "a", 0.5), run_of(tmp_path / "b", 0.6, 1)], "test/accuracy", **WORDS
    )
    file = tmp_path / "a.json"
    write = lambda: file.write_text(json.dumps(kept | {"published": "90 %"}))  # noqa: E731
    write()
    words = [f"--{name}={word}" for name, word in WORDS.items() if name != "published"]
    for path, accuracy, seed in (("c", 0.7, 2), ("d", 0.8, 1)):
        run = str(run_of(tmp_path / path, accuracy, seed))
        assert results.main(["add", str(file), "--metric=test/accuracy", *words, run]) == 0
    content = json.loads(file.read_text())
    assert sorted((run["seeds"]["train.seed"], run["value"]) for run in content["runs"]) == [
        (0, 0.5),
        (1, 0.8),
        (2, 0.7),
    ]
    assert results.row(content)[-1] == "90 %"


def test_runs_that_do_not_belong_to_a_file_are_not_added(tmp_path):
    kept = results.gather([run_of(tmp_path / "a", 0.5)], "test/accuracy", **WORDS)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(kept))
    other = results.gather([run_of(tmp_path / "b", 0.9, 1, learning_rate=0.2)], "test/accuracy", **WORDS)
    with pytest.raises(ValueError, match="another configuration: optimizer.learning_rate"):
        results.joined(file, other)
    for field in ("versions", "device"):
        with pytest.raises(ValueError, match=f"holds runs of {field} "):
            results.joined(file, kept | {field: {"jax": "1"}})


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
