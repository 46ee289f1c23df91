"""Recorded runs once more, with a stand-in for the runs: what is compared, told, refused, and never run."""

import json
import math
import signal
import sys
from pathlib import Path
from unittest import mock

import pytest

from imgcls_jax.config import compare, files
from imgcls_jax.config.resolve import resolve
from imgcls_jax.rerun import reproduce
from imgcls_jax.search import process
from imgcls_jax.tools import results

ROOT = Path(__file__).parents[2]
START = "python -m imgcls_jax.main --config"
COMMAND = f"{START} configs/digits_simpleconv3.py:test --config.train.seed=SEED"
VERSIONS = {"jax": "1.0"}
DEVICE = {"platform": "cpu", "kind": "cpu", "count": 1, "cores": 2, "processes": 1}
VALUES = {1: 0.9, 2: 0.92, 3: 0.94}


def resolved_of(words):
    others, overrides = files.split_overrides(words)
    named = files.find(others[others.index("--config") + 1], overrides)
    return resolve(files.load(named)[0]).in_steps(22)


def content_of(**fields):
    runs = [
        {
            "seeds": {"train.seed": seed, "data.label_seed": 0},
            "value": value,
            "metrics": {"test": {"num_examples": 359, "accuracy": value}},
            "wall_seconds": 2.0,
            "config_digest": compare.digest(
                resolved_of([*COMMAND.split()[3:-1], f"--config.train.seed={seed}"])
            ),
            "state_digest": f"s{seed}",
        }
        for seed, value in VALUES.items()
    ]
    words = {"command": COMMAND, "metric": "test/accuracy"}
    return words | {"versions": VERSIONS, "device": DEVICE, "runs": runs} | fields


class StandIn:
    """Runs that end with a value, a digest of the state and versions, unless they are unwanted."""

    def __init__(self, value=None, state=None, versions=VERSIONS, status=0):
        self.commands, self.value, self.state, self.versions, self.status = [], value, state, versions, status
        self.stopped = 0

    def __call__(self, words, log, unwanted):
        assert words[:3] == [sys.executable, "-m", "imgcls_jax.main"]
        self.commands.append(words[3:])
        assert not unwanted()
        if self.status:
            log.write_text("so far so good\nerror: no such folder\n")
            return self.status
        workdir, resolved = Path(words[words.index("--workdir") + 1]), resolved_of(words[3:])
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text(json.dumps({"resolved": resolved}))
        if unwanted():
            self.stopped += 1
            return 0
        seed = resolved["train"]["seed"]
        metrics = {"test": {"accuracy": VALUES[seed] if self.value is None else self.value}}
        result = {
            "config": resolved,
            "metrics": metrics,
            "steps": 3,
            "wall_seconds": 2.0,
            "config_digest": "",
        }
        result |= {"state_digest": self.state or f"s{seed}", "versions": self.versions, "device": DEVICE}
        (workdir / "result.json").write_text(json.dumps(result))
        return 0


def start(folder, content, *words, run=None):
    """Returns (exit status, the stand-in, the certificate or None)."""
    file, run = folder / "digits.json", run or StandIn()
    file.write_text(json.dumps(content))
    with mock.patch.object(process, "run", run):
        status = results.main(["reproduce", str(file), "--workdir", str(folder / "runs"), *words])
    kept = folder / "digits.certificate.json"
    return status, run, json.loads(kept.read_text()) if kept.exists() else None


@pytest.mark.parametrize(
    "run, status, verdict, said",
    [
        (StandIn(), 0, "agrees to the bit", "final state: the same to the bit"),
        (StandIn(state="x"), 0, "agrees within the spread", "differs, with the same versions and device"),
        (
            StandIn(0.84, "x", {"jax": "2.0"}),
            0,
            "agrees within the spread",
            "as it may: jax: 1.0 then, 2.0 here",
        ),
        (StandIn(0.82, "x"), 1, "differs", "test/accuracy: 0.82, recorded 0.9"),
        (StandIn(0.82), 1, "differs", "final state: the same to the bit"),  # the evaluation has changed
        (StandIn(math.nan, "x"), 1, "differs", "test/accuracy: no number, recorded 0.9"),
    ],
)
def test_verdicts(run, status, verdict, said, tmp_path, capsys):
    found, _, certificate = start(tmp_path, content_of(), run=run)
    assert found == status and certificate["agrees"] == (status == 0)
    assert [own["verdict"] for own in certificate["runs"]] == [verdict]
    assert {"versions", "device", "seconds", "metric", "config_digest"} <= set(certificate["runs"][0])
    assert certificate["date"] and "95 % prediction interval of 3" in certificate["rule"]
    shown = capsys.readouterr().out
    assert said in shown and f"verdict: {verdict}" in shown


