"""Runs as processes: their status and log, and that they are asked to stop, not killed."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from imgcls_jax.search import process

SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(0)))
print("started", flush=True)
time.sleep(30)
"""


def test_status_and_log(tmp_path):
    log = tmp_path / "run.log"
    words = [sys.executable, "-c", "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"]
    assert process.run(words, log, lambda: False) == 3
    assert sorted(log.read_text().split()) == ["one", "two"]
    (tmp_path / "own.log").write_text("error: first\n\nerror: last\n \n")
    assert process.last_line(tmp_path / "own.log") == "error: last"
    assert process.last_line(tmp_path / "none.log") == ""


def test_an_unwanted_run_saves(tmp_path):
    log = tmp_path / "run.log"
    status = process.run([sys.executable, "-c", SAVES], log, lambda: "started" in log.read_text())
    assert (status, log.read_text().split()) == (0, ["started", "saved"])


def test_a_kill_takes_the_children_of_a_run(tmp_path):
    log = tmp_path / "run.log"
    child = f"subprocess.Popen([sys.executable, '-c', {SAVES!r}])"
    words = [
        sys.executable,
        "-c",
        f"import subprocess, sys, time; print({child}.pid, flush=True); time.sleep(30)",
    ]
    by = {"by": signal.SIGKILL, "poll_seconds": 0.01}
    assert process.run(words, log, lambda: "started" in log.read_text(), **by) == -signal.SIGKILL
    pid = int(log.read_text().split()[0])
    for _ in range(500):  # until it is gone, or a zombie that nobody waits for
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("a child of the run lives on")


def test_a_run_that_does_not_stop_is_killed(tmp_path):
    log = tmp_path / "run.log"
    deaf = SAVES.replace('(print("saved", flush=True), sys.exit(0))', "None")
    how = {"poll_seconds": 0.01, "patience": 0.1}
    status = process.run([sys.executable, "-c", deaf], log, lambda: "started" in log.read_text(), **how)
    assert (status, log.read_text().split()) == (-signal.SIGKILL, ["started"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handed_on(tmp_path, number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("these run in the background, where Ctrl-C is ignored")
    log, before = tmp_path / "run.log", signal.getsignal(signal.SIGTERM)

    def interrupt():
        while not (log.exists() and "started" in log.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        process.run([sys.executable, "-c", SAVES], log, lambda: False)
    thread.join()
    assert log.read_text().split() == ["started", "saved"]
    assert signal.getsignal(signal.SIGTERM) == before
