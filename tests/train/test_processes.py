"""Two processes over loopback do what one process with two devices does, to the bit."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "imgcls_jax.main"]
TRAIN = ["--config=configs/digits_simpleconv3.py:test", "--config.train.total_epochs=1.0"]


def start(workdir, devices, *arguments):
    return subprocess.Popen(
        [*COMMAND, f"--workdir={workdir}", *arguments],
        cwd=ROOT,
        # A cached program may have been compiled for another number of cores, and round otherwise.
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_ENABLE_COMPILATION_CACHE": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes):
    try:
        outputs = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


def result(workdir):
    return json.loads((workdir / "result.json").read_text())


@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2,
    reason="on one core XLA gives a process of two devices more threads: they round otherwise",
)
def test_two_processes_equal_two_devices(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    joined = ["--distributed", f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    outputs = finish([start(tmp_path / "two", 1, *TRAIN, *joined, f"--process_id={i}") for i in range(2)])
    finish([start(tmp_path / "one", 2, *TRAIN)])
    two, one = result(tmp_path / "two"), result(tmp_path / "one")
    assert two["device"]["processes"] == 2 and two["device"]["count"] == one["device"]["count"] == 2
    assert two["state_digest"] == one["state_digest"]
    assert two["metrics"] == one["metrics"] and two["metrics"]["test"]["num_examples"] == 359
    assert "finished" in outputs[0] and "finished" not in outputs[1]

    evaluate = ["--mode=eval", "--split=test", *joined]
    finish([start(tmp_path / "two", 1, *evaluate, f"--process_id={i}") for i in range(2)])
    (written,) = (tmp_path / "two").glob("eval_*.json")
    assert json.loads(written.read_text())["test"] == two["metrics"]["test"]
