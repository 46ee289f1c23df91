"""Searches, with a stand-in for the runs: what is started, chosen, refused, taken up again and kept."""

import ast
import json
import math
import re
import sys
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from imgcls_jax.config.files import split_overrides
from imgcls_jax.figures.run_page import build
from imgcls_jax.search import plan, process
from imgcls_jax.search.trials import evaluations, finished_runs, value_of
from imgcls_jax.tools import report, sweep

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "digits_simpleconv3.py:test")
RATE = "optimizer.learning_rate"
OTHERS = {"steps": 3, "config_digest": "c", "state_digest": "s", "versions": {}}
DEVICE = {"platform": "cpu", "kind": "cpu", "cores": 2}


class StandIn:
    """Runs of which the accuracy is a parabola of the logarithm of the rate, best at 0.02.

    Args:
      limit: raise KeyboardInterrupt at this run.
      fails, diverges: numbers of runs.
    """

    def __init__(self, limit=None, fails=(), diverges=()):
        self.commands, self.limit, self.fails, self.diverges = [], limit, fails, diverges

    def __call__(self, words, log, unwanted):
        assert words[:3] == [sys.executable, "-m", "imgcls_jax.main"]
        others, overrides = split_overrides(words[3:])
        flags = dict(zip(others[::2], others[1::2], strict=True))
        if len(self.commands) == self.limit:
            raise KeyboardInterrupt
        number = len(self.commands)
        self.commands.append((Path(flags["--workdir"]), overrides))
        workdir = self.commands[-1][0]
        workdir.mkdir(parents=True, exist_ok=True)
        if number in self.fails:
            log.write_text("so far so good\nerror: no such folder\n")
            return 1
        if number in self.diverges:
            (workdir / "nonfinite_3.json").write_text("{}")
            return 1
        rate, seed, fold = (float(overrides.get(name, 0)) for name in (RATE, "train.seed", "data.fold"))
        accuracy = 0.9 - 0.1 * math.log10(rate / 0.02) ** 2 + 0.01 * (fold - 1) + 0.001 * seed
        evaluation = "fold" if "data.folds" in overrides else "test"
        values = [accuracy - 0.2, accuracy - 0.1, accuracy]
        lines = [{"step": step, f"{evaluation}/accuracy": value} for step, value in enumerate(values, 1)]
        (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        metrics = {evaluation: {"accuracy": accuracy, "nll": 1.0}}
        result = OTHERS | {"config": {}, "metrics": metrics, "device": DEVICE, "wall_seconds": 2.0}
        (workdir / "result.json").write_text(json.dumps(result))
        return 0


def start(folder, *words, run=None, space=f"{RATE}=log(1e-3, 1.0)"):
    flags = ["--config", CONFIG, "--workdir", str(folder), "--space", space, *words]
    run = run or StandIn()
    with mock.patch.object(process, "run", run):
        return sweep.main(flags), run


def kept(folder):
    return json.loads((folder / "sweep.json").read_text())


FOLDS = ("--metric", "test/accuracy", "--folds", "3", "--trials", "4")


def test_folds_choose_and_the_test_split_is_measured_at_the_end(tmp_path, capsys):
    status, run = start(
        tmp_path, *FOLDS, "--fold_seed", "7", "--seeds", "1,2", "--config.train.total_epochs=1"
    )
    assert status == 0 and len(run.commands) == 4 * 3 + 2
    for workdir, overrides in run.commands[:12]:
        assert overrides["evals.test"] == "none" and overrides["data.folds"] == "3"
        assert ast.literal_eval(overrides["evals.fold"]) == {"evaluator": "classification", "split": "fold"}
        assert workdir.name == f"fold_{overrides['data.fold']}" and overrides["data.fold_seed"] == "7"
        assert overrides["train.total_epochs"] == "1" and "train.seed" not in overrides
    content = kept(tmp_path)
    best = max(content["trials"], key=lambda trial: trial["value"])
    assert content["best"] == content["trials"].index(best) and content["plan"]["chosen_on"] == "fold"
    assert best["values"][2] - best["values"][0] == pytest.approx(0.02)
    assert best["value"] == pytest.approx(best["values"][1])
    for workdir, overrides in run.commands[12:]:
        assert not [name for name in overrides if name.startswith(("data.fold", "evals."))]
        assert float(overrides[RATE]) == best["fields"][RATE] and overrides["train.eval_every_steps"] == "0"
        assert workdir == tmp_path / f"final_{content['best']:04d}" / f"seed_{overrides['train.seed']}"
    figures = content["final"]["metrics"]["test/accuracy"]
    assert figures[1] - figures[0] == pytest.approx(0.001) and len(figures) == 2
    shown = capsys.readouterr().out
    assert f"best: trial {content['best']}, fold/accuracy {best['value']:.6g}, chosen on 3 folds" in shown
    assert f"--config.{RATE}={best['fields'][RATE]!r}" in shown
    assert "test/accuracy" in shown.splitlines()[-1] and "± 0.0007071 (seeds 1, 2)" in shown.splitlines()[-1]
    table = [line.split() for line in shown.splitlines() if line.endswith("finished")]
    assert [float(row[2]) for row in table] == sorted((float(row[2]) for row in table), reverse=True)


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_search_that_broke_off_goes_on_as_if_it_had_not(tmp_path, search, capsys):
    if search == "tpe":
        pytest.importorskip("optuna")
    words = ("--metric", "test/accuracy", "--choose_on", "test", "--search", search, "--trial_seeds", "0,5")
    _, whole = start(tmp_path / "whole", *words, "--trials", "13")
    folder = tmp_path / "broken"
    assert start(folder, *words, "--trials", "9", run=StandIn(limit=7))[0] == 0
    assert "stopped; the same command goes on" in capsys.readouterr().out
    _, second = start(folder, *words, "--trials", "12")
    assert [path.relative_to(folder).as_posix() for path, _ in second.commands[:2]] == [
        "trial_0003/seed_5",  # its first seed had finished
        "trial_0004/seed_0",
    ]
    _, third = start(folder, *words, "--trials", "13")  # more trials of the same search
    assert (len(whole.commands), len(second.commands), len(third.commands)) == (26, 17, 2)
    assert kept(folder)["trials"] == kept(tmp_path / "whole")["trials"]
    assert "leans to the good side" in capsys.readouterr().out
    assert start(folder, *words, "--trials", "13")[1].commands == []
    assert start(folder, *words, "--trials", "13", "--seed", "3")[0] == 2
    assert "holds another search: its seed is 0, and 3 now" in capsys.readouterr().err


def test_a_grid_and_the_smallest_value(tmp_path):
    words = ("--metric", "test/nll", "--best_mode", "min", "--choose_on", "test", "--search", "grid")
    status, run = start(tmp_path, *words, space=f"{RATE}=log(1e-3, 1.0, 4)")
    assert status == 0 and [overrides[RATE] for _, overrides in run.commands] == [
        "0.001",
        "0.01",
        "0.1",
        "1.0",
    ]
    assert [path.name for path, _ in run.commands] == [f"trial_000{number}" for number in range(4)]
    assert kept(tmp_path)["best"] == 0  # the first of equals


def test_runs_that_are_worse_than_the_median_are_given_up(tmp_path):
    rates = [0.02, 0.03, 0.015, 0.025, 0.018, 1.0, 0.02001]
    words = ("--metric", "test/accuracy", "--choose_on", "test", "--search", "grid", "--prune")
    start(tmp_path, *words, space=f"{RATE}={rates}")
    trials = kept(tmp_path)["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * 5 + ["pruned", "finished"]
    assert trials[5]["value"] is None and len(trials[5]["evaluations"][0]) == 1


def test_what_diverges_or_fails_is_no_end(tmp_path, capsys):
    words = ("--metric", "test/accuracy", "--choose_on", "test", "--trials", "4")
    start(tmp_path, *words, run=StandIn(diverges=[1], fails=[2]))
    first = kept(tmp_path)
    assert [own["state"] for own in first["trials"]] == ["finished", "diverged", "failed", "finished"]
    assert "no such folder (all of it:" in first["trials"][2]["note"]
    _, again = start(tmp_path, *words)
    assert [path.name for path, _ in again.commands] == ["trial_0002"]
    assert kept(tmp_path)["trials"][2]["state"] == "finished"
    assert kept(tmp_path)["trials"][2]["fields"] == first["trials"][2]["fields"]
    assert start(tmp_path / "new", *words, run=StandIn(fails=[0]))[0] == 2
    assert "trial 0 failed: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, line",
    [
        (FOLDS[:2] + FOLDS[4:], "would choose on the split 'test', .* or say --choose_on test"),
        (FOLDS[:2] + FOLDS[4:] + ("--choose_on", "val"), "is measured on the split 'test'"),
        (FOLDS + ("--choose_on", "test"), "the folds choose; leave one of them out"),
        (FOLDS + ("--config.data.folds=3",), "leave that out of the configuration"),
        (FOLDS[:2] + FOLDS[4:] + ("--config.evals.test.split=train",), "'train', which is trained on"),
        (FOLDS + ("--metric", "tset/accuracy"), "which has test/...; got 'tset/accuracy'"),
        (FOLDS + ("--space", "optimizer.learning_rat=[1.0]"), "did you mean 'learning_rate'"),
        (FOLDS + ("--space", "optimizer.momentum=['a']"), "momentum is a number"),
        (FOLDS + ("--space", "objective.name=['supervised', 'suprvised']"), "did you mean 'supervised'"),
        (FOLDS + (f"--config.{RATE}=0.1",), f"{RATE} is searched: leave out"),
        (FOLDS + ("--prune", "--config.train.eval_every_epochs=0"), "eval_every_epochs"),
        (FOLDS + ("--prune", "--space", "train.total_epochs=[1, 2]"), "would shift them"),
        (FOLDS[:4], "--trials is missing"),
        (FOLDS[2:], "--metric is missing"),
        (FOLDS + ("--search", "grid"), "how many points of optimizer.learning_rate"),
        (FOLDS + ("--folds", "1"), "--folds is at least 2"),
        (FOLDS + ("--range_test",), "--metric is of a search"),
    ],
)
def test_mistakes_are_found_before_the_first_run(tmp_path, words, line, capsys):
    status, run = start(tmp_path, *words)
    assert status == 2 and run.commands == []
    assert re.search(line, capsys.readouterr().err)


def test_a_metric_that_is_not_measured(tmp_path, capsys):
    assert start(tmp_path, "--metric", "test/acuracy", "--choose_on", "test", "--trials", "3")[0] == 2
    assert "measured no test/acuracy; it has test/accuracy, test/nll" in capsys.readouterr().err
    assert math.isnan(value_of(tmp_path, {"metrics": {"test": {"nll": None}}}, "test/nll"))


def test_tpe_without_optuna_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert start(tmp_path, *FOLDS, "--search", "tpe")[0] == 2
    assert "--search tpe needs optuna: pip install 'imgcls-jax[search]'" in capsys.readouterr().err


def test_a_damaged_file_is_one_line(tmp_path, capsys):
    start(tmp_path, *FOLDS)
    content = kept(tmp_path)
    content["trials"][0]["values"] = "x"
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    assert start(tmp_path, *FOLDS)[0] == 2
    assert "trials[0] is damaged: values is of type" in capsys.readouterr().err


# ---- report


def test_a_report_shows_the_trials_and_the_best(tmp_path, monkeypatch):
    start(tmp_path, *FOLDS, "--seeds", "1,2")
    shown, page = [], []

    def read_run(workdir, **options):
        shown.append(workdir)
        return report.Run("run", {}, [], (), None, "", None)

    monkeypatch.setattr(report, "read_run", read_run)
    monkeypatch.setattr(report, "build", lambda runs, searches, compared: page.append(searches) or "page")
    assert report.main([str(tmp_path)]) == 0 and (tmp_path / "report.html").read_text() == "page"
    best = kept(tmp_path)["best"]
    assert shown == [tmp_path / f"final_{best:04d}" / f"seed_{seed}" for seed in (1, 2)]
    ((searched,),) = page
    assert searched.header[:3] == ("trial", RATE, "value") and len(searched.rows) == 4
    assert searched.rows[0][0] == str(best) and "chosen on 3 folds" in searched.notes[0]
    assert "test/accuracy" in searched.notes[1]
    html = build([], [searched._replace(name="<b>")])
    assert "&lt;b&gt;" in html and "finished" in html and "<b>" not in html
    runs = finished_runs(tmp_path, {}, best)
    assert [own.name for own in runs] == ["fold_0", "fold_1", "fold_2"]


# ---- range test


def rising(words, log, unwanted):
    """A run whose loss falls, and explodes from step 30 on."""
    overrides = split_overrides(words[3:])[1]
    assert overrides["evals.test"] == "none" and overrides["train.total_steps"] == "50"
    assert overrides["optimizer.schedule"] == "exponential" and overrides["optimizer.warmup_steps"] == "0"
    workdir = Path(words[words.index("--workdir") + 1])
    workdir.mkdir()
    low, high = float(overrides[RATE]), float(overrides["optimizer.final_learning_rate"])
    with open(workdir / "metrics.jsonl", "w") as file:
        for step in range(1, 51):
            loss = 2 - step / 20 if step < 30 else 100.0**step if step < 40 else None
            rate = low * (high / low) ** ((step - 1) / 50)
            file.write(json.dumps({"step": step, "train/loss": loss, "train/learning_rate": rate}) + "\n")
    assert unwanted()
    return 1


def test_the_range_test_draws_what_it_found(tmp_path, capsys, monkeypatch):
    words = ("--range_test", "50", f"--space={RATE}=log(1e-4, 1.0)")
    flags = ["--config", CONFIG, "--workdir", str(tmp_path), *words]
    monkeypatch.setattr(process, "run", rising)
    assert sweep.main(flags) == 0
    content = json.loads((tmp_path / "range_test.json").read_text())
    assert len(content["rate"]) == 29 and content["rate"][0] == 1e-4
    assert content["before_least"] == pytest.approx(1e-4 * 1e4 ** (28 / 50) / 10)
    with Image.open(tmp_path / "range_test.png") as picture:
        assert picture.width > 700 and len(picture.convert("RGB").getcolors(10**6)) > 50
    assert "the smoothed loss falls fastest at" in capsys.readouterr().out
    monkeypatch.setattr(process, "run", None)
    assert sweep.main(flags) == 0  # it is drawn again from what there is

    assert sweep.main([*flags[:-1], f"--space={RATE}=log(1e-5, 1.0)"]) == 2
    assert "holds another range test" in capsys.readouterr().err

    def fails(words, log, unwanted):
        log.write_text("error: no such folder")
        return 1

    monkeypatch.setattr(process, "run", fails)
    assert sweep.main([*flags[:3], str(tmp_path / "new"), *words]) == 2
    assert "the run failed: error: no such folder" in capsys.readouterr().err


# ---- real runs


@pytest.mark.slow
def test_real_runs_resume_to_the_bit(tmp_path):
    words = ("--metric", "test/accuracy", "--folds", "2", "--trials", "1")
    run = process.run

    def breaks_off(words, log, unwanted):
        run(words, log, lambda: "step 10/" in log.read_text())
        raise KeyboardInterrupt

    start(tmp_path / "whole", *words, run=run)
    start(tmp_path / "broken", *words, run=breaks_off)
    start(tmp_path / "broken", *words, run=run)
    for fold in (0, 1):
        whole, broken = (
            json.loads((tmp_path / name / "trial_0000" / f"fold_{fold}" / "result.json").read_text())
            for name in ("whole", "broken")
        )
        assert whole["state_digest"] == broken["state_digest"] and whole["metrics"] == broken["metrics"]
        assert (broken["resumed_from_step"] > 0) == (fold == 0)
        assert whole["metrics"]["fold"]["num_examples"] == 719


def test_no_trial_looks_at_a_test_split_by_another_field():
    section = {"evaluator": "zero_shot", "split": "test", "unseen_split": "unknown:test"}
    written = {"evals": {"z": section}, "train": {}, "data": {}}
    with pytest.raises(
        ValueError, match="unseen_split = 'unknown:test' would be looked at.*'unknown:{split}'"
    ):
        plan.measured(written, "z/accuracy", folds=5, choose_on="")
    section["unseen_split"] = "unknown:{split}"
    assert plan.measured(written, "z/accuracy", folds=5, choose_on="")[1] == "fold"
    section |= {"split": "val", "unseen_split": "unknown:test"}
    with pytest.raises(ValueError, match="would be looked at by every trial"):
        plan.measured(written, "z/accuracy", folds=0, choose_on="")


def test_an_evaluation_without_a_number_keeps_its_place(tmp_path):
    lines = [
        {"step": 1, "test/accuracy": 0.1},
        {"step": 2, "test/accuracy": None, "test/loss": 1.0},
        {"step": 2, "train/loss": 1.0},
        {"step": 3, "test/loss": 1.0},  # what cannot be said is left out of a line
        {"step": 3, "train/loss": 1.0},
        {"step": 4, "test/accuracy": 0.4},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert evaluations(tmp_path, "test/accuracy") == [0.1, None, None, 0.4]


@pytest.mark.parametrize("state", ["finished", "pruned"])
@pytest.mark.parametrize("search", ["tpe", "random"])
def test_a_kept_trial_without_evaluations_is_told(tmp_path, capsys, state, search):
    if search == "tpe":
        pytest.importorskip("optuna")
    words = ("--metric", "test/accuracy", "--choose_on", "test", "--search", search, "--trials")
    assert start(tmp_path, *words, "2")[0] == 0
    content = kept(tmp_path)
    content["trials"][0] |= {"evaluations": [], "state": state}
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert start(tmp_path, *words, "3")[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "sweep.json is damaged: trials[0] has the evaluations of 0 runs; expected 1" in line


def test_a_kept_trial_that_lacks_a_run_is_told(tmp_path, capsys):
    words = ("--metric", "test/accuracy", "--choose_on", "test", "--trial_seeds", "0,5", "--trials")
    assert start(tmp_path, *words, "1")[0] == 0
    content = kept(tmp_path)
    content["trials"][0] |= {name: content["trials"][0][name][:1] for name in ("values", "evaluations")}
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    assert start(tmp_path, *words, "2")[0] == 2
    assert "trials[0] is finished with 1 of 2 runs" in capsys.readouterr().err
