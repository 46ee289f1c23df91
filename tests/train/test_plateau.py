"""The plateau schedule in a run: what is logged is what was stepped, and a resume goes on to the bit."""

import json

import pytest

from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train.run import run
from tests.train.test_loop import digits_config, stop_after

STEPS, RATE = 12, 0.05


def config_of(steps=STEPS, **train):
    config = digits_config(total_steps=steps, log_every_steps=1, batch_size=16, **train)
    config["optimizer"] = {"name": "sgd", "learning_rate": RATE, "schedule": "plateau"} | {
        "plateau_steps": 2,
        "patience": 1,
        "decay_factor": 0.5,
    }
    return config


def lines_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["train/loss"], line["train/learning_rate"]) for line in lines if "train/loss" in line]


def test_the_logged_rate_is_that_of_the_step_and_a_resume_keeps_it(tmp_path, monkeypatch):
    whole = run(config_of(), tmp_path / "whole")
    lines = lines_of(tmp_path / "whole")
    scale, best, expected = 1.0, float("inf"), []
    for step, (loss, _) in enumerate(lines):
        if step % 2:  # the second of two
            mean = (loss + lines[step - 1][0]) / 2
            scale, best = (scale, mean) if mean < (1 - 1e-4) * best else (scale / 2, best)
        expected.append(RATE * scale)
    assert [rate for _, rate in lines] == pytest.approx(expected)
    assert expected[-1] < RATE  # there was a plateau
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Interrupted):
            run(config_of(), tmp_path / "stopped")
    assert run(config_of(), tmp_path / "stopped")["state_digest"] == whole["state_digest"]
    assert lines_of(tmp_path / "stopped") == lines


def test_a_run_becomes_longer(tmp_path):
    run(config_of(6), tmp_path / "grown")
    grown, whole = run(config_of(), tmp_path / "grown"), run(config_of(), tmp_path / "whole")
    assert grown["state_digest"] == whole["state_digest"]
