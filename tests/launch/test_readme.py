"""The commands of launch/README.md do what it says of them, as they are printed there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = re.findall(r"^\| `(\S+)` \| .* \| `(.+)` \|$", (ROOT / "launch" / "README.md").read_text(), re.M)
FILES = ("local.py", "tpu_pod.sh", "slurm.sbatch", "kubernetes.py")


def test_every_launcher_has_a_dry_run():
    assert tuple(file for file, _ in TABLE) == FILES


@pytest.mark.parametrize("file, command", TABLE, ids=[file for file, _ in TABLE])
def test_a_dry_run_as_printed_tells_what_would_run(file, command, tmp_path):
    """Each names main with its arguments and makes nothing: no folder of a run, no call of gcloud or srun."""
    for program in ("gcloud", "srun", "kubectl"):
        (tmp_path / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
        (tmp_path / program).chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    before = sorted(ROOT.iterdir())
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    arguments = command.split(" -- ")[1].split()
    assert "imgcls_jax.main" in done.stdout and all(argument in done.stdout for argument in arguments)
    assert sorted(ROOT.iterdir()) == before and not (tmp_path / "called").exists()
