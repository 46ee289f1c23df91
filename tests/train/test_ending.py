"""What a run keeps whatever ends it: the state of its last step, and every evaluation once."""

import dataclasses
import functools
import json
import shutil
from collections import Counter

import pytest

from imgcls_jax import main
from imgcls_jax.contracts.objective import EpochPlan
from imgcls_jax.evaluators import classification, knn
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train import build, loop, progress
from imgcls_jax.train.checkpoint import Checkpoints, NotSaved
from imgcls_jax.train.loop import Loop
from imgcls_jax.train.run import run
from imgcls_jax.train.writer import MetricWriter
from tests.train.test_loop import digits_config, folder_config, folder_of_images, planning, stop_after

EVALS = {
    "test": {"evaluator": "classification", "split": "test"},
    "near": {"evaluator": "knn", "split": "test", "k": 5},
}
WAY_ON = "is saved: the same command goes on from there"


def config_of(**train):
    config = digits_config(**{"eval_every_steps": 4} | train) | {"evals": EVALS}
    config["objective"]["ema_decay"] = 0.9  # state beside the params
    return config


def steps_of(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def evaluated(workdir, name="test/accuracy"):
    """How often a metric of each step was written."""
    return Counter(record["step"] for record in records(workdir) if name in record)


def best_of(workdir, metric):
    with Checkpoints(workdir / "checkpoints", best_metric=metric, read_only=True) as checkpoints:
        return {step: checkpoints._manager.metrics(step) for step in checkpoints.steps()}


def failing(monkeypatch, module, error, *, after=0):
    """Makes an evaluator raise from its call number `after` on."""
    make, calls = module.make, []

    def made(*arguments, **options):
        run = make(*arguments, **options)

        def evaluate(params, objective_state):
            calls.append(0)
            if len(calls) > after:
                raise error
            return run(params, objective_state)

        return evaluate

    made.__wrapped__ = make
    monkeypatch.setattr(module, "make", made)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The undisturbed run."""
    workdir = tmp_path_factory.mktemp("whole")
    return run(config_of(), workdir), workdir


def same_end(result, workdir, whole):
    assert result["state_digest"] == whole[0]["state_digest"] and result["metrics"] == whole[0]["metrics"]
    for name in ("test/accuracy", "near/accuracy_k5"):
        assert evaluated(workdir, name) == {4: 1, 8: 1}
    ours, theirs = (
        [record for record in records(folder) if not any(key.startswith("train/") for key in record)]
        for folder in (workdir, whole[1])
    )
    assert ours == theirs


@pytest.mark.parametrize(
    "module, kept, error",
    [
        (classification, 0, KeyError("logits")),
        (knn, 1, ValueError("no such thing")),
        (classification, 0, MemoryError()),
    ],
    ids=["first-KeyError", "second-ValueError", "first-MemoryError"],
)
def test_an_evaluator_that_raises_loses_nothing(module, kept, error, tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        failing(patch, module, error)
        with pytest.raises(loop.Failed) as failed:
            run(config_of(), tmp_path)
    said = str(failed.value)
    assert f"the evaluation {'near' if kept else 'test'!r} failed: " in said and type(error).__name__ in said
    assert f"The state of step 4 {WAY_ON}" in said and "\n" not in said
    assert steps_of(tmp_path) == [4] and sum(evaluated(tmp_path).values()) == kept
    same_end(run(config_of(), tmp_path), tmp_path, whole)


def test_the_last_evaluation_that_raises_loses_nothing(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        failing(patch, knn, KeyError("embedding"), after=1)
        with pytest.raises(loop.Failed, match="The state of step 8 is saved"):
            run(config_of(), tmp_path)
    same_end(run(config_of(), tmp_path), tmp_path, whole)


def test_a_mistyped_best_metric_is_found_and_mended(tmp_path, monkeypatch, whole):
    with pytest.raises(ValueError, match=r"best_metric = 'tets/accuracy' is none of the .*: test/..., near/"):
        run(config_of(best_metric="tets/accuracy"), tmp_path / "early")
    for metric in ("test/acc", "near/accuracy_k7"):
        with pytest.raises(ValueError, match=f"{metric}' is none of .*test/top5_accuracy|near/accuracy_k5"):
            run(config_of(best_metric=metric), tmp_path / "early")
    assert not (tmp_path / "early").exists()
    monkeypatch.delattr(classification, "MEASURES")  # of an evaluator that declares none
    with pytest.raises(loop.Failed, match="best_metric = 'test/acc' is none of .*test/accuracy") as failed:
        run(config_of(best_metric="test/acc"), tmp_path)
    assert f"The state of step 4 {WAY_ON}" in str(failed.value)
    assert evaluated(tmp_path) == {4: 1}
    same_end(run(config_of(best_metric="test/accuracy"), tmp_path), tmp_path, whole)
    kept = best_of(tmp_path, "test/accuracy")
    assert kept.keys() == {4, 8} and all("test/accuracy" in metrics for metrics in kept.values())


def test_a_damaged_image_in_the_evaluated_split(tmp_path):
    folder_of_images(tmp_path / "images")
    picture = tmp_path / "images" / "val" / "light" / "3.png"
    content = picture.read_bytes()
    picture.write_bytes(content[:60])
    config = folder_config(tmp_path / "images")
    with pytest.raises(loop.Failed, match=r"the evaluation 'val' failed: .*light/3\.png") as failed:
        run(config, tmp_path / "run")
    assert f"The state of step 6 {WAY_ON}" in str(failed.value)
    picture.write_bytes(content)
    assert run(config, tmp_path / "run")["resumed_from_step"] == 6


def test_a_data_folder_that_goes_away(tmp_path, monkeypatch):
    folder_of_images(tmp_path / "images")
    after_step = Loop._after_step

    def gone(self):
        if self.step == 2:
            shutil.move(tmp_path / "images", tmp_path / "elsewhere")
        after_step(self)

    config = folder_config(tmp_path / "images", prefetch_batches=1)
    config["train"]["total_steps"] = 60
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_after_step", gone)
        with pytest.raises(loop.Failed, match=r"images/train/.*\.png") as failed:
            run(config, tmp_path / "run")
    (saved,) = steps_of(tmp_path / "run")
    assert saved >= 2 and f"The state of step {saved} {WAY_ON}" in str(failed.value)
    shutil.move(tmp_path / "elsewhere", tmp_path / "images")
    assert run(config, tmp_path / "run")["resumed_from_step"] == saved


@pytest.mark.parametrize("name", ["train/loss", "test/accuracy"])
def test_a_writer_that_cannot_write(name, tmp_path, monkeypatch, capsys, whole):
    write = MetricWriter.write_scalars

    def full(self, step, scalars):
        if step == 4 and name in scalars:
            raise OSError(28, "No space left on device")
        write(self, step, scalars)

    config = config_of(log_every_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(MetricWriter, "write_scalars", full)
        with pytest.raises(loop.Failed, match="No space left on device") as failed:
            run(config, tmp_path)
    assert f"The state of step 4 {WAY_ON}" in str(failed.value)
    shown = capsys.readouterr().out  # what was measured is told before it is written
    assert ("step 4/8  epoch" if name == "train/loss" else "evaluation at step 4: ") in shown
    same_end(run(config, tmp_path), tmp_path, whole)


@pytest.mark.parametrize("what", ["workdir", "metrics.jsonl"])
@pytest.mark.parametrize("step", [2, 7])
def test_a_workdir_that_is_taken_away_is_told(what, step, tmp_path, monkeypatch, whole):
    """A line of the last step comes after it, none before the last checkpoint."""
    workdir, after_step = tmp_path / "run", Loop._after_step

    def taken_away(self):
        if self.step == step:
            self.checkpoints.wait()
            shutil.rmtree(workdir) if what == "workdir" else (workdir / what).unlink()
        after_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_after_step", taken_away)
        with pytest.raises((loop.Failed, NotSaved)) as failed:
            run(config_of(log_every_steps=0), workdir)
    assert "run/metrics.jsonl cannot be written: No such file" in str(failed.value)
    assert "\n" not in str(failed.value) and not (workdir / "result.json").exists()
    if what == "metrics.jsonl":
        result = run(config_of(log_every_steps=0), workdir)
        assert result["state_digest"] == whole[0]["state_digest"]


def test_an_evaluation_is_shown_before_it_is_written(tmp_path, capsys, whole):
    workdir = tmp_path / "run"
    shutil.copytree(whole[1], workdir)
    (workdir / "eval_8_test.json").mkdir()  # where nothing can be written
    command = ["--mode=eval", f"--workdir={workdir}", "--split=test"]
    with pytest.raises(SystemExit) as ended:
        main.main(command)
    shown = json.loads(capsys.readouterr().out)
    assert shown["step"] == 8 and shown["test"] == whole[0]["metrics"]["test"]
    told = str(ended.value.code)
    assert told.startswith(f"error: {workdir}/eval_8_test.json cannot be written: ") and "\n" not in told


def test_what_nobody_reads_any_more(tmp_path, monkeypatch, caplog):
    def closed(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(progress, "named", closed)
    with pytest.raises(BrokenPipeError):
        run(config_of(), tmp_path)
    assert f"The state of step 4 {WAY_ON}" in caplog.text and steps_of(tmp_path) == [4]


def test_before_the_first_step_an_error_is_itself(tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError("device")

    monkeypatch.setattr(loop, "compile_step", broken)
    with pytest.raises(KeyError, match="device"):
        run(config_of(), tmp_path)


@pytest.mark.parametrize("where", ["before", "within", "between"])
@pytest.mark.parametrize("step", [4, 8])
def test_an_evaluation_that_sigterm_took_is_made_up_for(where, step, tmp_path, monkeypatch, whole):
    config = config_of(best_metric="test/accuracy")
    with monkeypatch.context() as patch:
        if where == "before":
            stop_after(patch, step)
        else:
            failing(patch, classification if where == "within" else knn, Interrupted(), after=step // 4 - 1)
        with pytest.raises(Interrupted, match=f"after step {step} of 8, which is saved"):
            run(config, tmp_path)
    assert steps_of(tmp_path)[-1] == step
    assert "test/accuracy" not in (best_of(tmp_path, "test/accuracy")[step] or {})
    same_end(run(config, tmp_path), tmp_path, whole)
    kept = best_of(tmp_path, "test/accuracy")
    assert [kept[step]["test/accuracy"] for step in (4, 8)] == [
        record["test/accuracy"] for record in records(tmp_path) if "test/accuracy" in record
    ]


def test_an_evaluation_that_was_done_is_not_done_again(tmp_path, monkeypatch, whole):
    """The run ends between an evaluation and its checkpoint's metrics, and right after both."""
    config, record = config_of(best_metric="test/accuracy"), Checkpoints.record
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "record", lambda self, step, metrics: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            run(config, tmp_path)
    assert best_of(tmp_path, "test/accuracy") == {4: None} and evaluated(tmp_path) == {4: 1}
    with monkeypatch.context() as patch:
        failing(patch, knn, Interrupted(), after=0)  # at step 8: that of step 4 is not run again
        with pytest.raises(Interrupted, match="step 8 of 8"):
            run(config, tmp_path)
    assert Checkpoints.record is record
    same_end(run(config, tmp_path), tmp_path, whole)
    assert all(best_of(tmp_path, "test/accuracy").values())


def test_a_kill_after_a_plan_leaves_its_line_once(tmp_path, monkeypatch):
    make = planning(build.make_objective)

    def telling(*arguments):
        made = make(*arguments)

        def plan_epoch(*inputs):
            return EpochPlan(*made.plan_epoch(*inputs)[:4], metrics={"changed": 0.5})

        return dataclasses.replace(made, plan_epoch=plan_epoch)

    monkeypatch.setattr(build, "make_objective", telling)
    config = digits_config(total_steps=50)
    result = run(config, tmp_path / "whole")
    assert evaluated(tmp_path / "whole", "plan/changed") == {0: 1, 22: 1, 44: 1}
    after_step = Loop._after_step

    def killed(self):
        if self.step == 30:
            raise KeyboardInterrupt
        after_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "killed")
    assert steps_of(tmp_path / "killed") == [22]  # saved before the plan that changed it
    resumed = run(config, tmp_path / "killed")
    assert resumed["resumed_from_step"] == 22 and resumed["state_digest"] == result["state_digest"]
    assert evaluated(tmp_path / "killed", "plan/changed") == {0: 1, 22: 1, 44: 1}


