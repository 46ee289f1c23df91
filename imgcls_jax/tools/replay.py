"""Repeats a step that was not finite, and says where the first NaN or infinity is.

  python -m imgcls_jax.tools.replay --workdir runs/digits nonfinite_1234.json

The run's own loop goes from the newest checkpoint before the step to the first step whose loss or state is
not finite (with train.on_nonfinite = "skip" to the recorded step itself), with the same batches and
randomness, and writes nothing into the workdir. On another kind or number of devices the last bits differ,
and so may the step.

It prints the leaves that hold a NaN or an infinity: the params, the objective's state, the optimizer's
state and the prepared batch before the step, the step's metrics and gradients, and the state after it. Then
it prints the images whose loss is not finite when each fills a batch by itself; a loss that compares examples
may be finite then, or not be defined. With train.num_microbatches the gradients are those of the whole batch
at once, whose draws in the loss differ.
Exit status: 0 where something is not finite, 1 where all is, 2 for a mistake.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.command import (
    add_data,
    command,
    exit_with,
    importing,
    parser_of,
    user_path,
    workdir_path,
)
from imgcls_jax.runtime.files import read_json
from imgcls_jax.runtime.names import printable
from imgcls_jax.runtime.stop import StopRequest

with importing(__name__):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from imgcls_jax.contracts.objective import Batch
    from imgcls_jax.train import nonfinite
    from imgcls_jax.train.checkpoint import Checkpoints
    from imgcls_jax.train.initial import first_state, locate_weights
    from imgcls_jax.train.known_data import require_open
    from imgcls_jax.train.loop import Loop
    from imgcls_jax.train.nonfinite import Incidents
    from imgcls_jax.train.phase import Phase
    from imgcls_jax.train.run import restore
    from imgcls_jax.train.setup import Setup
    from imgcls_jax.train.spent import Spent
    from imgcls_jax.train.state import TrainState
    from imgcls_jax.train.workdir import load_configuration
    from imgcls_jax.train.writer import MetricWriter


class _Found(Exception):
    """The step to look at: the state before it, its batch, the state after it, its metrics."""


class _Replay(Loop):
    """The loop up to the step in question: nothing is evaluated, saved or told."""

    wanted: int
    skips: bool

    def _lengths(self, phase: Phase) -> list[int]:
        return [1]

    def _take(self, compiled: Any, batch: Batch, steps: int) -> None:
        before = self.setup.copy(self.state)
        super()._take(compiled, batch, steps)
        if self.step in self.incidents.left_out and self.step != self.wanted:
            return
        _, metrics = self.progress.pending.pop()
        metrics = jax.device_get(metrics)
        bad = not nonfinite.is_finite(metrics) or any(not_finite({"params": self.state.params}))
        if self.step == self.wanted or (bad and not self.skips):
            raise _Found(before, batch, self.state, metrics)

    def _after_step(self) -> None:
        pass


def not_finite(trees: dict[str, Any]) -> Iterator[str]:
    """Yields a line for each leaf of named trees that holds a NaN or an infinity."""
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                continue
            values = np.asarray(leaf, np.float32)
            counts = {"NaN": np.isnan(values).sum(), "infinite": np.isinf(values).sum()}
            shown = ", ".join(f"{count} of {values.size} {kind}" for kind, count in counts.items() if count)
            if shown:
                where = jax.tree_util.keystr(path, simple=True, separator="/")
                yield f"{name} {where}: {shown}"


def find(setup: Setup, workdir: Path, step: int) -> tuple[_Replay, tuple[Any, ...], str]:
    """Goes to the first step that is not finite.

    Args:
      setup: of the workdir's configuration.
      workdir: of the run.
      step: the recorded one, counted from 1.

    Returns:
      (loop, (state before, batch, state after, metrics), where it began).
    """
    if setup.teacher is not None:
        setup.teacher.require_same(workdir)
    incidents = Incidents(workdir, setup.settings.train.on_nonfinite, write=False)
    incidents.left_out -= {step}
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        restored = restore(setup, checkpoints, before=step)
        state, order = restored or first_state(setup, locate_weights(setup, workdir))
        began = f"the checkpoint of step {int(state.step)}" if restored else "the beginning"
        writer = MetricWriter(workdir, active=False)
        stop = StopRequest()  # not entered: there is nothing to save, and Ctrl-C ends the command
        loop = _Replay(setup, state, order, checkpoints, writer, stop, incidents, Spent(), {})
        loop.wanted, loop.skips = step, setup.settings.train.on_nonfinite == "skip"
        try:
            loop.advance()
        except _Found as found:
            return loop, found.args, began
    raise ValueError(f"the run ends before step {step}: is this its workdir?")


def examine(loop: _Replay, before: TrainState, batch: Batch) -> tuple[Batch, Any, Any]:
    """Returns (prepared batch, gradients, losses float32 [B] of the examples alone; None where undefined)."""
    phase = loop.phase
    rng_augment, rng_loss = jax.random.split(jax.random.fold_in(before.rng, before.step))
    prepared = jax.jit(phase.augment)(rng_augment, batch)
    inputs = before.params, before.objective_state
    grads = jax.jit(jax.grad(phase.objective.loss, has_aux=True))(*inputs, prepared, rng_loss, before.step)[0]

    def alone(example: Batch) -> jax.Array:
        pair = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), example)
        return phase.objective.loss(*inputs, pair, rng_loss, before.step)[0].astype(jnp.float32)

    try:
        examples = {key: prepared[key] for key in loop.setup.objective.batch_keys}
        losses = np.asarray(jax.jit(lambda rows: jax.lax.map(alone, rows))(examples))
    except (TypeError, ValueError):  # a loss that needs more than one example, or a second stream
        losses = None
    return prepared, grads, losses


def report(setup: Setup, workdir: Path, step: int) -> tuple[list[str], bool]:
    """Returns what is to be said, and whether anything is not finite; arguments as of find."""
    loop, (before, batch, after, metrics), began = find(setup, workdir, step)
    prepared, grads, losses = examine(loop, before, batch)
    state = {
        "params": before.params,
        "objective_state": before.objective_state,
        "opt_state": before.opt_state,
    }
    going_in = [*not_finite(state), *not_finite({"batch": prepared})]
    metrics = {name: np.asarray(value) for name, value in metrics.items()}
    coming_out = [*not_finite({"metric": metrics, "gradient": grads})]
    left = [
        *not_finite(
            {"params": after.params, "objective_state": after.objective_state, "opt_state": after.opt_state}
        )
    ]
    lines = [f"from {began} to step {loop.step}" + (f" of {step} wanted" if loop.step != step else "")]
    bad = bool(going_in or coming_out or left)
    lines.append(f"step {loop.step} is the first that is not finite" if bad else "all of the step is finite")
    for title, found in (
        ("before the step", going_in),
        ("in the step", coming_out),
        ("after the step", left),
    ):
        lines += [f"{title}:", *(f"  {line}" for line in found or ["all finite"])]
    return lines + _examples(loop, losses), bad


def _examples(loop: _Replay, losses: np.ndarray | None) -> list[str]:
    """Returns lines on the images whose own loss is not finite."""
    if losses is None:
        return ["the loss of one example alone is not defined"]
    batches, source = loop._batches(), loop.setup.data.training
    epoch, position = divmod(loop.step - 1, batches.steps_per_epoch)
    rows = batches.order_of(epoch)[position * batches.batch_size :]
    bad = np.flatnonzero(~np.isfinite(losses))
    lines = [f"images with a loss that is not finite, each alone: {len(bad)} of {len(losses)}"]
    return lines + [f"  {source.describe(int(rows[row]))}: {losses[row]}" for row in bad[:20]]


def recorded_step(workdir: Path, record: Path) -> int:
    """Returns the step that a record names, looked for in the workdir first.

    Raises:
      ValueError: it is absent or names no step.
    """
    inside = workdir / record
    step = read_json(inside if inside.exists() else record).get("step")
    if not isinstance(step, int) or step < 1:
        raise ValueError(f"{record} names no step")
    return step


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints what a step computed; returns the exit status."""
    parser = parser_of("replay", __doc__)
    parser.add_argument("--workdir", type=workdir_path, required=True, help="of the run")
    parser.add_argument("record", type=user_path, help="nonfinite_STEP.json, in the workdir or a path")
    add_data(parser)
    arguments = parser.parse_args(argv)
    step = recorded_step(arguments.workdir, arguments.record)
    configuration = require_open(load_configuration(arguments.workdir), arguments.workdir, arguments)
    lines, bad = report(Setup(configuration), arguments.workdir, step)
    print("\n".join(map(printable, lines)))
    return 0 if bad else 1


if __name__ == "__main__":
    exit_with(main)
