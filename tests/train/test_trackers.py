"""Trackers: what reaches TensorBoard, Weights & Biases and MLflow, once each, and what never harms a run."""

import http.server
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.config import compare
from imgcls_jax.config.modules import find_module
from imgcls_jax.config.resolve import resolve
from imgcls_jax.contracts.evaluator import Measured, Mistakes, Shown
from imgcls_jax.contracts.tracker import Entry, Facts, UnknownRun
from imgcls_jax.evaluators import classification_report
from imgcls_jax.figures import drawing
from imgcls_jax.train import run as runs
from imgcls_jax.train import tracking, writer
from imgcls_jax.train.gallery import Gallery
from imgcls_jax.train.run import run
from imgcls_jax.train.writer import MetricWriter
from tests.train.test_loop import digits_config
from tests.train.test_writer import events

ROOT = Path(__file__).parents[2]
NAMES = ("cat", "dog|wolf", "(owl)")
METRICS = {
    "accuracy": 0.7,
    "support": [4, 4, 2],
    "precision": [1.0, 0.5, 0.5],
    "recall": [0.75, 0.75, 0.5],
    "f1": [0.9, 0.6, 0.5],
    "confusion_matrix": [[3, 1, 0], [0, 3, 1], [0, 1, 1]],
}
SECRETS = {"WANDB_API_KEY": "0123456789abcdef" * 2 + "deadbeef", "MLFLOW_TRACKING_TOKEN": "token-of-nobody"}


class Source:
    """Examples whose gray is their position."""

    class_names = NAMES

    def __getitem__(self, index):
        return {"image": np.full((8, 8, 1), 10 * index, np.uint8)}


def gallery():
    return Gallery(NAMES, lambda split: Source())


def of_evaluation(step, name="test"):
    mistakes = Mistakes(np.array([7, 2]), np.array([0, 1]), np.array([1, 2]), np.array([0.9, 0.8]))
    embedding = np.random.default_rng(0).normal(size=(30, 5))
    shown = Shown("test", mistakes, embedding, np.arange(30) % 3)
    return gallery().entry(step, name, Measured(METRICS, shown))


# ---- what is shown


def test_tensorboard_has_the_pictures_and_the_classes(tmp_path):
    pytest.importorskip("tensorboardX")
    own = MetricWriter(tmp_path, fields={"data.source": "digits"})
    own.write_scalars(3, {"test/accuracy": 0.7})
    own.show(of_evaluation(3))
    own.close()
    values = {value.tag: value for event in events(tmp_path) for value in event.summary.value}
    assert "| data.source | digits |" in values["configuration/text_summary"].tensor.string_val[0].decode()
    table = values["test/classes/text_summary"].tensor.string_val[0].decode().splitlines()
    assert table[0] == "| class | support | precision | recall | f1 |"
    assert table[3] == r"| dog\|wolf | 4 | 0.5 | 0.75 | 0.6 |"
    assert values["test/precision/dog_wolf"].simple_value == 0.5
    assert values["test/recall/_owl_"].simple_value == 0.5
    pictures = {
        tag: np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)).convert("RGB"))
        for tag, value in values.items()
        if value.HasField("image")
    }
    assert sorted(pictures) == ["test/confusion_matrix", "test/embedding", "test/mistakes"]
    # Cells of the matrix hold the color of their share of the true class, in its rows and columns.
    matrix = np.array(METRICS["confusion_matrix"])
    colors = np.round(drawing.heat(matrix / matrix.sum(axis=1, keepdims=True)) * 255)
    picture = pictures["test/confusion_matrix"]
    side, bottom, right = 640 // 3, len(picture) - drawing.MARGIN, picture.shape[1]
    rows = [bottom - side * (3 - row) + 9 for row in range(3)]
    left = next(x for x in range(right) if (picture[rows[0], x] == colors[0, 0]).all())
    found = [[picture[y, left + side * column + 9] for column in range(3)] for y in rows]
    np.testing.assert_array_equal(found, colors)
    # The surest mistake comes first.
    grays = [70, 20]
    places = [int(np.argwhere((pictures["test/mistakes"] == gray).all(axis=-1))[0, 1]) for gray in grays]
    assert places == sorted(places) and places[0] != places[1]


