"""What is due when: by steps, and by a clock that is asked seldom."""

import types

import pytest

from imgcls_jax.train import due
from imgcls_jax.train.due import MAX_SHARE, Due


class Time:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


def due_of(time, **settings):
    fields = dict(total_steps=10**6, log_every_steps=0, eval_every_steps=0, checkpoint_every_steps=0)
    fields |= {"checkpoint_every_minutes": 10.0} | settings
    return Due(types.SimpleNamespace(**fields), 0, now=time)


def saved_at(asked, time, steps, seconds_of, cost=0.0):
    """The times, in seconds since the start, at which steps are saved."""
    times, start = [], time.seconds
    for step in range(1, steps + 1):
        time.seconds += seconds_of(step)
        if asked.checkpoint(step):
            times.append(time.seconds - start)
            asked.saved(step, cost)
    return times


@pytest.mark.parametrize("seconds", [0.01, 0.7, 45.0, 700.0])
def test_a_checkpoint_at_least_every_ten_minutes(seconds):
    time = Time()
    asked = due_of(time)
    times = saved_at(asked, time, int(3000 / seconds) + 4, lambda step: seconds)
    gaps = [late - early for early, late in zip([0.0, *times], times, strict=False)]
    assert len(times) >= 4 and all(600 <= gap + 1e-6 < 600 + 2 * seconds + 1e-6 for gap in gaps), gaps
    if seconds == 0.01:
        assert asked.looks < 200 * len(times)  # of 60,000 steps each


def test_steps_that_become_slower_are_no_reason_to_wait_for_long():
    time = Time()
    times = saved_at(due_of(time), time, 1500, lambda step: 0.1 if step < 1000 else 2.0)
    assert times and 600 <= times[0] < 900


def test_a_save_that_takes_long_comes_seldom():
    time = Time()
    times = saved_at(due_of(time), time, 20_000, lambda step: 1.0, cost=60.0)
    gaps = [late - early for early, late in zip(times, times[1:], strict=False)]
    assert gaps and all(gap >= 60 / MAX_SHARE for gap in gaps)


def test_a_small_run_is_saved_by_its_steps_alone():
    time = Time()
    asked = due_of(time, checkpoint_every_steps=7)
    assert [step for step in range(1, 30) if asked.checkpoint(step)] == [7, 14, 21, 28]


def test_zero_switches_the_clock_off():
    time = Time()
    asked = due_of(time, checkpoint_every_minutes=0.0)
    assert saved_at(asked, time, 50, lambda step: 1000.0, cost=50.0) == [] and asked.looks == 0


def test_every_save_counts():
    time = Time()
    asked = due_of(time, eval_every_steps=50)
    assert saved_at(asked, time, 200, lambda step: 10.0) == [500.0, 1000.0, 1500.0, 2000.0]


def test_the_first_process_decides_for_all(monkeypatch):
    told = []

    def of_first(own):
        told.append(own)
        return [True, 3]

    monkeypatch.setattr(due, "of_first", of_first)
    asked = due_of(Time())
    assert asked.checkpoint(1) and not asked.checkpoint(2) and not asked.checkpoint(3)
    assert len(told) == 1  # the next look is at step 4, in every process
    assert asked.checkpoint(4) and len(told) == 2


def test_evaluations_and_lines():
    asked = due_of(Time(), eval_every_steps=4, log_every_steps=3, total_steps=10)
    assert [step for step in range(11) if asked.evaluation(step)] == [4, 8, 10]
    assert [step for step in range(11) if asked.line(step)] == [3, 6, 9, 10]
    assert [step for step in range(11) if asked.checkpoint(step)] == [4, 8, 10]


def test_the_next_step_at_which_anything_is_due():
    asked = due_of(Time(), total_steps=47, log_every_steps=10, eval_every_steps=12, steps_per_call=50)
    found = [asked.next(step) for step in (0, 9, 10, 11, 12, 39, 40, 46)]
    assert found == [10, 10, 12, 12, 20, 40, 47, 47]
    for step in range(47):
        own = [after for after in range(step + 1, 48) if asked.line(after) or asked.checkpoint(after)]
        assert asked.next(step) == own[0]
    assert asked.longest_call() == 10 and due_of(Time(), steps_per_call=50).longest_call() == 50