def test_the_interval_by_hand():
    # t(0.975, 2) = 4.302653; s = 0.02: 4.302653 * 0.02 * sqrt(4 / 3)
    assert reproduce.interval(content_of(), None) == pytest.approx((0.92, 0.0993655), rel=1e-5)
    assert reproduce.interval(content_of(), 0.01) == pytest.approx((0.92, 0.01))
    one = content_of(runs=content_of()["runs"][:1])
    assert reproduce.interval(one, None) == pytest.approx((0.9, 1 / 359))
    assert reproduce.interval(one | {"metric": "test/loss"}, None) == (0.9, 0)
    assert "one recorded seed has no spread" in reproduce.rule(one, None)


def test_seeds(tmp_path, capsys):
    def seeds_of(*words):
        run = start(tmp_path / words[-1], content_of(), *words)[1]
        return [own for command in run.commands for own in command if own.startswith("--config.train.seed")]

    for name in ("--all", "3", "/1"):
        (tmp_path / name.strip("/")).mkdir()
    assert seeds_of("--all") == [f"--config.train.seed={seed}" for seed in (1, 2, 3)]
    assert seeds_of("--seeds", "2", "3") == [f"--config.train.seed={seed}" for seed in (2, 3)]
    assert start(tmp_path / "1", content_of(), "--seeds", "7")[0] == 2
    assert "--seeds 7: the file records 1, 2, 3" in capsys.readouterr().err


def test_seeds_that_the_command_does_not_name(tmp_path):
    command = f"{START}=digits_simpleconv3:test"
    status, run, certificate = start(tmp_path, content_of(command=command), "--seeds", "3")
    assert status == 0 and run.commands[0][-1] == "--config.train.seed=3"
    assert certificate["runs"][0]["verdict"] == "agrees to the bit"


def test_another_configuration_is_stopped_and_named(tmp_path, capsys):
    content = content_of()
    content["runs"][0]["config_digest"] = "0"
    status, run, certificate = start(tmp_path, content)
    assert (status, run.stopped, certificate["agrees"]) == (1, 1, False)
    assert "in what, the file does not say" in capsys.readouterr().out
    content["config"] = resolved_of([*COMMAND.split()[3:-1], "--config.optimizer.learning_rate=0.2"])
    (tmp_path / "b").mkdir()
    certificate = start(tmp_path / "b", content)[2]
    assert certificate["runs"][0]["differing"] == {"optimizer.learning_rate": [0.2, 0.05]}
    assert "optimizer.learning_rate: 0.2 then, 0.05 here" in capsys.readouterr().out


