"""The training step of a phase, compiled for the devices at hand."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax

from imgcls_jax.train import nonfinite, sharding
from imgcls_jax.train.phase import Phase
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.state import TrainState
from imgcls_jax.train.step import make_train_step, make_train_steps


def step_and_inputs(setup: Setup, phase: Phase, steps: int = 1) -> tuple[Any, TrainState, Any]:
    """Returns a phase's step under jit, or several as one program, and the state and the batch that it takes,
    in shapes with shardings; the rows of several steps are stacked in front."""
    stacked = (steps,) if steps > 1 else ()
    split = sharding.split_batch(setup.mesh, stacked=steps > 1)

    def of_all_processes(leaf: Any, rows: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*stacked, rows, *leaf.shape[1:]), leaf.dtype, sharding=split)

    processes = jax.process_count()
    spec = setup.rows_of(phase)
    sample = jax.tree.map(lambda leaf: of_all_processes(leaf, leaf.shape[0] * processes), spec)
    if phase.features is not None:
        sample["image"] = jax.tree.map(
            lambda leaf: of_all_processes(leaf, setup.settings.train.batch_size), phase.features
        )
    sample |= jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=setup.sharding),
        setup.shapes_beside_rows(phase),
    )
    objective = phase.objective
    if setup.settings.train.parallel == "sharded":
        loss = objective.loss
        objective = dataclasses.replace(
            objective, loss=lambda params, *inputs: loss(setup.gathered(params), *inputs)
        )
    on_cpu = setup.mesh.devices.flat[0].platform == "cpu"
    step = make_train_step(
        objective,
        phase.tx,
        phase.augment,
        num_microbatches=setup.settings.train.num_microbatches,
        frozen=phase.frozen,
        axis_name=setup.task.axis_name,
        sam_radius=phase.sam_radius,
        on_cpu=on_cpu,
    )
    if setup.task.axis_name is not None:
        step = sharding.per_replica(step, setup.mesh, sample)
    step = nonfinite.watch(step, setup.settings.train.on_nonfinite)
    state = setup.target(phase.stop)
    shardings = (setup.shardings(state), setup.sharding)
    if steps > 1:
        step = make_train_steps(step, shardings[0], on_cpu=on_cpu)
    return jax.jit(step, donate_argnums=0, out_shardings=shardings), state, sample


def compile_step(setup: Setup, phase: Phase, steps: int = 1) -> Any:
    """Compiles a phase's step, or several as one program; prints FLOPs and memory by XLA's own analysis, and
    of one step the parameter table."""
    step, state, batch = step_and_inputs(setup, phase, steps)
    start = time.monotonic()
    compiled = step.lower(state, batch).compile()
    if setup.first_process:
        if steps == 1:
            print(_table(state.params))
        told = "step" if steps == 1 else f"{steps} steps in one call"
        print(f"{told}: {_analysis(compiled)}; compiled in {time.monotonic() - start:.1f} s", flush=True)
    return compiled


def _table(params: Any) -> str:
    """Returns the table of the params; their number where clu is not installed."""
    try:
        from clu import parameter_overview

        return parameter_overview.get_parameter_overview(params, include_stats=False)
    except ModuleNotFoundError:
        return f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters"


def _analysis(compiled: Any) -> str:
    """Returns what XLA says of a compiled program."""
    flops = (compiled.cost_analysis() or {}).get("flops", float("nan"))
    memory = compiled.memory_analysis()
    mebibytes = {name: getattr(memory, f"{name}_size_in_bytes", 0) / 2**20 for name in ("argument", "temp")}
    return (
        f"{flops / 1e9:.3f} GFLOP; memory by XLA: {mebibytes['argument']:.1f} MiB arguments, "
        f"{mebibytes['temp']:.1f} MiB temporaries"
    )
