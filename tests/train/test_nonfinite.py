"""What becomes of steps that are not finite: stop, skip, rollback; a resume comes to the same state."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from imgcls_jax.config.resolve import resolve
from imgcls_jax.config.written import plain
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.tools import replay
from imgcls_jax.train import build, loop, nonfinite
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.run import restore, run
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.state import state_digest

ROOT = Path(__file__).parents[2]
TOTAL_STEPS = 12


def config_with(policy, **train):
    spec = importlib.util.spec_from_file_location("digits", ROOT / "configs" / "digits_simpleconv3.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = plain(module.get_config("test"))
    config["data"] |= {"train_transforms": "normalize(0.5, 0.5)", "eval_transforms": "normalize(0.5, 0.5)"}
    for key in ("total_epochs", "eval_every_epochs"):
        del config["train"][key]
    config["model"] = {"name": "mlp", "hidden": [16], "dropout": 0.1}
    settings = {"total_steps": TOTAL_STEPS, "log_every_steps": 3, "checkpoint_every_steps": 3}
    config["train"] |= settings | {"on_nonfinite": policy} | train
    return config


@pytest.fixture
def poison(monkeypatch):
    """Makes losses NaN, or gradients alone infinite, at some steps, counted from 1."""
    make = build.make_objective

    def at(steps, *, gradients_only=False):

        def poisoned(*arguments):
            objective = make(*arguments)

            def loss(params, objective_state, batch, rng, step):
                value, (objective_state, metrics) = objective.loss(params, objective_state, batch, rng, step)
                bad = jnp.isin(step + 1, jnp.array(list(steps), int))
                if gradients_only:
                    bias = params["head"]["classifier"]["bias"]
                    zeros = bias - jax.lax.stop_gradient(bias)
                    value += jnp.sum(jnp.sqrt(zeros + jnp.where(bad, 0.0, 1.0)))  # at 0 its slope is infinite
                else:
                    value *= jnp.where(bad, jnp.nan, 1.0)
                return value, (objective_state, metrics | {"loss": value})

            return dataclasses.replace(objective, loss=loss)

        monkeypatch.setattr(build, "make_objective", poisoned)

    return at


def record_of(workdir, step):
    return json.loads((workdir / f"nonfinite_{step}.json").read_text())


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def stop_after(monkeypatch, step):
    """Makes the next run stop there, as by SIGTERM."""
    after_step = loop.Loop._after_step

    def interrupted(self):
        if self.step == step:
            self.stop.signal = "SIGTERM"
        after_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_after_step", interrupted)
        yield


def test_stop_leaves_a_record_that_replay_explains(tmp_path, poison, capsys):
    poison([8])
    config = config_with("stop") | {"model": {"name": "simpleconv3"}}
    with pytest.raises(FloatingPointError, match="the loss of step 8 is not finite"):
        run(config, tmp_path)
    record = record_of(tmp_path, 8)
    assert record["step"] == 8 and record["first_bad_leaf"].startswith("params/")
    assert len(record["indices"]) == len(set(record["indices"])) == 64
    replay.main(["--workdir", str(tmp_path), "nonfinite_8.json"])
    said = capsys.readouterr().out
    assert "from the checkpoint of step 6" in said and "step 8" in said
    assert "gradient backbone/conv1/kernel: 108 of 108 NaN" in said
    assert "params backbone" not in said.split("in the step")[0]
    assert "each alone: 64 of 64" in said


def test_bad_gradients_are_found_a_step_before_their_loss(tmp_path, poison, capsys):
    poison([7], gradients_only=True)
    with pytest.raises(FloatingPointError, match="the loss of step 8 is not finite"):
        run(config_with("stop"), tmp_path)
    replay.main(["--workdir", str(tmp_path), "nonfinite_8.json"])
    said = capsys.readouterr().out
    assert "step 7 is the first" in said and "gradient head/classifier/bias: 10 of 10 infinite" in said


@pytest.mark.parametrize("policy", ["skip", "rollback"])
@pytest.mark.parametrize("gradients_only", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_batch_is_left_out_and_a_resume_ends_alike(tmp_path, poison, monkeypatch, policy, gradients_only):
    poison([5], gradients_only=gradients_only)
    config = config_with(policy)
    whole = run(config, tmp_path / "whole")
    record = record_of(tmp_path / "whole", 5)
    assert record["on_nonfinite"] == policy
    assert whole["steps"] == TOTAL_STEPS
    for line in lines(tmp_path / "whole"):
        assert line.get("train/loss", 0.0) is not None
        if policy == "skip" and "train/loss" in line:
            assert line["train/skipped"] == (1 if line["step"] == 6 else 0)
    for stop in (5,) if policy == "skip" else (4, 8):
        workdir = tmp_path / f"stopped{stop}"
        for _ in stop_after(monkeypatch, stop):
            with pytest.raises(Interrupted):
                run(config, workdir)
        resumed = run(config, workdir)
        assert resumed["state_digest"] == whole["state_digest"] and resumed["metrics"] == whole["metrics"]


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_batch_left_out_changes_nothing_but_the_step(tmp_path, poison, policy):
    poison(range(3, 6))
    config = config_with(policy, total_steps=5, checkpoint_every_steps=1, keep_checkpoints=9)
    result = run(config, tmp_path)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        state, _ = restore(Setup(resolve(config)), checkpoints, before=3)
    assert int(state.step) == 2 and state_digest(state) == result["state_digest"]


def test_skipping_and_going_back_are_bounded(tmp_path, poison, monkeypatch):
    poison(range(2, 99))
    with pytest.raises(FloatingPointError, match="10 steps skipped in a row; the loss of step 11 "):
        run(config_with("skip", total_steps=40), tmp_path / "skip")
    monkeypatch.setattr(nonfinite, "MAX_ROLLBACKS", 2)
    with pytest.raises(FloatingPointError, match="2 batches left out, and the loss of step 4 "):
        run(config_with("rollback"), tmp_path / "rollback")


def test_an_unknown_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match="on_nonfinite is one of stop, skip, rollback; got 'jump'"):
        run(config_with("jump"), tmp_path)


RECORD = {"step": 3, "loss": "nan", "on_nonfinite": "rollback", "indices": []}


def test_a_record_of_another_policy_leaves_nothing_out(tmp_path):
    (tmp_path / "nonfinite_3.json").write_text(json.dumps(RECORD))
    for policy, left_out in (("rollback", {3}), ("stop", set()), ("skip", set())):
        assert nonfinite.Incidents(tmp_path, policy, write=False).left_out == left_out


@pytest.mark.parametrize("wrong", [{"step": "3"}, {"step": None}, {"on_nonfinite": 1}], ids=str)
def test_a_damaged_record_is_named(tmp_path, wrong):
    (tmp_path / "nonfinite_3.json").write_text(json.dumps(RECORD | wrong))
    with pytest.raises(ValueError, match=r"nonfinite_3\.json is damaged"):
        nonfinite.left_out(tmp_path)
    (tmp_path / "nonfinite_3.json").write_text("{}")
    with pytest.raises(ValueError, match=r"nonfinite_3\.json is damaged: step is of type int; got nothing"):
        nonfinite.left_out(tmp_path)
