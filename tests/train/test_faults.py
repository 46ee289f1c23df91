"""What a run does when a process is asked to stop, killed or stopped, fails, or does not fit the others."""

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgcls_jax.train import workdir
from tests.train.test_loop import folder_of_images

ROOT = Path(__file__).parents[2]
CONFIG = f"{ROOT}/configs/digits_simpleconv3.py:test"
LONG = ["--config.train.total_epochs=1000.0", "--config.train.eval_every_epochs=0.0"]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(workdir, *arguments, folder=ROOT):
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
        cwd=folder,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(workdir, *arguments, own=((), ()), folders=(ROOT, ROOT)):
    """Two processes of one run; own are the arguments of each, folders where they start."""
    joined = [
        "--distributed",
        f"--coordinator=127.0.0.1:{free_port()}",
        "--num_processes=2",
        "--start_seconds=60",
    ]
    return [
        start(workdir, *joined, f"--process_id={i}", *arguments, *own[i], folder=folders[i]) for i in range(2)
    ]


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


@pytest.mark.slow
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


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_kill_9_of_one_process_ends_the_other(tmp_path, killed):
    processes = start_two(tmp_path, *LONG, "--config.train.log_every_steps=5")
    until_step(processes[0], 5)
    processes[killed].kill()
    asked = time.monotonic()
    (status, said) = ends([processes[1 - killed]], timeout=30)[0]
    print(f"ended {time.monotonic() - asked:.1f} s after the other")
    processes[killed].communicate()
    assert status not in (0, None) and "Traceback" not in said, said
    # jax's own thread may be quicker where the coordinator is the one that is gone
    assert f"process {1 - killed} of 2 can no longer compute" in said or (
        not killed and "another task died" in said
    )


@pytest.mark.slow
def test_a_process_that_stands_still_ends_the_other(tmp_path):
    processes = start_two(tmp_path, *LONG, "--config.train.log_every_steps=5", "--heartbeat_seconds=4")
    until_step(processes[0], 5)
    processes[1].send_signal(signal.SIGSTOP)
    asked = time.monotonic()
    try:
        (status, said) = ends(processes[:1], timeout=60)[0]
    finally:
        processes[1].kill()
        processes[1].communicate()
    print(f"ended {time.monotonic() - asked:.1f} s after the other stood still")
    assert status not in (0, None) and "task" in said, said


