"""A run that begins with another run's checkpoint: the same end, another rate, and what does not fit."""

import json
import os
import shutil

import jax
import numpy as np
import optax
import pytest

from imgcls_jax.config import compare
from imgcls_jax.config.resolve import resolve
from imgcls_jax.train import build, nonfinite, origin
from imgcls_jax.train import workdir as workdirs
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.initial import first_state
from imgcls_jax.train.optimizer import param_paths
from imgcls_jax.train.run import restore, run
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.state import state_digest
from tests.train.test_ending import steps_of
from tests.train.test_loop import digits_config, planning

FIRST = 4  # the step at which the new runs begin


def config_of(origin="", **sections):
    config = digits_config(checkpoint_every_steps=FIRST, keep_checkpoints=9, resume_from=str(origin))
    for name, fields in sections.items():
        config[name] = config.get(name, {}) | fields
    return config


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A finished run of eight steps, with checkpoints at 4 and 8."""
    workdir = tmp_path_factory.mktemp("old")
    return workdir, run(config_of(), workdir)


def state_in(workdir, config, step):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return restore(Setup(resolve(config)), checkpoints, before=step + 1)[0]


def test_an_unchanged_configuration_ends_in_the_same_state(old, tmp_path, capsys):
    config = config_of(f"{old[0]}@{FIRST}")
    result = run(config, tmp_path / "new")
    assert result["state_digest"] == old[1]["state_digest"] and result["metrics"] == old[1]["metrics"]
    assert result["steps"] == 8 and result["resumed_from_step"] == FIRST
    shown = capsys.readouterr().out
    assert f"begins with the checkpoint of step {FIRST} of {old[0]}\n" in shown and " there, " not in shown
    assert steps_of(tmp_path / "new") == [FIRST, 8]


def test_the_new_workdir_does_not_need_the_old_one(old, tmp_path):
    gone = tmp_path / "gone"
    shutil.copytree(old[0], gone)
    config = config_of(f"{gone}@{FIRST}")
    run(config, tmp_path / "new")
    shutil.rmtree(gone)
    shutil.rmtree(tmp_path / "new" / "checkpoints" / "8")
    (tmp_path / "new" / "result.json").unlink()
    again = run(config, tmp_path / "new")
    assert again["resumed_from_step"] == FIRST and again["state_digest"] == old[1]["state_digest"]
    with pytest.raises(ValueError, match=r"gone/config\.json is absent: .*gone is not the workdir of a run"):
        run(config, tmp_path / "other")
    assert not (tmp_path / "other" / "config.json").exists()


def test_other_numbers_go_on_from_the_whole_state(old, tmp_path, capsys):
    """A lower rate, a clipping, another seed, on devices that share the state: params, momentum, counts and
    step are those of the old run."""
    changed = {"learning_rate": 0.001, "clip_norm": 1.0, "weight_decay": 0.01}
    config = config_of(f"{old[0]}@{FIRST}", optimizer=changed, train={"seed": 3, "total_steps": 6})
    config["train"]["parallel"] = "sharded"
    setup = Setup(resolve(config))
    state, order = first_state(setup)
    before = state_in(old[0], config_of(), FIRST)
    assert order is None and int(state.step) == FIRST
    for one, other in zip(
        jax.tree.leaves((state.params, state.objective_state, state.opt_state)),
        jax.tree.leaves((before.params, before.objective_state, before.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert not state.params["backbone"]["fc2"]["kernel"].is_fully_replicated
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == setup.shardings(state)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(setup.target(FIRST).opt_state)
    drawn = setup.init(jax.random.key(3))
    assert (jax.random.key_data(state.rng) == jax.random.key_data(drawn.rng)).all()
    shown = capsys.readouterr().out
    assert "\n  optimizer.learning_rate: 0.05 there, 0.001 here\n" in shown
    assert "\n  train.seed: 0 there, 3 here\n" in shown and "resume_from" not in shown
    result = run(config, tmp_path)
    assert result["steps"] == 6 and result["state_digest"] != old[1]["state_digest"]


@pytest.mark.parametrize(
    ("which", "sections", "message"),
    [
        ("", {}, "checkpoint is of step 8 and this run ends at step 8, so nothing is left to train"),
        ("@5", {}, r"checkpoint '5' is not in .*there are 'latest', 'best' and \[4, 8\]"),
        (
            "@4",
            {"optimizer": {"momentum": None}},
            "keeps other arrays than this one: .*trace/.*there, nothing here",
        ),
        ("@4", {"optimizer": {"groups": [["backbone/.*", None]]}}, "keeps other arrays .*here.*frozen"),
        (
            "@4",
            {"model": {"hidden": [256, 128]}},
            r"another model.*fc1/bias: saved \(512,\), wanted \(256,\)",
        ),
        ("@4", {"objective": {"ema_decay": 0.9}}, r"ema/.*: saved nothing, wanted"),
        (
            "@4",
            {"train": {"total_steps": 0}, "phases": {"1": {"total_steps": 2}, "2": {"total_steps": 6}}},
            "began at step 0 .*, and begins at step 2 here",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(which, sections, message, old, tmp_path):
    config = config_of(f"{old[0]}{which}", **sections)
    if "phases" in sections:
        del config["train"]["total_steps"]
    with pytest.raises(ValueError, match=message) as refused:
        run(config, tmp_path / "new")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "new" / "config.json").exists() and not steps_of(tmp_path / "new")


def test_a_damaged_checkpoint_is_not_taken(old, tmp_path, caplog):
    copy = tmp_path / "copy"
    shutil.copytree(old[0], copy)
    for part in (copy / "checkpoints" / "8" / "state").rglob("*"):
        if part.is_file() and part.stat().st_size > 1000:
            content = bytearray(part.read_bytes())
            content[len(content) // 2] ^= 255
            part.write_bytes(content)
    setup = Setup(resolve(config_of(copy, train={"total_steps": 9})))
    assert int(first_state(setup)[0].step) == FIRST and "8 CANNOT BE READ" in caplog.text
    with pytest.raises(ValueError, match="the checkpoint of step 8 in .*copy cannot be read"):
        first_state(Setup(resolve(config_of(f"{copy}@8", train={"total_steps": 9}))))
    assert steps_of(copy) == [FIRST, 8]  # the old workdir stays as it is


def test_the_data_of_a_strange_workdir_stay_closed(old, tmp_path, capsys, caplog):
    """It names a pipe, which whoever opens it would wait for, and classes with an escape code."""
    strange = tmp_path / "strange"
    shutil.copytree(old[0], strange)
    os.mkfifo(tmp_path / "pipe")
    content = json.loads((strange / "config.json").read_text())
    content["resolved"]["data"] |= {"source": "list_file", "root": str(tmp_path), "list_file": "pipe"}
    (strange / "config.json").write_text(json.dumps(content))
    kept = json.loads((strange / "data.json").read_text())
    kept["class_names"] = ["\x1b[2J"]
    (strange / "data.json").write_text(json.dumps(kept))
    state, _ = first_state(Setup(resolve(config_of(f"{strange}@{FIRST}"))))
    assert int(state.step) == FIRST
    shown = capsys.readouterr().out + caplog.text
    assert "data.source: 'list_file' there, 'digits' here" in shown
    assert f"{strange} trained on other data: classes: " in shown and "\x1b" not in shown


def test_the_message_of_a_loss_that_is_not_finite_names_the_way_on(tmp_path):
    config = config_of(optimizer={"learning_rate": 1e30, "schedule": "constant", "warmup_epochs": 0.0})
    config["train"]["checkpoint_every_steps"] = 1
    with pytest.raises(FloatingPointError, match="not finite") as told:
        run(config, tmp_path / "old")
    steps = steps_of(tmp_path / "old")
    way = (
        f"go on from it in another --workdir, with --config.train.resume_from={tmp_path / 'old'} and a lower"
    )
    assert f"The last checkpoint is of step {steps[-1]}: {way}" in str(told.value)
    assert nonfinite._way_on(tmp_path, []).startswith("No step was saved: begin in another --workdir, with")
    assert nonfinite._way_on(tmp_path, [3, 6]).endswith(f"grown already, from {tmp_path}@3")


def test_a_phase_that_begins_there_has_a_fresh_optimizer(old, tmp_path):
    """The old run has no phases; the new one trains four steps more with a frozen backbone."""
    phases = {"1": {"total_steps": 8}, "2": {"total_steps": 4, "groups": [["backbone/.*", None]]}}
    config = config_of(old[0], phases=phases)
    del config["train"]["total_steps"]
    result = run(config, tmp_path)
    assert result["steps"] == 12 and result["resumed_from_step"] == 8
    before = state_in(old[0], config_of(), 8).params
    after = state_in(tmp_path, config, 12).params
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
    assert all(jax.tree.leaves(same["backbone"])) and not any(jax.tree.leaves(same["head"]))


def test_a_planned_epoch_goes_on_in_its_order(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "make_objective", planning(build.make_objective))
    whole = run(config_of(), tmp_path / "old")
    result = run(config_of(f"{tmp_path / 'old'}@{FIRST}"), tmp_path / "new")
    assert result["resumed_from_step"] == FIRST and result["state_digest"] == whole["state_digest"]
    kept = json.loads((tmp_path / "old" / "data.json").read_text())
    kept["splits"]["train"]["digest"] = "another"
    (tmp_path / "old" / "data.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="trained on other data: .*remembers every image by its number"):
        run(config_of(f"{tmp_path / 'old'}@{FIRST}"), tmp_path / "refused")


@pytest.mark.parametrize("field", ["cooldown_steps", "cooldown_epochs", "cooldown_examples"])
def test_a_younger_duration_is_a_difference_in_every_unit(field):
    differing = {"optimizer.cooldown_steps": (compare.ABSENT, 22), "train.new_steps": (compare.ABSENT, 0)}
    written = {"optimizer": {field: 2.0}}
    assert list(compare.without_new_fields(differing, written)) == ["optimizer.cooldown_steps"]
    inherited = {"phases.a.cooldown_steps": (compare.ABSENT, 22)}
    assert compare.without_new_fields(inherited, written) == inherited


def test_younger_fields_unset_make_no_other_run():
    """Workdirs that are older than a field resume, and their digests stay."""
    config = digits_config()
    del config["train"]["total_steps"]
    resolved = resolve(config | {"phases": {"1": {"total_steps": 2}}}).in_steps(22)
    older = json.loads(json.dumps(resolved))
    for name in compare.WITHOUT:
        section, _, field = name.partition(".")
        if field in older[section]:  # others are of other sources and objectives
            assert older[section].pop(field) == compare.WITHOUT[name]
        older["phases"]["1"].pop(field, None)
    assert not compare.differing_fields(older, resolved) and compare.digest(older) == compare.digest(resolved)
    for section, fields in (
        ("train", {"resume_from": "runs/old"}),
        ("phases", {"1": older["phases"]["1"] | {"sam_radius": 0.05}}),
    ):
        changed = older | {section: older[section] | fields}
        assert compare.digest(changed) != compare.digest(resolved)


def test_how_the_field_names_a_checkpoint(tmp_path):
    (tmp_path / "run@2").mkdir()
    (tmp_path / "run").mkdir()
    for text, path, which in (
        ("run", "run", "latest"),
        ("run@12", "run", "12"),
        ("run@best", "run", "best"),
        ("run@2", "run@2", "latest"),
        ("run@2@12", "run@2", "12"),
    ):
        assert workdirs.named(f"{tmp_path}/{text}") == (tmp_path / path, which)


def test_optimizer_states_are_matched_by_name():
    """By hand: the chain of a clipping puts the same arrays one place further."""
    params = {"a": np.ones(3, np.float32), "b": np.ones(2, np.float32)}
    plain, clipped = optax.adam(0.1), optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.2))
    state = jax.tree.map(lambda leaf: leaf + 5, plain.init(params))
    lines, moved = origin.carried_over(state, clipped.init(params))
    assert not lines and moved[1] == state and jax.tree.leaves(moved) == jax.tree.leaves(state)
    assert param_paths(params) == {"a": "a", "b": "b"}
    lines, moved = origin.carried_over(state, optax.sgd(0.1, momentum=0.9).init(params))
    assert moved is None and "trace/a: nothing there, float32[3] here" in lines
    assert "count: int32[] and int32[] there, int32[] here" not in lines and any("mu/a" in x for x in lines)


def test_digests_are_of_the_state_alone(old):
    state = state_in(old[0], config_of(), 8)
    assert state_digest(state) == old[1]["state_digest"]
