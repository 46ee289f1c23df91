"""A long run needs no more of the host's memory than a short one."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EPOCHS, STEPS = 50, 22  # of an epoch
MAX_GROWTH_MIB = 8


def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def sample_a_run(workdir):
    """Trains, evaluates and saves in each epoch; prints the resident memory after each, in MiB."""
    from imgcls_jax.train import loop
    from tests.train.test_loop import digits_config

    sampled, after_step = [], loop.Loop._after_step

    def sampling(self):
        after_step(self)
        if self.step % STEPS == 0:
            sampled.append(resident_mib())

    loop.Loop._after_step = sampling
    config = digits_config(total_steps=EPOCHS * STEPS, log_every_steps=STEPS, eval_every_steps=STEPS)
    loop.run(config, workdir)
    print(json.dumps(sampled))


@pytest.mark.slow
@pytest.mark.xfail(
    reason="some 10 MiB are gained from epoch 15 to 45, a fifth of a MiB an epoch; why is not known"
)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_host_memory_is_flat_over_fifty_epochs(tmp_path):
    """python -m pytest -m slow tests/train/test_growth.py -s; a minute, in a process of its own."""
    command = [sys.executable, "-m", "tests.train.test_growth", str(tmp_path)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    sampled = json.loads(output.stdout.splitlines()[-1])
    print("\nRSS in MiB after each fifth epoch:", *(f"{value:.1f}" for value in sampled[4::5]))
    assert len(sampled) == EPOCHS
    # Medians of ten epochs: what the allocator holds for a moment is no growth.
    assert statistics.median(sampled[-10:]) - statistics.median(sampled[10:20]) < MAX_GROWTH_MIB


if __name__ == "__main__":
    sample_a_run(sys.argv[1])
