"""A long run needs no more of the host's memory than a short one."""

import os

import pytest

from imgcls_jax.train import loop
from tests.train.test_loop import digits_config

EPOCHS, STEPS = 50, 22  # of an epoch
MAX_GROWTH_MIB = 8


def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
def test_host_memory_is_flat_over_fifty_epochs(tmp_path, monkeypatch, capsys):
    """python -m pytest -m slow tests/train/test_growth.py -s; shuffles, evaluates and saves in each epoch."""
    sampled, after_step = [], loop.Loop._after_step

    def sampling(self):
        after_step(self)
        if self.step % STEPS == 0:
            sampled.append(resident_mib())

    monkeypatch.setattr(loop.Loop, "_after_step", sampling)
    config = digits_config(total_steps=EPOCHS * STEPS, log_every_steps=STEPS, eval_every_steps=STEPS)
    loop.run(config, tmp_path)
    with capsys.disabled():
        print("\nRSS in MiB, each fifth epoch:", *(f"{value:.1f}" for value in sampled[4::5]))
    assert len(sampled) == EPOCHS
    assert max(sampled[-5:]) - max(sampled[5:10]) < MAX_GROWTH_MIB
