"""What a log says of a run of several starts: all of their time, and windows of the same steps."""

import json
import math

import pytest

from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train import spent as spending
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.loop import Loop
from imgcls_jax.train.run import run
from imgcls_jax.train.spent import Clock, Spent, Window
from tests.train.test_ending import records
from tests.train.test_loop import digits_config, folder_config, folder_of_images, stop_after

OF_TIME = ("train/examples_per_second", "train/input_wait")


@pytest.fixture
def clock(monkeypatch):
    """Time that stands still but for what a test adds to it."""
    now = [100.0]
    monkeypatch.setattr(spending.time, "monotonic", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    return passes


def test_a_paused_clock_stands_still(clock):
    own = Clock()
    clock(1)
    assert own.seconds() == 0
    own.resume()
    clock(2)
    own.pause()
    clock(4)
    assert own.seconds() == 2
    own.add(10)
    assert own.seconds() == 12


def test_two_starts_are_counted_together(clock):
    first = Spent()
    clock(5)
    first.clock.resume()
    clock(3)
    first.clock.pause()
    first.steps, first.waited = 6, 0.5
    kept = json.loads(json.dumps(first.kept()))
    assert kept == {"wall_seconds": 8, "steps": 6, "training_seconds": 3, "waited_seconds": 0.5}
    clock(1000)  # between the two
    second = Spent()
    second.go_on(kept)
    clock(2)
    second.go_on({"wall_seconds": 7, "steps": 7})  # a checkpoint of its own, to which it went back
    assert second.wall_seconds() == 10 and second.now() == (6, 3, 0.5)


@pytest.mark.parametrize("value", [None, "3", -1.0, math.nan, math.inf, True, [1]], ids=repr)
def test_what_no_start_can_have_spent_counts_as_nothing(value, clock):
    own = Spent()
    own.go_on(dict.fromkeys(("wall_seconds", "steps", "training_seconds", "waited_seconds"), value))
    assert own.wall_seconds() == 0 and own.now() == (0, 0, 0)


def test_a_window_goes_on_from_its_file(clock):
    """Losses 1, 2 before and 6 after, a step that was not finite, 4 s for 4 steps: by hand."""
    first = Spent()
    window = Window(first, {})
    first.clock.resume()
    for loss in (1.0, 2.0, None):
        window.add(loss and {"loss": loss})
        first.steps += 1
        clock(1)
    kept = json.loads(json.dumps(first.kept() | {"window": window.kept()}))
    second = Spent()
    second.go_on(kept)
    window = Window(second, kept["window"])
    second.clock.resume()
    window.add({"loss": 6.0})
    second.steps += 1
    clock(1)
    assert window.means() == {"loss": 3.0} and (window.taken, window.finite) == (4, 3)
    assert window.spent() == (4, 4.0, 0.0)
    window.clear()
    assert window.means() == {} and window.spent() == (0, 0.0, 0.0)


@pytest.mark.parametrize(
    "kept",
    [
        None,
        "window",
        {"finite": 2, "taken": 2, "sums": {"loss": "7"}},
        {"finite": 2, "taken": 1, "sums": {"loss": 7.0}},
        {"finite": 0, "taken": 1, "sums": {"loss": 7.0}},
        {"finite": 1, "taken": 1, "sums": {"other": 7.0}},
    ],
    ids=str,
)
def test_a_damaged_window_begins_anew(kept):
    window = Window(Spent(), kept)
    window.add({"loss": 3.0})
    assert window.means() == {"loss": 3.0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The undisturbed run: lines of four steps, checkpoints between them."""
    workdir = tmp_path_factory.mktemp("whole")
    run(config(), workdir)
    return records(workdir)


def config():
    return digits_config(log_every_steps=4, checkpoint_every_steps=3)


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_resumed_run_logs_what_an_undisturbed_one_does(how, tmp_path, monkeypatch, whole):
    after_step = Loop._after_step

    def killed(self):
        if self.step == 7:
            raise KeyboardInterrupt
        after_step(self)

    with monkeypatch.context() as patch:
        if how == "stopped":
            stop_after(patch, 7)
        else:
            patch.setattr(Loop, "_after_step", killed)
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            run(config(), tmp_path)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.steps()[-1]
        before = checkpoints.progress(step)
    assert step == before["steps"] == (7 if how == "stopped" else 6) and before["window"]["taken"] == step - 4
    result = run(config(), tmp_path)
    assert result["wall_seconds"] > before["wall_seconds"] > before["training_seconds"] > 0
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        after = checkpoints.progress(8)
    assert after["steps"] == 8
    assert result["examples_per_second"] == pytest.approx(8 * 64 / after["training_seconds"], rel=0.1)
    assert without_time(records(tmp_path)) == without_time(whole)


def test_images_that_an_earlier_start_left_out_are_counted(tmp_path, monkeypatch):
    """One of the images trained on is damaged in the first epoch, and mended before the second."""
    folder_of_images(tmp_path / "images")
    picture = tmp_path / "images" / "train" / "light" / "3.png"
    content = picture.read_bytes()
    picture.write_bytes(content[:60])
    config = folder_config(tmp_path / "images", on_bad_example="skip")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            run(config, tmp_path / "run")
    picture.write_bytes(content)
    assert run(config, tmp_path / "run")["bad_examples"] == 1


def without_time(lines):
    return [{name: value for name, value in line.items() if name not in OF_TIME} for line in lines]
