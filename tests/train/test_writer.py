"""What a run leaves to read: metrics.jsonl, TensorBoard events, progress lines."""

import json
import math
import os
import shutil
import struct

import pytest

from imgcls_jax.runtime.progress import clock
from imgcls_jax.train.progress import named
from imgcls_jax.train.writer import MetricWriter, flatten


def records(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_scalars_go_to_jsonl_and_tensorboard(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write_scalars(3, {"train/loss": 0.5, "train/bad": float("nan")})
    writer.close()
    assert records(tmp_path) == [{"step": 3, "train/loss": 0.5, "train/bad": None}]
    pytest.importorskip("tensorboardX")
    events = list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert events and b"train/loss" in events[0].read_bytes()


def events(path):
    """Returns the events of a run's newest start."""
    return events_of(max((path / "tensorboard").iterdir()))


def events_of(file):
    """Returns the events of a file; a record is its length, a checksum, itself, a checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(event_pb2.Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_events_are_what_tensorboard_reads(tmp_path):
    writer = MetricWriter(tmp_path, resume_step=2)
    writer.write_scalars(3, {"train/loss": 0.5, "train/bad": float("nan")})
    writer.close()
    version, session, *written = events(tmp_path)
    assert version.file_version == "brain.Event:2" and version.wall_time > 1e9
    assert session.step == 3 and session.session_log.status == session.session_log.START
    values = [(event.step, event.summary.value[0]) for event in written]
    assert [(step, value.tag) for step, value in values] == [
        (3, "train/loss"),
        (3, "train/bad"),
    ]
    assert values[0][1].simple_value == 0.5 and math.isnan(values[1][1].simple_value)


def test_a_full_disk_is_told_where_the_events_are_written(tmp_path, monkeypatch, capfd):
    record_writer = pytest.importorskip("tensorboardX.record_writer")
    full = "/dev/full"
    if not os.path.exists(full):
        pytest.skip("no device here is always full")
    with monkeypatch.context() as patch:
        patch.setattr(record_writer, "open_file", lambda path: open(full, "wb", buffering=0))
        with pytest.raises(OSError, match="/tensorboard cannot be written: No space left on device"):
            MetricWriter(tmp_path)
    writer = MetricWriter(tmp_path)
    monkeypatch.setattr(record_writer.RecordWriter, "write", lambda self, record: fill(full))
    with pytest.raises(OSError, match="/tensorboard cannot be written: No space left on device"):
        writer.write_scalars(3, {"loss": 0.5})
    writer.close()
    assert records(tmp_path) == [{"step": 3, "loss": 0.5}] and "Traceback" not in "".join(capfd.readouterr())


def fill(path):
    with open(path, "wb", buffering=0) as file:
        file.write(b"more")


def test_a_resumed_run_takes_out_what_will_come_again(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write_scalars(step, {"loss": float(step)})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # what a kill leaves
    writer = MetricWriter(tmp_path, resume_step=2)
    writer.write_scalars(3, {"loss": 30.0})
    writer.close()
    assert [(r["step"], r["loss"]) for r in records(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_an_inactive_writer_writes_nothing(tmp_path):
    writer = MetricWriter(tmp_path, active=False)
    writer.write_scalars(1, {"loss": 1.0})
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_numbers_and_times_of_a_line():
    assert named({"loss": 0.12345, "accuracy": 1.0}) == "loss 0.1235  accuracy 1"
    assert clock(3723.9) == "1:02:03"


def test_flatten_leaves_lists_out():
    assert flatten({"accuracy": 0.5, "per_class_accuracy": [0.5, None]}, "val") == {"val/accuracy": 0.5}


def test_two_starts_in_one_second_keep_their_events(tmp_path, monkeypatch):
    """Their files are read in the order of their names."""
    module = pytest.importorskip("tensorboardX.event_file_writer")
    monkeypatch.setattr(module.time, "time", lambda: 1.7e9)
    for step in range(12):
        writer = MetricWriter(tmp_path, resume_step=step)
        writer.write_scalars(step + 1, {"train/loss": float(step)})
        writer.close()
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert [events_of(file)[-1].step for file in files] == list(range(1, 13))


@pytest.mark.parametrize("what", ["file", "workdir", "replaced"])
def test_a_file_that_is_taken_away_is_told(what, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    writer = MetricWriter(workdir)
    writer.write_scalars(1, {"loss": 1.0})
    if what == "workdir":
        shutil.rmtree(workdir)
    else:
        (workdir / "metrics.jsonl").unlink()
    if what == "replaced":
        (workdir / "metrics.jsonl").write_text("")
    reason = "another file has taken its place" if what == "replaced" else "No such file or directory"
    with pytest.raises(OSError, match=rf"metrics\.jsonl cannot be written: {reason}"):
        writer.write_scalars(2, {"loss": 1.0})
    writer.close()


def test_events_before_a_flush_outlive_a_kill(tmp_path):
    """No writer is closed: its file holds what a flush, as of a checkpoint, came after."""
    pytest.importorskip("tensorboardX")
    writer = MetricWriter(tmp_path)
    writer.write_scalars(1, {"train/loss": 1.0})
    writer.flush()
    assert events(tmp_path)[-1].step == 1
    writer.close()


def test_a_line_keeps_what_does_not_come_again(tmp_path):
    lines = [
        {"step": 2, "test/accuracy": 0.1},
        {"step": 3, "train/loss": 0.5, "test/accuracy": None, "val/accuracy": 0.2},
        {"step": 3, "test/loss": 1.0},
        {"step": 4, "train/loss": 0.4},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    MetricWriter(tmp_path, resume_step=3, again=("test", "val")).close()
    assert records(tmp_path) == [lines[0], {"step": 3, "train/loss": 0.5}]