def test_what_cannot_be_drawn_is_told_once_and_left_out(caplog):
    def broken(split):
        raise OSError("the disk is gone")

    own = Gallery(NAMES, broken)
    for step in (1, 2):
        mistakes = Mistakes(*(np.zeros(2, int) for _ in range(4)))
        entry = own.entry(step, "test", Measured(METRICS, Shown("test", mistakes)))
        assert list(entry.pictures) == ["test/confusion_matrix"] and len(entry.scalars) == 9
    (line,) = caplog.messages
    assert line.startswith("no picture test/mistakes: ") and line.endswith("OSError: the disk is gone")


def test_other_classes_and_no_lists_show_nothing():
    assert gallery().entry(1, "test", {"accuracy": 0.5}) == Entry(1, "test")
    assert gallery().entry(1, "test", METRICS | {"recall": [1.0], "precision": 0, "f1": None}).tables == {}
    found = gallery().entry(1, "test", {"per_class_accuracy": [0.5, None, 1.0]})
    assert found.tables["test/classes"].rows[1] == ("dog|wolf", None) and np.isnan(
        found.scalars["test/recall/dog|wolf"]
    )


def test_mistakes_are_those_of_the_split_the_surest_first():
    logits = np.array([[4.0, 0, 0], [0, 3, 0], [5, 0, 0], [0, 0, 1], [0, 2, 0]], np.float32)
    batch = {
        "image": logits,
        "label": np.array([0, 2, 1, 1, 1]),
        "mask": np.array([True, True, True, True, False]),
        "index": np.array([10, 11, 12, 13, 0]),
    }
    task = types.SimpleNamespace(num_classes=3, class_counts=())
    evaluate = classification_report.make(
        lambda params, state, batch: {"logits": batch["image"]}, lambda split: [batch], task=task, split="x"
    )
    found = evaluate({}, {})
    assert "shown" not in found and json.dumps(found)
    mistakes = found.shown.mistakes
    assert mistakes.example.tolist() == [12, 11, 13]
    assert mistakes.label.tolist() == [1, 2, 1] and mistakes.predicted.tolist() == [0, 1, 2]


# ---- the field


def test_loggers_change_no_run():
    old = resolve(digits_config()).in_steps(10)
    new = resolve(digits_config(loggers=("wandb", "mlflow"))).in_steps(10)
    assert old["train"]["loggers"] == ["tensorboard"] and new["train"]["loggers"] == ["wandb", "mlflow"]
    assert compare.digest(old) == compare.digest(new) and not compare.differing_fields(old, new)