@pytest.mark.parametrize("process_id", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_processes_that_do_not_come_together(tmp_path, process_id):
    asked = time.monotonic()
    process = start(
        tmp_path / "run",
        "--distributed",
        f"--coordinator=127.0.0.1:{free_port()}",
        "--num_processes=2",
        f"--process_id={process_id}",
        "--start_seconds=2",
    )
    status, said = ends([process])[0]
    print(f"ended after {time.monotonic() - asked:.1f} s")
    assert status == 1 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: not all processes of the run came together"), said
    assert not (tmp_path / "run").exists()


def listeners(port):
    """The addresses, in the kernel's hexadecimal, on which something listens at a TCP port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, own = local.partition(":")
            if state == "0A" and int(own, 16) == port:
                found.add(address)
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux lists the listeners")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_coordinator_on_loopback_listens_there_alone(tmp_path, host):
    port = free_port()
    joined = (f"--coordinator={host}:{port}", "--num_processes=2", "--process_id=0", "--start_seconds=60")
    process = start(tmp_path / "run", "--distributed", *joined)
    try:
        deadline = time.monotonic() + 60
        while not listeners(port) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert listeners(port) and all(
            address.endswith(("0100007F", "01000000")) for address in listeners(port)
        )
    finally:
        process.kill()
        process.communicate()


def test_processes_that_differ_are_refused(tmp_path):
    own = (), ("--config.train.seed=5", "--config.data.num_threads=3")
    for status, said in ends(start_two(tmp_path, own=own)):
        assert status == 1 and "Traceback" not in said
        assert (
            "error: the processes of this run differ in config.train.seed: 5 in process 1, 0 in process 0\n"
            in said
        )
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


LISTED = """
import importlib.util
spec = importlib.util.spec_from_file_location("digits", {digits!r})
digits = importlib.util.module_from_spec(spec)
spec.loader.exec_module(digits)

def get_config():
    config = digits.get_config("test")
    line = "decode | resize(8) | normalize(0.5, 0.5)"
    with config.unlocked():
        config.data.update(source="list_file", root="pictures", train_transforms=line, eval_transforms=line)
    config.train.batch_size = 8
    return config
"""


@pytest.fixture
def disks(tmp_path):
    """A folder of images and lists for each of two processes, and in tmp_path a configuration of them."""
    (tmp_path / "config.py").write_text(LISTED.format(digits=str(ROOT / "configs" / "digits_simpleconv3.py")))
    folders = [tmp_path / "0", tmp_path / "1"]
    for folder in folders:
        folder_of_images(folder / "pictures")
        lines = [
            f"train/{name}/{i}.png {label}\n"
            for i in range(12)
            for label, name in enumerate(("dark", "light"))
        ]
        for split in ("train", "test"):
            (folder / "pictures" / f"{split}.txt").write_text("".join(lines))
    return folders


@pytest.mark.parametrize("failing", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_one_process_cannot_read_ends_all(tmp_path, disks, failing):
    """Process 0's disk lacks the folder, or a line of process 1's list is damaged."""
    if failing == 0:
        shutil.rmtree(disks[0] / "pictures")
    else:
        (disks[1] / "pictures" / "train.txt").write_text("train/dark/0.png 0\ntrain/light/0.png\n")
    asked = time.monotonic()
    endings = ends(start_two(tmp_path / "run", f"--config={tmp_path}/config.py", folders=disks))
    print(f"both ended {time.monotonic() - asked:.1f} s after their start")
    for status, said in endings:
        assert status == 1 and "Traceback" not in said
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and errors[0].startswith(f"error: process {failing}: "), said
        assert ("pictures" if failing == 0 else "train.txt, line 2") in errors[0]


@pytest.mark.parametrize(
    "split, what",
    [
        ("train", "examples to train on"),
        pytest.param("test", "examples of the split 'test'", marks=pytest.mark.slow),
    ],
)
def test_data_that_differ_in_size_are_refused_at_the_start(tmp_path, disks, split, what):
    listed = disks[1] / "pictures" / f"{split}.txt"
    listed.write_text("".join(listed.read_text().splitlines(keepends=True)[:-2]))
    asked = time.monotonic()
    endings = ends(start_two(tmp_path / "run", f"--config={tmp_path}/config.py", folders=disks))
    print(f"both ended {time.monotonic() - asked:.1f} s after their start")
    for status, said in endings:
        assert status == 1 and "Traceback" not in said and "step " not in said
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, said
        assert "the processes of this run differ in " in errors[0]
        assert f"{what}: 22 in process 1, 24 in process 0" in errors[0]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]


@pytest.mark.slow
def test_an_evaluation_that_fails_in_one_process_loses_no_step(tmp_path, disks):
    """An image of the evaluated split is damaged on the disk of process 0, which reads it."""
    for folder in disks:
        picture = folder / "pictures" / "late.png"
        shutil.copy(folder / "pictures" / "train" / "dark" / "0.png", picture)
        with (folder / "pictures" / "test.txt").open("a") as file:
            file.write("late.png 0\n")
    late = disks[0] / "pictures" / "late.png"
    content = late.read_bytes()
    late.write_bytes(content[:60])
    text = LISTED.format(digits=str(ROOT / "configs" / "digits_simpleconv3.py"))
    best = '    with config.unlocked():\n        config.train.best_metric = "test/accuracy"\n'
    (tmp_path / "config.py").write_text(text.replace("    return config", f"{best}    return config"))
    config = [f"--config={tmp_path}/config.py"]
    (status, said), (other, also_said) = ends(start_two(tmp_path / "run", *config, folders=disks), 120)
    assert status == 1 and other not in (0, None) and "Traceback" not in said + also_said
    told = next(line for line in said.splitlines() if line.startswith("error: "))
    assert told.startswith("error: process 0: the evaluation 'test' failed: ") and "late.png" in told
    step = int(told.split("The state of step ")[1].split()[0])
    assert step >= 1 and (tmp_path / "run" / "checkpoints" / str(step)).is_dir()
    late.write_bytes(content)
    for status, said in ends(start_two(tmp_path / "run", *config, folders=disks), 120):
        assert status == 0, said
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line["step"] for line in lines if "test/accuracy" in line]
    assert len(evaluated) == len(set(evaluated)) >= 1 and evaluated[0] == step


def test_a_workdir_takes_one_run_at_a_time(tmp_path):
    """Refused while another process holds it; free again once that one was killed."""
    code = f"""
import time
from pathlib import Path
from imgcls_jax.train import workdir
with workdir.lock(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        status, said = ends([start(tmp_path)])[0]
    finally:
        holder.kill()
        holder.communicate()
    assert status == 1 and "Traceback" not in said
    assert f"error: {tmp_path} is in use by process {holder.pid} on {platform.node()}" in said
    with workdir.lock(tmp_path):
        pass
    assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()


FILL = """
mount -t tmpfs -o size=$2k tmpfs "$1" || exit 99
shift 2
"$@"
echo "status $?"
mount -o remount,size=64m "$OUT/disk" && "$@" && cp "$OUT/disk/run/result.json" "$OUT/result.json"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "kibibytes, every, path", [(6000, 4, "run/checkpoints"), (24, 100, "run"), (12, 100, "run")]
)
def test_a_full_disk_is_told_and_with_room_the_run_ends_alike(kibibytes, every, path, tmp_path):
    """A disk for two checkpoints, and two too small for the metrics, on a tmpfs of its own."""
    (tmp_path / "disk").mkdir()
    often = [f"--config.train.checkpoint_every_steps={every}", "--config.train.log_every_steps=1"]
    often += ["--config.train.keep_checkpoints=99"]
    command = [sys.executable, "-m", "imgcls_jax.main", f"--config={CONFIG}", *often]
    filling = ["unshare", "-rm", "sh", "-c", FILL, "sh", str(tmp_path / "disk"), str(kibibytes)]
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 200}
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "disk")]).returncode:
        pytest.skip("no file system can be mounted here")
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "OUT": str(tmp_path)}
    filled = subprocess.run(
        [*filling, *command, f"--workdir={tmp_path}/disk/run"], env=environment, **options
    )
    assert filled.returncode == 0 and "status 1\n" in filled.stdout, filled.stderr
    told = [line for line in filled.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and f"{tmp_path}/disk/{path}" in told[0], filled.stderr
    assert "same command goes on" in told[0] and "Traceback" not in filled.stderr
    assert ("resumed from the checkpoint of step 8" in filled.stdout) == (every == 4)
    subprocess.run([*command, f"--workdir={tmp_path}/whole"], env=environment, check=True, **options)
    ends = [json.loads((folder / "result.json").read_text()) for folder in (tmp_path, tmp_path / "whole")]
    assert ends[0]["state_digest"] == ends[1]["state_digest"] and ends[0]["metrics"] == ends[1]["metrics"]