def test_data_that_moved(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    there = f"--config.data.root={tmp_path / 'data'}"
    command = f"{START} configs/mnist_supervised_100.py"
    digest = compare.digest(resolved_of([*command.split()[3:], "--config.train.seed=1"]))
    runs = [run | {"config_digest": digest} for run in content_of()["runs"]]
    content = content_of(command=command, runs=runs)
    assert start(tmp_path, content, there)[0] == 0
    assert start(tmp_path, content, "--config.train.seed=3")[0] == 2
    assert "--config.train.seed is of certify" in capsys.readouterr().err


EVIL = "from pathlib import Path\nPath(__file__).with_name('marker').touch()\n"
BAD = [
    ("python -c 'import os'", "does not begin with python -m imgcls_jax.main"),
    (f"touch marker; {COMMAND}", "does not begin with"),
    (f"{COMMAND}; touch marker", "and nothing else"),
    (f"{COMMAND};touch", "sets train.seed to 'SEED;touch', which may name a place"),
    (f"{COMMAND} && touch marker", "and nothing else; got '--config configs/digits_simpleconv3.py:test &&"),
    (f"{COMMAND} --workdir /tmp/x", "nothing else; got '--workdir'"),
    (f"{COMMAND} --mode=eval", "nothing else; got '--mode=eval'"),
    (f"{START} configs/no_such.py", "there is no such file"),
    (f"{START} configs/digits_simpleconv3.py:$(touch marker)", "nothing else"),
    ("python -m imgcls_jax.main", "nothing else"),
    (f"{COMMAND} --config.data.root=elsewhere", "sets data.root to 'elsewhere', which may name a place"),
    (f"{COMMAND} --config.model.pretrained=hf:a/b", "sets model.pretrained to 'hf:a/b'"),
    (f"{COMMAND} --config.train.resume_from=runs", "which may name a place"),
    (f"{COMMAND} --config.data.root", "has no value"),
    (f"{COMMAND} 'open", "cannot be split into words"),
    (f"{COMMAND} {'x' * 5000}", "at most 4096"),
    (f"{COMMAND} --config.train.total_steps=SEED", "SEED for train.total_steps"),
    (f"{COMMAND} --config.train.batch_sise=3", "batch_sise"),
]


@pytest.mark.parametrize("command, said", BAD)
def test_a_strangers_command(command, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, run, _ = start(tmp_path, content_of(command=command))
    error = capsys.readouterr().err
    assert status == 2 and run.commands == [] and not (tmp_path / "marker").exists()
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize("name", ["evil.py", "configs/digits_simpleconv3.py"])
def test_a_strangers_configuration_needs_a_word(name, tmp_path, monkeypatch, capsys):
    content = content_of(command=f"{START} {name}:test --config.train.seed=SEED")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(EVIL + (ROOT / "configs" / "digits_simpleconv3.py").read_text())
    status, run, _ = start(tmp_path, content)
    assert status == 2 and run.commands == [] and not file.with_name("marker").exists()
    assert "is none of this project's configurations" in capsys.readouterr().err
    status, run, certificate = start(tmp_path, content, "--trust_config")
    assert status == 0 and len(run.commands) == 1 and certificate["agrees"]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"command": 3}, "command is of type str"),
        ({"runs": []}, "it holds no runs"),
        ({"runs": [{}]}, r"runs[0] is damaged: seeds"),
        ({"device": {}}, "device is damaged: platform"),
        ({"config": 3}, "config is of type dict"),
        ({"metric": "test/recall"}, "measured no test/recall"),
    ],
)
def test_a_damaged_file(change, said, tmp_path, capsys):
    assert start(tmp_path, content_of(**change))[0] == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("seeds", [{"train.seed": "1; x"}, {"train.seed": 1, "model.name": 3}])
def test_damaged_seeds(seeds, tmp_path, capsys):
    content = content_of()
    content["runs"][0]["seeds"] = seeds
    status, run, _ = start(tmp_path, content)
    assert status == 2 and run.commands == [] and "runs[0].seeds is damaged" in capsys.readouterr().err


def test_a_run_that_fails(tmp_path, capsys):
    assert start(tmp_path, content_of(), run=StandIn(status=1))[0] == 2
    assert "the run ended without a result: no such folder (all of it: " in capsys.readouterr().err


def test_a_finished_run_is_told(tmp_path, capsys):
    start(tmp_path, content_of())
    assert start(tmp_path, content_of())[2]["runs"][0]["of_earlier_start"]
    assert "holds the finished run of an earlier start" in capsys.readouterr().out


def test_a_certificate_is_no_row_of_the_table(tmp_path):
    words = {"method": "M", "protocol": "P", "published": "-"}
    start(tmp_path, content_of(**words))
    assert results.table(tmp_path).count("\n") == 2


class Machine:
    """A run of 100 steps whose log, checkpoints and signals behave as those of real ones.

    Args:
      forgets: whether its state after a resume is another.
      every: train.checkpoint_every_steps.
      total: steps.
      lags: steps that the log tells together.
    """

    def __init__(self, forgets=False, every=20, total=100, lags=1):
        self.forgets, self.every, self.total, self.lags = forgets, every, total, lags
        self.signals, self.saved, self.metric = [], {}, 0.5

    def __call__(self, words, log, unwanted, *, by, poll_seconds):
        workdir = Path(words[words.index("--workdir") + 1])
        workdir.mkdir(exist_ok=True)
        train = {"total_steps": self.total, "checkpoint_every_steps": self.every, "eval_every_steps": 0}
        (workdir / "config.json").write_text(json.dumps({"resolved": {"train": train}}))
        first = self.saved.get(workdir, 0)
        said = f"resumed from the checkpoint of step {first}\n" if first else "begins\n"
        for step in range(first + 1, self.total + 1):
            if step % self.lags == 0:
                said += f"step {step}/{self.total}  epoch 1\n"
            log.write_text(said)
            if unwanted():
                self.signals.append(by)
                self.saved[workdir] = step if by == signal.SIGTERM else step // self.every * self.every
                return -by
        state = "other" if self.forgets and first else "same"
        result = {"config": {}, "metrics": {"test": {"accuracy": 0.5, "nll": math.nan}}, "steps": self.total}
        result |= {"wall_seconds": 1.0, "config_digest": "c", "state_digest": state, "versions": VERSIONS}
        (workdir / "result.json").write_text(json.dumps(result | {"device": DEVICE}))
        return 0


