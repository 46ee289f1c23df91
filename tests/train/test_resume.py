"""A run that is killed, stopped or damaged ends in the same state, to the bit, as one that never was."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOTAL_STEPS = 66  # three epochs of 22 steps; no checkpoint falls on the end of one
ARGUMENTS = [
    "--config=configs/digits_simpleconv3.py",
    "--config.train.total_epochs=3.0",
    "--config.train.eval_every_epochs=0.0",
    "--config.train.checkpoint_every_steps=7",
    "--config.train.log_every_steps=1",
    "--config.data.train_transforms=random_resized_crop(8, (0.6, 1.0)) | affine(10.0) | normalize(0.5, 0.5)",
    "--config.data.eval_transforms=normalize(0.5, 0.5)",
    "--config.objective.ema_decay=0.9",
    "--config.objective.dropout=0.1",
]


def start(workdir, *arguments):
    command = [sys.executable, "-u", "-m", "imgcls_jax.main", f"--workdir={workdir}", *ARGUMENTS, *arguments]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run_to_the_end(workdir, *arguments):
    process = start(workdir, *arguments)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def digest(workdir):
    return json.loads((workdir / "result.json").read_text())["state_digest"]


def kill_at_step(process, step):
    """Kills when the line of a step appears; returns whether the run was still alive for it."""
    for line in process.stdout:
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= step:
            process.kill()
            break
    return process.wait(timeout=120) == -signal.SIGKILL


def kill_in_save(process, checkpoints, after):
    """Kills while the save of a step beyond `after` is under way: its directory is still a temporary one."""
    while process.poll() is None:
        names = (
            [path.name for path in checkpoints.glob("*.orbax-checkpoint-tmp*")]
            if checkpoints.exists()
            else []
        )
        if any(int(name.split(".")[0]) > after for name in names):
            process.kill()
            process.communicate(timeout=120)
            left = [path.name for path in checkpoints.glob("*.orbax-checkpoint-tmp*")]
            return process.returncode == -signal.SIGKILL, bool(left)
        time.sleep(0.0005)
    return False, False


def finished_steps(checkpoints):
    return max((int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()), default=0)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference")
    run_to_the_end(workdir)
    return digest(workdir)


STEP, SAVE = "step", "save"
OFTEN = pytest.param(0, (STEP, SAVE, STEP, SAVE, STEP), marks=pytest.mark.slow)


@pytest.mark.parametrize("num_workers, kinds", [OFTEN, (2, (STEP, SAVE))])
def test_killed_again_and_again(num_workers, kinds, reference, tmp_path):
    rng = random.Random(num_workers)
    workdir, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"
    workers = f"--config.data.num_workers={num_workers}"
    kills_in_save = 0
    for kind in kinds:
        done = finished_steps(checkpoints)
        process = start(workdir, workers)
        if kind == STEP:  # a second save begins when the first has ended: one checkpoint more is there
            last = min(done + 22, TOTAL_STEPS - 2)
            killed = kill_at_step(process, rng.randint(min(done + 15, last), last))
        else:
            killed, caught = kill_in_save(process, checkpoints, done + rng.choice([0, 7]))
            kills_in_save += caught
        assert killed, "the run ended before it could be killed"
    output = run_to_the_end(workdir, workers)
    assert "resumed from the checkpoint of step" in output
    assert digest(workdir) == reference
    assert kills_in_save >= 1
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and set(steps) == set(range(1, TOTAL_STEPS + 1))


HANGUP = pytest.param(
    signal.SIGHUP,
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, reason="under nohup"),
    ],
)


@pytest.mark.parametrize("asked", [signal.SIGTERM, HANGUP])
def test_a_signal_saves_first_and_leaves_cleanly(asked, reference, tmp_path):
    process = start(tmp_path)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step 10/"):
            process.send_signal(asked)
            break
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0, "".join(lines) + rest
    stopped = next(
        line for line in rest.splitlines() if line.startswith(f"stopped by {asked.name} after step")
    )
    step = int(stopped.split("step ")[1].split()[0])
    assert (tmp_path / "checkpoints" / str(step)).is_dir() and not (tmp_path / "result.json").exists()
    assert f"resumed from the checkpoint of step {step}" in run_to_the_end(tmp_path)
    assert digest(tmp_path) == reference
