"""What a run does when a process is asked to stop, killed or stopped, or does not fit the others."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = "configs/digits_simpleconv3.py:test"
LONG = ["--config.train.total_epochs=1000.0", "--config.train.eval_every_epochs=0.0"]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(workdir, *arguments):
    return subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-m",
            "imgcls_jax.main",
            f"--config={CONFIG}",
            f"--workdir={workdir}",
            *arguments,
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(workdir, *arguments, own=((), ())):
    """Two processes of one run; own are the arguments of each."""
    joined = [
        "--distributed",
        f"--coordinator=127.0.0.1:{free_port()}",
        "--num_processes=2",
        "--start_seconds=60",
    ]
    return [start(workdir, *joined, f"--process_id={i}", *arguments, *own[i]) for i in range(2)]


def until_step(process, step):
    """Reads until the line of a step."""
    read = []
    for line in process.stdout:
        read.append(line)
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= step:
            return
    raise AssertionError("".join(read))


def ends(processes, timeout=60):
    """Returns (exit status, output) of each."""
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def test_sigterm_to_one_process_stops_all_at_one_step(tmp_path):
    processes = start_two(tmp_path, *LONG, "--config.train.log_every_steps=5")
    until_step(processes[0], 10)
    asked = time.monotonic()
    processes[1].send_signal(signal.SIGTERM)
    (first, said), (second, also_said) = ends(processes)
    print(f"both ended {time.monotonic() - asked:.1f} s after the signal")
    assert first == second == 0, said + also_said
    told = [[line for line in text.splitlines() if "stopped by" in line] for text in (said, also_said)]
    assert told[0] == told[1] and "which is saved" in told[0][0]
    step = int(told[0][0].split("after step ")[1].split()[0])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()] == [str(step)]
    again = start(tmp_path, *LONG, "--config.train.log_every_steps=5")
    until_step(again, step + 1)
    again.send_signal(signal.SIGINT)
    assert ends([again])[0][0] == 0
