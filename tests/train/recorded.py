"""A run that writes down what it reads and plans.

  python -m tests.train.recorded FOLDER [PORT PROCESSES PROCESS]

It trains FOLDER/wanted.json in FOLDER/run. FOLDER/<process>.jsonl gets a line {"index": [...]} for each
training batch that the step takes, this process's rows, and a line {"assignments": digest, "order": digest}
for each plan of an epoch, and {"state": digest} at the end. STOP_AFTER=N in the environment ends the run
after step N as SIGTERM would, on all processes alike; POISON=N makes training example N an image of NaNs.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.data.pipeline import TrainBatches
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train import build, loop
from imgcls_jax.train.run import run


def write(folder, **line):
    with open(folder / f"{jax.process_index()}.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def record(folder):
    iterate, plan = loop.iterate, loop.Loop._plan

    @contextlib.contextmanager
    def recording(batches, *arguments, **options):
        def written(iterator):
            for batch in iterator:
                if isinstance(batches, TrainBatches):
                    write(folder, index=batch["index"].tolist())
                yield batch

        with iterate(batches, *arguments, **options) as iterator:
            yield written(iterator)

    def recording_plan(self, epoch):
        plan(self, epoch)
        clusters = self.state.objective_state["assignments"]
        write(folder, assignments=digest(np.asarray(clusters)), order=digest(self.order))

    loop.iterate, loop.Loop._plan = recording, recording_plan


def stop_after(step):
    after_step = loop.Loop._after_step

    def interrupted(self):
        if self.step == step:
            self.stop.here = lambda: True
        after_step(self)

    loop.Loop._after_step = interrupted


def poison(index):
    make = build.make_objective

    def poisoned(*arguments):
        objective = make(*arguments)

        def loss(params, objective_state, batch, rng, step):
            bad = (batch["index"] == index)[:, None, None, None]
            image = jnp.where(bad, jnp.nan, batch["image"])
            return objective.loss(params, objective_state, batch | {"image": image}, rng, step)

        return dataclasses.replace(objective, loss=loss, batch_keys=(*objective.batch_keys, "index"))

    build.make_objective = poisoned


def main(folder, port="", processes="1", process="0"):
    if int(processes) > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(process))
    folder = Path(folder)
    record(folder)
    if "STOP_AFTER" in os.environ:
        stop_after(int(os.environ["STOP_AFTER"]))
    if "POISON" in os.environ:
        poison(int(os.environ["POISON"]))
    with contextlib.suppress(Interrupted):
        result = run(json.loads((folder / "wanted.json").read_text()), folder / "run")
        write(folder, state=result["state_digest"])


if __name__ == "__main__":
    main(*sys.argv[1:])