def test_an_error_in_the_first_batch_after_a_plan_does_not_plan_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "make_objective", planning(build.make_objective))
    config = digits_config(total_steps=50)
    result = run(config, tmp_path / "whole")
    take = Loop._take

    def broken(self, *arguments):
        if self.step == 22:
            raise RuntimeError("no such batch")
        take(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_take", broken)
        with pytest.raises(loop.Failed, match="RuntimeError: no such batch. The state of step 22 is saved"):
            run(config, tmp_path / "failed")
    assert run(config, tmp_path / "failed")["state_digest"] == result["state_digest"]


@pytest.mark.parametrize("name", ["train", "plan"])
def test_an_evaluation_does_not_take_a_name_of_training(name, tmp_path):
    config = config_of() | {"evals": {name: EVALS["test"]}}
    with pytest.raises(ValueError, match=f"config.evals.{name}: metrics called {name}/"):
        run(config, tmp_path / "run")


def test_the_clock_saves_a_run_that_nothing_else_would(tmp_path, monkeypatch, whole):
    """Each look at the clock is a minute later than the one before."""
    minutes = iter(range(10**6))
    clocked = functools.partial(loop.Due, now=lambda: 60.0 * next(minutes))
    monkeypatch.setattr(loop, "Due", clocked)
    saved, save = [], Checkpoints.save

    def noting(self, state, **options):
        saved.append(int(state.step))
        save(self, state, **options)

    monkeypatch.setattr(Checkpoints, "save", noting)
    result = run(config_of(eval_every_steps=0, checkpoint_every_minutes=2.0), tmp_path)
    assert saved[0] < 4 and result["state_digest"] == whole[0]["state_digest"]