@pytest.mark.parametrize(
    "loggers, told",
    [
        (["wand"], r"has no file wand.py; did you mean 'wandb'\? it has mlflow, tensorboard, wandb"),
        (["tensorboard", "tensorboard"], "names 'tensorboard' twice"),
        (["wandb"], r"'wandb' needs the package wandb: pip install 'imgcls-jax\[wandb\]'"),
        (["mlflow"], r"'mlflow' needs the package mlflow: pip install 'imgcls-jax\[mlflow\]'"),
    ],
)
def test_what_cannot_log_is_refused_before_the_run(loggers, told, tmp_path, monkeypatch):
    for package in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"config\.train\.loggers.*{told}"):
        run(digits_config(loggers=loggers), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- a tracker that fails


class Fake:
    """A tracker of a test: what it was told stays in `told`, whatever becomes of its runs.

    Args:
      workdir: of the run.
    """

    PACKAGE, EXTRA = "json", "fake"

    def __init__(self, workdir):
        self.workdir, self.told, self.kept, self.outcomes = workdir, [], [], []
        self.fails = lambda step: None

    def make(self, facts):
        self.kept.append(dict(facts.kept))
        self.fails("make")
        facts.keep(facts.kept or {"id": "a-run"})
        return self

    def write(self, entry):
        assert json.loads((self.workdir / tracking.FILE).read_text())["fake"]["kept"] == {"id": "a-run"}
        self.fails(entry.step)
        self.told += [(entry.step, name) for name in entry.scalars]

    def flush(self):
        raise AssertionError("a checkpoint waits for no tracker")

    def close(self, outcome):
        self.outcomes.append(outcome)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    own = Fake(tmp_path)
    for module in (tracking, writer):
        monkeypatch.setattr(
            module, "find_module", lambda room, name: own if name == "fake" else find_module(room, name)
        )
    return own


def start(workdir, resume_step=0, again=()):
    return MetricWriter(workdir, resume_step=resume_step, again=again, loggers=("fake",))


def lines(own, *steps):
    for step in steps:
        own.write_scalars(step, {"train/loss": 1.0 / step})


def raising(error, at):
    def fails(step):
        if step == at:
            raise error

    return fails


@pytest.mark.parametrize("at", ["make", 2])
@pytest.mark.parametrize("error", [ConnectionError("no route"), SystemExit(3), KeyboardInterrupt()])
def test_a_broken_tracker_is_told_once_and_gets_the_rest_later(error, at, tmp_path, fake, caplog):
    fake.fails = raising(error, at)
    own = start(tmp_path)
    lines(own, 1, 2, 3)
    own.close()
    assert fake.outcomes == [] and len(caplog.records) == 1 and not own.shows
    assert caplog.messages[0].startswith(f"fake: {type(error).__name__}")
    assert "The run goes on without it" in caplog.messages[0]
    fake.fails = lambda step: None
    own = start(tmp_path, resume_step=3)
    lines(own, 4)
    own.close("stopped")
    assert fake.told == [(step, "train/loss") for step in (1, 2, 3, 4)] and fake.outcomes == ["stopped"]


@pytest.mark.parametrize("at", ["make", 1])
def test_a_slow_tracker_holds_nothing_up_and_gets_the_rest_once(at, tmp_path, fake, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(tracking, "WAITING", 5)
    under_way, go_on = threading.Event(), threading.Event()
    fake.fails = lambda step: under_way.set() or go_on.wait(60) if step == at else None
    started = time.monotonic()
    own = start(tmp_path)
    lines(own, 1)
    assert under_way.wait(60)
    lines(own, *range(2, 20))
    own.flush()
    own.close()
    assert time.monotonic() - started < 30 and len(caplog.records) == 1
    assert "too slow: 5 entries wait" in caplog.messages[0]
    assert not own.shows and own._trackers[0]._entries.qsize() <= 1  # the end alone
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 19
    go_on.set()
    own._trackers[0]._thread.join(30)
    assert not json.loads((tmp_path / tracking.FILE).read_text())["fake"]["open"]
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 20)
    own = start(tmp_path, resume_step=19)
    own.close()
    assert fake.told == [(step, "train/loss") for step in range(1, 20)]


def test_a_long_past_is_no_sign_of_a_slow_tracker(tmp_path, fake, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "WAITING", 5)
    own = MetricWriter(tmp_path, loggers=())
    lines(own, *range(1, 20))
    own.close()
    go_on = threading.Event()
    fake.fails = lambda step: go_on.wait(60) if step == 1 else None
    own = start(tmp_path, resume_step=19)
    lines(own, *range(20, 24))
    go_on.set()
    own.close()
    assert fake.told == [(step, "train/loss") for step in range(1, 24)] and not caplog.messages


def test_nothing_comes_twice_after_a_kill(tmp_path, fake):
    """The first writer is not closed: its process was killed after step 4, its newest checkpoint is of 2."""
    own = start(tmp_path)
    lines(own, 1, 2)
    own.write_scalars(2, {"test/accuracy": 0.5, "val/accuracy": 0.5})
    lines(own, 3, 4)
    while len(fake.told) < 6:
        time.sleep(0.01)
    again = start(tmp_path, resume_step=2, again=("test", "val"))  # whose evaluation is made up for
    again.write_scalars(2, {"test/accuracy": 0.5, "val/accuracy": 0.5, "new/accuracy": 0.5})
    lines(again, 3, 4, 5)
    again.close()
    assert set(Counter(fake.told).values()) == {1}
    assert (2, "new/accuracy") in fake.told and (5, "train/loss") in fake.told
    assert fake.kept == [{}, {"id": "a-run"}]


def test_a_tracker_of_a_later_start_gets_what_was_before(tmp_path, fake):
    own = MetricWriter(tmp_path, loggers=())
    lines(own, 1, 2, 3)
    own.write_scalars(2, {"test/loss": float("nan")})
    own.close()
    assert not (tmp_path / tracking.FILE).exists()
    own = start(tmp_path, resume_step=2)
    own.close()
    assert fake.told == [(1, "train/loss"), (2, "train/loss"), (2, "test/loss")]


def test_a_kept_id_that_is_refused_names_the_entry_to_remove(tmp_path, fake, caplog):
    own = start(tmp_path)
    lines(own, 1)
    own.close()
    fake.fails = raising(UnknownRun("no run a-run"), "make")
    start(tmp_path, resume_step=1).close()
    (line,) = caplog.messages
    path = tmp_path / tracking.FILE
    assert line.startswith("fake: no run a-run. ") and f"entry 'fake' is removed from {path} to begin" in line
    assert "the next start" not in line
    path.write_text(
        json.dumps({name: own for name, own in json.loads(path.read_text()).items() if name != "fake"})
    )
    fake.fails = lambda step: None
    start(tmp_path, resume_step=1).close()
    assert fake.told == [(1, "train/loss")] * 2 and fake.kept[-1] == {}


@pytest.mark.parametrize(
    "content", ["[1]", "{", '{"fake": 3}', '{"fake": {"kept": 3, "arrived": [1], "open": 1}}']
)
def test_a_damaged_file_begins_a_new_run(content, tmp_path, fake):
    (tmp_path / tracking.FILE).write_text(content)
    own = start(tmp_path)
    lines(own, 1)
    own.close()
    assert fake.kept == [{}] and fake.told == [(1, "train/loss")]


def test_no_secret_is_told(tmp_path, fake, monkeypatch, caplog):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    text = f"401 for {SECRETS['WANDB_API_KEY']} at https://me:hidden@host/x\nand a second line"
    fake.fails = raising(RuntimeError(text), 1)
    own = start(tmp_path)
    lines(own, 1)
    own.close()
    assert caplog.messages[0].startswith("fake: RuntimeError: 401 for *** at https://host/x. The run goes on")


@pytest.mark.parametrize(
    "text, told",
    [
        ("at https://user:p@ss@host/x failed", "at https://host/x failed"),
        ("https://user:pa/ss@host:5000", "https://host:5000"),
        ("mysql+pymysql://user:p?a#s@host/db?ssl=true, again", "mysql+pymysql://host/db again"),
        ("GET https://host/x?token=abc: 401", "GET https://host/x 401"),
        ("no answer for url: /api/2.0?token=abc (refused)", "no answer for url: /api/2.0 (refused)"),
        ("is this true? see /runs/a#1", "is this true? see /runs/a#1"),
        ("a key of 8: eightkey", "a key of 8: ***"),
    ],
)
def test_addresses_lose_user_and_query_and_keys_are_hidden(text, told, monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_KEY", "true")
    monkeypatch.setenv("OWN_API_KEY", "eightkey")
    assert tracking.without_secrets(text) == told


def test_a_broken_tracker_changes_no_bit_of_a_run(tmp_path, fake, monkeypatch, caplog):
    config = digits_config(total_steps=4, log_every_steps=1)
    config["evals"] = {"test": {"evaluator": "classification_report", "split": "test"}}
    monkeypatch.setattr(runs.tracking, "require", lambda names: None)
    whole = run(config, tmp_path / "whole")
    assert not (tmp_path / "whole" / tracking.FILE).exists()
    fake.workdir, fake.fails = tmp_path / "run", raising(ConnectionError("gone"), 3)
    config["train"]["loggers"] = ["fake"]
    result = run(config, tmp_path / "run")
    for name in ("state_digest", "config_digest", "metrics", "steps"):
        assert result[name] == whole[name], name
    assert {step for step, _ in fake.told} == {1, 2}
    assert len([line for line in caplog.messages if "fake" in line]) == 1
    files = [(tmp_path / own / "metrics.jsonl").read_text().splitlines() for own in ("run", "whole")]
    assert [json.loads(line).keys() for line in files[0]] == [json.loads(line).keys() for line in files[1]]


# ---- the services themselves, offline

KILLED = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from imgcls_jax.train.writer import MetricWriter
own = MetricWriter(Path({workdir!r}), loggers={loggers!r}, config_name="digits",
                   fields={{"train.batch_size": 8, "train.log_every_steps": 1}})
for step in (1, 2, 3):
    own.write_scalars(step, {{"train/loss": 1.0 / step}})
while any(tracker._arrived.get("train") != 3 for tracker in own._trackers):
    assert all(tracker._thread.is_alive() for tracker in own._trackers)
    time.sleep(0.01)
time.sleep(2)  # wandb's process writes every second
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_and_resumed(workdir, logger, monkeypatch, **environment):
    """Logs steps 1 to 3, is killed, goes on from step 1 to 4 in this process, with an evaluation."""
    for name, value in (environment | SECRETS).items():
        monkeypatch.setenv(name, value)
    workdir.mkdir()
    code = KILLED.format(root=str(ROOT), workdir=str(workdir), loggers=(logger,))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=workdir.parent
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    own = MetricWriter(
        workdir,
        resume_step=1,
        loggers=(logger,),
        config_name="digits",
        fields={"train.batch_size": 8, "train.log_every_steps": 2},
    )
    lines(own, 2, 3, 4)
    own.write_scalars(4, {"test/accuracy": 0.7})
    own.show(of_evaluation(4))
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 120)
    own.close()
    kept = json.loads((workdir / tracking.FILE).read_text())[logger]
    assert kept["arrived"] == {"train": 4, "test": 4} and not kept["open"]
    for path in workdir.parent.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [name for name, value in SECRETS.items() if value.encode() in content], path
    return kept["kept"]["id"]


def wandb_records(file):
    """Yields the records of a file of wandb: blocks of 32 KiB, of pieces behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 2**15 - place % 2**15 < 7:
            place += 2**15 - place % 2**15
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        if place + 7 + length > len(content):
            return  # not all of it is written
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last piece
            yield Record.FromString(parts)
            parts = b""


def test_wandb_goes_on_in_one_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'imgcls-jax[wandb]'")
    quiet = {"WANDB_X_DISABLE_STATS": "true", "WANDB_ERROR_REPORTING": "false"}
    own_id = killed_and_resumed(tmp_path / "run", "wandb", monkeypatch, WANDB_MODE="offline", **quiet)
    files = sorted((tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    until = time.monotonic() + 60  # wandb's own process may write on after the run is closed
    while not any(record.WhichOneof("record_type") == "exit" for record in wandb_records(files[-1])):
        assert time.monotonic() < until
        time.sleep(0.1)
    points, media, configuration = Counter(), set(), {}
    for file in files:
        for record in wandb_records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                assert (record.run.run_id, record.run.project, record.run.display_name) == (
                    own_id,
                    "digits",
                    "run",
                )
            if kind == "config":
                configuration |= {own.key: json.loads(own.value_json) for own in record.config.update}
            if kind == "history":
                row = {
                    "/".join(own.nested_key) or own.key: json.loads(own.value_json)
                    for own in record.history.item
                }
                points.update((row["step"], name) for name in row if re.match("train/|test/(acc|rec)", name))
                media |= {name.removesuffix("/sha256") for name in row}
    assert {step for step, name in points if name == "train/loss"} == {1, 2, 3, 4}
    assert set(points.values()) == {1} and points[4, "test/recall/(owl)"] == 1
    assert configuration["train.batch_size"] == 8 and configuration["train.log_every_steps"] == 2
    picture = next((tmp_path / "run/wandb").rglob("media/images/test/confusion_matrix*.png"))
    drawn = of_evaluation(4).pictures["test/confusion_matrix"]
    np.testing.assert_array_equal(np.asarray(Image.open(picture)), np.asarray(drawn))
    table = json.loads(next((tmp_path / "run/wandb").rglob("*.table.json")).read_text())
    assert table["columns"] == ["class", "support", "precision", "recall", "f1"]
    assert table["data"][2] == ["(owl)", 2, 0.5, 0.5, 0.5]
    assert {"test/confusion_matrix", "test/mistakes", "test/embedding", "test/classes"} <= media


def test_wandb_refuses_a_kept_id_that_is_none(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'imgcls-jax[wandb]'")
    for kept, error in (({"id": "a/b"}, UnknownRun), ({}, Exception)):
        monkeypatch.setenv("WANDB_RUN_ID", "c/d")
        with pytest.raises(error, match="Run ID cannot contain") as found:
            find_module("trackers", "wandb").make(Facts(tmp_path, kept=kept))
        assert isinstance(found.value, UnknownRun) == bool(kept)


def test_mlflow_goes_on_in_one_run(tmp_path, monkeypatch):
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason="mlflow is not installed: pip install 'imgcls-jax[mlflow]'")
    uri = f"sqlite:///{tmp_path}/ml.db"
    monkeypatch.chdir(tmp_path)  # where its pictures go
    own_id = killed_and_resumed(
        tmp_path / "run", "mlflow", monkeypatch, MLFLOW_TRACKING_URI=uri, MLFLOW_DISABLE_TELEMETRY="true"
    )
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert found.info.run_id == own_id and found.info.run_name == "run" and found.info.status == "FINISHED"
    losses = [(own.step, own.value) for own in client.get_metric_history(own_id, "train/loss")]
    assert sorted(losses) == [(step, 1.0 / step) for step in (1, 2, 3, 4)]
    assert found.data.metrics["test/accuracy"] == 0.7 and found.data.metrics["test/recall/_owl_"] == 0.5
    assert found.data.params == {"train.batch_size": "8", "train.log_every_steps": "1"}
    assert found.data.tags["resumed.train.log_every_steps"] == "2"
    images = {own.path for own in client.list_artifacts(own_id, "images")}
    names = {re.split(r"[+%]step", Path(path).name)[0] for path in images if path.endswith(".png")}
    assert {re.sub(r"[~#]", "/", name) for name in names} == {
        "test/confusion_matrix",
        "test/mistakes",
        "test/embedding",
    }
    table = Path(client.download_artifacts(own_id, "tables/test/classes/00000004.csv")).read_text()
    assert table.splitlines()[3] == "(owl),2,0.5,0.5,0.5"


class Store(http.server.BaseHTTPRequestHandler):
    """What of MLflow's REST interface one run needs: the names of requests, the steps of metrics."""

    asked, metrics = [], []

    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length) or "{}")
        name = self.path.partition("?")[0].partition("/mlflow/")[2]
        self.asked.append(name)
        self.metrics.extend(own["step"] for own in body.get("metrics", []))
        unknown = body.get("run_id", "r1") != "r1"
        allowed = self.headers.get("authorization", "").startswith("Basic ")
        info = {
            "run_id": "r1",
            "run_uuid": "r1",
            "experiment_id": "1",
            "status": "RUNNING",
            "run_name": "run",
        }
        answers = {
            "experiments/get-by-name": {"experiment": {"experiment_id": "1", "name": "digits"}},
            "runs/create": {"run": {"info": info, "data": {}}},
            "runs/get": {"run": {"info": info, "data": {}}},
            "runs/update": {"run_info": info},
            "runs/log-batch": {},
        }
        answer = answers.get(name, {})
        if not allowed:
            answer = {"error_code": "UNAUTHENTICATED", "message": "401, who are you?"}
        elif unknown:
            answer = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run with id=r0 not found"}
        self.send_response((200 if name in answers and not unknown else 404) if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    do_GET = do_POST = do_PATCH = answer

    def log_message(self, *_):
        pass


def test_mlflow_over_http_tells_no_password(tmp_path, monkeypatch, capfd, caplog):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'imgcls-jax[mlflow]'")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")  # taken back at the end
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for user in ("me:hidden-word@", ""):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{user}127.0.0.1:{server.server_port}")
            own = MetricWriter(tmp_path, loggers=("mlflow",), config_name="digits", resume_step=2)
            lines(own, *((1, 2) if user else (3,)))
            own.close()
        kept = (tmp_path / tracking.FILE).read_text()
        (tmp_path / tracking.FILE).write_text(kept.replace('"r1"', '"r0"'))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hidden-word@127.0.0.1:{server.server_port}")
        MetricWriter(tmp_path, loggers=("mlflow",), resume_step=3).close()
    finally:
        server.shutdown()
        server.server_close()
    assert Store.metrics == [1, 2] and "runs/create" in Store.asked
    said = "".join(capfd.readouterr()) + caplog.text
    assert "mlflow: run r1: http://127.0.0.1" in said and "hidden-word" not in said
    assert len(caplog.messages) == 2 and "401" in caplog.messages[0]
    assert caplog.messages[0].endswith("the next start of this workdir sends what is missing")
    assert caplog.messages[1].startswith("mlflow: ") and "Run with id=r0 not found" in caplog.messages[1]
    assert f"'mlflow' is removed from {tmp_path / tracking.FILE}" in caplog.messages[1]
    assert json.loads((tmp_path / tracking.FILE).read_text())["mlflow"]["arrived"] == {"train": 2}


