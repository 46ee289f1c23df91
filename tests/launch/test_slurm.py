"""launch/slurm.sbatch: its dry run, and what it does after srun, with stand-ins for srun and scontrol."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "slurm.sbatch"


def sbatch(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "JAX_LOCAL"))}
    return subprocess.run(
        ["bash", SCRIPT, *arguments],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=30,
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
