"""The README's objective is written as a module and trained by the README's own command."""

import json
import re
import shlex
from pathlib import Path

import pytest

from imgcls_jax import objectives
from imgcls_jax.config.files import read_config
from imgcls_jax.tools import results
from imgcls_jax.train.run import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANCE = 0.75  # error of a guess among four turns
# The rows of its table of methods: objective, configuration, protocol, measured, wall time.
ROWS = re.findall(r"^\| [^|]+ \| `(\w+)` \| `configs/(\S+)` \| (.+?) \| (.+?) \| (.+?) \|$", README, re.M)


def example():
    """Returns the file's name, its text, and the overrides of its command."""
    name = re.search(r"`imgcls_jax/objectives/(\w+)\.py`\n\n```python", README).group(1)
    text = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    command = next(line for line in README.splitlines() if f"--config.objective.name={name}" in line)
    return name, text, [word for word in shlex.split(command) if word.startswith("--config.")]


def test_the_example_learns(tmp_path, monkeypatch):
    name, text, overrides = example()
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
    monkeypatch.chdir(ROOT)
    short = ["--config.train.total_epochs=4", "--config.train.log_every_steps=22"]
    config = read_config(["--config=configs/digits_simpleconv3.py", *overrides, *short])
    config["objective"] = {"name": config["objective"]["name"]}
    metrics = run(config, tmp_path / "run")["metrics"]["test"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    errors = [row["train/error"] for row in map(json.loads, lines) if "train/error" in row]
    assert len(text.splitlines()) <= 40
    assert errors[-1] < 0.4 < CHANCE and errors[-1] < errors[0]
    assert metrics["num_examples"] == 359 and metrics["accuracy"] > 0.9


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_a_row_shows_what_was_measured(row):
    """Of a configuration without a file of results its docstring holds the figures."""
    _, config, protocol, measured, wall = row
    files = [
        content
        for content in map(json.loads, (path.read_text() for path in results.kept(ROOT / "results")))
        if f"configs/{config} " in content["command"]
    ]
    if files:
        assert [results.row(content)[1:4] for content in files] == [(protocol, measured, wall)]
    else:
        beside = "miml_multilabel.py" if config == "miml_cnn_rnn.py" else config  # where its figures stand
        text = (ROOT / "configs" / beside).read_text()
        assert measured in text
        assert f"{wall}" in text + (ROOT / "configs" / config).read_text()


def test_the_table_was_found():
    assert len(ROWS) > 10
