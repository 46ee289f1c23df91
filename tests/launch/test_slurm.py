"""launch/slurm.sbatch: its dry run, and what it does after srun, with stand-ins for srun and scontrol."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "slurm.sbatch"


def sbatch(*arguments, seconds=30, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "JAX_LOCAL"))}
    return subprocess.run(
        ["bash", SCRIPT, *arguments],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def test_dry_run_prints_the_srun_line():
    done = sbatch("--dry_run", "--", "--config", "configs/x.py", "--workdir", "a b")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == (
        "PYTHONUNBUFFERED=1 srun --kill-on-bad-exit=1 --label .venv/bin/python -m imgcls_jax.main "
        r"--distributed --config configs/x.py --workdir a\ b"
    )


def test_a_process_gets_all_devices_and_cores_of_its_node():
    allocation = {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "48", "PYTHON": "/opt/python"}
    done = sbatch("--dry_run", "--", "--workdir=/w", **allocation)
    assert done.stdout.strip() == (
        r"JAX_LOCAL_DEVICE_IDS=0\,1\,2\,3 PYTHONUNBUFFERED=1 srun --kill-on-bad-exit=1 --label "
        "--cpus-per-task=48 /opt/python -m imgcls_jax.main --distributed --workdir=/w"
    )


@pytest.mark.parametrize(
    "arguments",
    [[], ["--"], ["--config=x"], ["--", "--config=x"], ["--", "--workdir"], ["--typo", "--", "x"]],
)
def test_a_mistake_in_the_command_is_one_line_and_2(arguments):
    done = sbatch(*arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "finished,status,said,requeued",
    [(True, 0, "finished", False), (False, 0, "unfinished", True), (False, 9, "failed with status 9", False)],
)
def test_what_is_unfinished_goes_back_into_the_queue(tmp_path, finished, status, said, requeued):
    commands = {"srun": f'echo "srun $JAX_LOCAL_DEVICE_IDS"; exit {status}', "scontrol": 'echo "scontrol $*"'}
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    if finished:
        (tmp_path / "result.json").touch()
    allocation = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "SLURM_GPUS_ON_NODE": "2"}
    done = sbatch("--", "--workdir", str(tmp_path), **allocation)
    assert done.returncode == status and said in done.stdout + done.stderr
    assert "srun 0,1" in done.stdout
    assert ("scontrol requeue 17" in done.stdout) == requeued


def test_the_signal_reaches_the_tasks_and_the_job_may_be_requeued():
    options = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=TERM@300", "--requeue", "--ntasks-per-node=1", "--open-mode=append"} <= set(options)


# Starts two tasks with the variables by which JAX recognises Slurm (jax/_src/clusters/slurm_cluster.py).
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_LOCALID=0
SLURM_PROCID=1 "$@" & SLURM_PROCID=0 "$@" && wait $!
"""


def is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.slow
def test_jax_finds_the_processes_of_a_step(tmp_path):
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    job = next(job for job in range(2**12) if is_free(65535 - 2**12 + 1 + job))  # JAX's port for it
    allocation = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(job),
        "SLURM_GPUS_ON_NODE": "1",
    }
    allocation |= {"JAX_NUM_CPU_DEVICES": "1", "PYTHON": sys.executable}
    config = ["--config", "configs/digits_simpleconv3.py:test", "--config.train.total_epochs=1.0"]
    done = sbatch("--", *config, "--workdir", str(tmp_path / "run"), seconds=300, **allocation)
    assert done.returncode == 0 and "launch: finished" in done.stdout, done.stdout + done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["device"]["processes"], result["device"]["count"]) == (2, 2)