def certify(folder, run, *words):
    """Returns (exit status, the certificate or None)."""
    workdir = folder / "certified"
    flags = ["--config", "digits_simpleconv3:test", "--workdir", str(workdir)]
    with mock.patch.object(process, "run", run):
        status = results.main(["certify", *flags, *words])
    kept = workdir / "certificate.json"
    return status, json.loads(kept.read_text()) if kept.exists() else None


def test_killed_and_resumed(tmp_path, capsys):
    run = Machine()
    status, kept = certify(tmp_path, run, "--kills", "3", "--seed", "1", "--config.train.batch_size=32")
    assert status == 0 and kept["agrees"] and kept["state_digest"]["same"]
    assert run.signals == [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL]
    assert (kept["first_checkpoint"], kept["total_steps"], kept["kills_wanted"]) == (20, 100, 3)
    steps = [kill["step"] for kill in kept["kills"]]
    assert steps == sorted({*steps}) == [kill["wanted"] for kill in kept["kills"]]
    assert 20 < steps[0] and steps[-1] <= 90
    assert kept["kills"][0]["resumed_from"] == steps[0] // 20 * 20
    assert kept["kills"][1]["resumed_from"] == steps[1]
    assert kept["overrides"] == {"train.batch_size": "32"} and kept["seconds"] >= 0 and kept["date"]
    shown = capsys.readouterr().out
    assert f"the first checkpoint lies at step 20 of 100; kills at {', '.join(map(str, steps))}" in shown
    assert certify(tmp_path, run)[0] == 2
    assert "certified is not empty" in capsys.readouterr().err


def test_a_run_that_forgets_is_seen(tmp_path, capsys):
    status, kept = certify(tmp_path, Machine(forgets=True), "--kills", "1")
    assert status == 1 and not kept["agrees"] and "final states: differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    "run, words, said",
    [
        (
            Machine(every=0),
            (),
            "first checkpoint lies at step 100 of 100: too late for 3 kills behind it; set",
        ),
        (Machine(every=88), (), "too late for 3 kills"),
        (Machine(lags=1000), (), "the run was over before a kill could hit it"),
        (Machine(), ("--minutes", "1e-9"), "--minutes 1e-09 are over"),
        (Machine(), ("--config.train.batch_sise=3",), "batch_sise"),
        (lambda *_, **__: 1, (), "a run ended without a result"),
    ],
)
def test_what_certify_refuses(run, words, said, tmp_path, capsys):
    assert certify(tmp_path, run, *words) == (2, None)
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.slow
def test_real_runs_are_certified_and_reproduced(tmp_path, capsys):
    """Some 30 s each time that a run starts on a busy core."""
    word = ["--config.train.checkpoint_every_steps=5", "--config.train.eval_every_epochs=0"]
    flags = ["--config", "digits_simpleconv3:test", "--workdir", str(tmp_path / "c"), "--steps", "60"]
    assert results.main(["certify", *flags, *word, "--kills", "2"]) == 0
    kept = json.loads((tmp_path / "c" / "certificate.json").read_text())
    assert kept["kills"] and all(kill["resumed_from"] for kill in kept["kills"])
    command = f"{START} digits_simpleconv3:test {' '.join(word)} --config.train.total_steps=60"
    about = {"metric": "test/accuracy", "method": "M", "protocol": "P", "command": command}
    words = [f"--{name}={text}" for name, text in about.items()]
    file = tmp_path / "kept" / "a.json"
    assert results.main(["add", str(file), *words, str(tmp_path / "c" / "whole")]) == 0
    assert results.main(["reproduce", str(file), "--workdir", str(tmp_path / "r")]) == 0
    assert "verdict: agrees to the bit" in capsys.readouterr().out