def ids(workdir):
    """Returns the ids of the runs at the services."""
    path = workdir / tracking.FILE
    content = json.loads(path.read_text()) if path.exists() else {}
    return {name: own["kept"]["id"] for name, own in content.items() if "kept" in own}


@pytest.mark.slow
def test_a_killed_command_goes_on_in_the_same_runs(tmp_path):
    """The command itself, killed in the middle of its steps, then given again."""
    for package in ("wandb", "mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "imgcls_jax.main", "--config", "digits_simpleconv3"]
    command += [
        "--workdir",
        str(workdir),
        "--config.train.total_epochs=12",
        "--config.train.log_every_steps=1",
    ]
    command += ["--config.train.eval_every_epochs=1", '--config.train.loggers=("wandb", "mlflow")']
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/ml.db",
    }
    environment.pop("XLA_FLAGS")
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (workdir / "checkpoints/66").exists() or len(ids(workdir)) < 2:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    first.kill()
    first.wait()
    before = ids(workdir)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "resumed from the checkpoint" in done.stdout, done.stderr
    after = ids(workdir)
    assert after == before
    from mlflow import MlflowClient

    client, own_id = MlflowClient(environment["MLFLOW_TRACKING_URI"]), after["mlflow"]
    steps = Counter(own.step for own in client.get_metric_history(own_id, "train/loss"))
    assert set(steps.values()) == {1} and max(steps) == 264
    told = Counter()
    for file in (workdir / "wandb").glob("offline-run-*/run-*.wandb"):
        for record in wandb_records(file):
            row = {
                own.nested_key[0] if own.nested_key else own.key: own.value_json
                for own in record.history.item
            }
            told.update([row["step"]] if "train/loss" in row else [])
    assert set(told.values()) == {1} and len(told) > 240
