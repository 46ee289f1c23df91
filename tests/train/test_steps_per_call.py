"""train.steps_per_call: several steps in one call of the program, and the same run to the bit."""

import json

import pytest

from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train import build
from imgcls_jax.train.loop import Loop
from imgcls_jax.train.run import run
from tests.train.test_loop import digits_config, planning, stop_after
from tests.train.test_nonfinite import config_with, poison  # noqa: F401

TOTAL_STEPS = 11


def config_of(steps_per_call, **train):
    settings = {"total_steps": TOTAL_STEPS, "log_every_steps": 4, "steps_per_call": steps_per_call}
    config = digits_config(**settings | train)
    config["model"]["hidden"] = [16]
    return config


@pytest.fixture
def calls(monkeypatch):
    """The calls of the runs of a test: (steps before, steps taken)."""
    seen, take = [], Loop._take

    def recorded(self, compiled, batch, steps):
        seen.append((self.step, steps))
        take(self, compiled, batch, steps)

    monkeypatch.setattr(Loop, "_take", recorded)
    return seen


def lines(workdir):
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    of_time = ("train/examples_per_second", "train/input_wait", "time")
    return [{name: own for name, own in line.items() if name not in of_time} for line in found]


FORMS = {
    "replicated": {},
    "sharded": {"train": {"parallel": "sharded"}},
    "per_replica": {"train": {"parallel": "per_replica"}},
    "on_device": {"data": {"on_device": True, "train_transforms": "pad_and_crop(1) | normalize(0.5, 0.5)"}},
    "cached": {"optimizer": {"groups": (("backbone/.*", None),)}},
    "in_parts": {"train": {"num_microbatches": 2}},
    "convolutions": {"model": {"name": "simpleconv3"}},
}
QUICK = ("convolutions", "on_device", "per_replica", "rollback")


def each(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def assert_alike(workdirs):
    """Asserts that runs ended in the same state."""
    digests = {json.loads((workdir / "result.json").read_text())["state_digest"] for workdir in workdirs}
    assert len(digests) == 1


@pytest.mark.parametrize("form", each(FORMS))
def test_the_run_is_the_same(tmp_path, calls, form):
    configs, workdirs = [config_of(1), config_of(3)], [tmp_path / "1", tmp_path / "3"]
    for config, workdir in zip(configs, workdirs, strict=True):
        for section, fields in FORMS[form].items():
            config[section] = fields if section == "model" else config[section] | fields
        run(config, workdir)
    logs = list(map(lines, workdirs))
    assert calls == [(step, 1) for step in range(11)] + [(0, 3), (3, 1), (4, 3), (7, 1), (8, 3)]
    assert [line["step"] for line in logs[1]] == [line["step"] for line in logs[0]]
    for one, several in zip(*logs, strict=True):
        assert one == pytest.approx(several, rel=1e-4)
    assert_alike(workdirs)


def test_nothing_due_is_passed_over(tmp_path, calls):
    config = config_of(4, eval_every_steps=5, checkpoint_every_steps=7, keep_checkpoints=9)
    run(config, tmp_path)
    assert calls == [(0, 4), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1), (9, 1), (10, 1)]
    saved = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert saved == [5, 7, 10, 11]
    assert [line["step"] for line in lines(tmp_path) if "test/accuracy" in line] == [5, 10, 11]


def test_a_stopped_run_ends_in_the_same_bits(tmp_path, monkeypatch, calls):
    whole = run(config_of(3), tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="after step 7 of"):
        stop_after(patch, 7)
        run(config_of(3), tmp_path / "stopped")
    resumed = run(config_of(1), tmp_path / "stopped")  # the field may change
    assert resumed["resumed_from_step"] == 7 and resumed["state_digest"] == whole["state_digest"]
    assert calls[-4:] == [(7, 1), (8, 1), (9, 1), (10, 1)]


@pytest.mark.slow
def test_epochs_that_are_planned_come_in_time(tmp_path, monkeypatch, calls):
    monkeypatch.setattr(build, "make_objective", planning(build.make_objective))
    ends = []
    for steps in (1, 8):
        config = digits_config(total_steps=25, log_every_steps=0, steps_per_call=steps)
        ends.append(run(config, tmp_path / str(steps)))
    assert calls[25:29] == [(0, 8), (8, 8), (16, 1), (17, 1)] and calls[-3:] == [(22, 1), (23, 1), (24, 1)]
    assert ends[0]["state_digest"] == ends[1]["state_digest"]


@pytest.mark.parametrize("policy", each(["skip", "rollback"]))
def test_a_step_that_is_not_finite_is_found_within_a_call(tmp_path, poison, calls, policy):  # noqa: F811
    poison([5])
    configs = [config_with(policy, steps_per_call=steps) for steps in (1, 3)]
    workdirs = [tmp_path / "1", tmp_path / "3"]
    for config, workdir in zip(configs, workdirs, strict=True):
        run(config, workdir)
    assert len({(workdir / "nonfinite_5.json").read_text() for workdir in workdirs}) == 1
    assert_alike(workdirs)
    assert (3, 3) in calls
    if policy == "rollback":  # its batch is left out by a call of its own
        assert calls[-5:] == [(3, 1), (4, 1), (5, 1), (6, 3), (9, 3)]


def test_no_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="train.steps_per_call"):
        run(config_of(0), tmp_path)
