"""A long run holds no more of the host's memory than a short one.

What a run holds is what it has asked of malloc and not given back. Its resident memory is more: each of the
threads by which Orbax saves has an arena of its own in glibc, which keeps for the next save what this one
freed. MALLOC_ARENA_MAX=1 in the environment makes it one arena; without saves nothing grows at all.

What saves do hold:
- once or twice in a run some 3.5 MiB that then stay; saves without OCDBT keep nothing of the kind;
- a leak in tensorstore (seen in 0.1.71 to 0.1.86): its JsonToPyObject hands PyDict_SetItem, which takes no
  reference, one to each key and value. Orbax asks for such dicts of every array that it saves: half a KiB an
  array and save, some 30 KiB a save here.
"""

import ctypes
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EPOCHS, STEPS = 50, 22  # of an epoch
MAX_GROWTH_MIB = {"held": 8, "resident": 16}
LIBC = ctypes.CDLL(None)


class Mallinfo2(ctypes.Structure):
    """glibc's; what malloc gave out is uordblks and, of large blocks, hblkhd."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def memory_mib():
    LIBC.mallinfo2.restype = Mallinfo2
    info = LIBC.mallinfo2()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {"held": (info.uordblks + info.hblkhd) / 2**20, "resident": resident / 2**20}


def sample_a_run(workdir):
    """Trains, evaluates and saves in each epoch; prints the memory after each."""
    from imgcls_jax.train import loop
    from imgcls_jax.train.run import run
    from tests.train.test_loop import digits_config

    sampled, after_step = [], loop.Loop._after_step

    def sampling(self):
        after_step(self)
        if self.step % STEPS == 0:
            self.save(wait=True)
            sampled.append(memory_mib())

    loop.Loop._after_step = sampling
    config = digits_config(total_steps=EPOCHS * STEPS, log_every_steps=STEPS, eval_every_steps=STEPS)
    run(config, workdir)
    print(json.dumps(sampled))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(LIBC, "mallinfo2"), reason="glibc 2.33 tells how much of malloc's is in use")
@pytest.mark.parametrize("devices", [1, 8])
def test_host_memory_is_flat_over_fifty_epochs(devices, tmp_path):
    """python -m pytest -m slow tests/train/test_growth.py -s; a minute or two, in a process of its own."""
    command = [sys.executable, "-m", "tests.train.test_growth", str(tmp_path)]
    # So that Python's objects are malloc's too.
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONMALLOC": "malloc"}
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    sampled = json.loads(output.stdout.splitlines()[-1])
    assert len(sampled) == EPOCHS
    for kind, most in MAX_GROWTH_MIB.items():
        values = [sample[kind] for sample in sampled]
        print(f"\n{kind} MiB after each fifth epoch:", *(f"{value:.1f}" for value in values[4::5]), end="")
        # Medians of ten epochs: what is held for a moment is no growth.
        assert statistics.median(values[-10:]) - statistics.median(values[10:20]) < most, kind


if __name__ == "__main__":
    sample_a_run(sys.argv[1])
