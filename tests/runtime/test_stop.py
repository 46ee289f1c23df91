"""What asks a run to stop: SIGTERM, SIGHUP, Ctrl-C."""

import os
import signal

import pytest

from imgcls_jax.runtime.stop import StopRequest


@pytest.fixture
def handlers():
    """Puts the handlers back that a test replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_asks_once(number, handlers):
    later = []
    signal.signal(number, lambda *_: later.append(number))
    with StopRequest() as stop:
        assert not stop.here()
        os.kill(os.getpid(), number)
        assert stop.here() and stop.reason == number.name and not later
        os.kill(os.getpid(), number)  # the second goes to whoever had it before
        assert later == [number] * (number != signal.SIGHUP)  # a shell and the kernel may both send that


def test_a_hangup_that_is_ignored_stops_nothing(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.here() and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_the_handlers_of_before_come_back(handlers):
    before = signal.SIG_DFL
    signal.signal(signal.SIGHUP, before)
    with StopRequest():
        assert signal.getsignal(signal.SIGHUP) != before
    assert signal.getsignal(signal.SIGHUP) == before
