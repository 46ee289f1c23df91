"""The training step of a phase, compiled for the devices at hand."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

import jax

from imgcls_jax.planning.flops import flops
from imgcls_jax.train import nonfinite, replicas, sharding
from imgcls_jax.train.phase import Phase
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.state import TrainState
from imgcls_jax.train.step import make_outcome, make_train_step, make_train_steps, make_update

# Of XLA for GPUs. To hide what the devices send each other it lets weights' gradients wait, and what these
# read stays in memory: of a network that is computed again (model.remat) up to five times as much.
LATE_GRADIENTS = "xla_gpu_enable_analytical_sol_latency_estimator"


def step_and_inputs(setup: Setup, phase: Phase, steps: int = 1) -> tuple[Any, TrainState, Any]:
    """Returns a phase's step under jit (with train.replicas one of several programs under jit), or several
    steps as one program, and the state and the batch that it takes, in shapes with shardings; the rows of
    several steps are stacked in front."""
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
    train = setup.settings.train
    state = setup.target(phase.stop)
    options: dict[str, Any] = {"donate_argnums": 0, "out_shardings": (setup.shardings(state), setup.sharding)}
    if train.replicas:
        outcome = make_outcome(objective, num_microbatches=train.num_microbatches, frozen=phase.frozen)
        replica = replicas.make_replica(phase.augment, outcome)
        update = replicas.of_total(make_update(objective, phase.tx, phase.frozen), train.replicas)
        update = jax.jit(nonfinite.watch(update, train.on_nonfinite), **options)
        return replicas.by_replicas(replica, update, setup.mesh, train.replicas), state, sample
    step = make_train_step(
        objective,
        phase.tx,
        phase.augment,
        num_microbatches=train.num_microbatches,
        frozen=phase.frozen,
        axis_name=setup.task.axis_name,
        sam_radius=phase.sam_radius,
    )
    if setup.task.axis_name is not None:
        step = sharding.per_replica(step, setup.mesh, sample)
    step = nonfinite.watch(step, train.on_nonfinite)
    if steps > 1:
        step = make_train_steps(step, setup.shardings(state))
    return jax.jit(step, compiler_options=_compiler_options(setup), **options), state, sample


def _compiler_options(setup: Setup) -> dict[str, bool] | None:
    """Returns what XLA is told of a step; a user's own XLA_FLAGS stay."""
    on_gpus = setup.mesh.size > 1 and setup.mesh.devices.flat[0].platform == "gpu"
    recomputed = bool(setup.settings.model.fields.get("remat"))
    told = LATE_GRADIENTS in os.environ.get("XLA_FLAGS", "")
    return {LATE_GRADIENTS: False} if on_gpus and recomputed and not told else None


def compile_step(setup: Setup, phase: Phase, steps: int = 1) -> Any:
    """Compiles a phase's step, or several as one program; prints the FLOPs of its convolutions and matrix
    products, its memory by XLA's own analysis, and of one step the parameter table. With train.replicas its
    programs are compiled at the first step."""
    step, state, batch = step_and_inputs(setup, phase, steps)
    if setup.first_process and steps == 1:
        print(_table(state.params))
    if total := setup.settings.train.replicas:
        if setup.first_process:
            each = total // setup.mesh.size
            print(f"step: {total} replicas, {each} on each device, one after the other", flush=True)
        return step
    start = time.monotonic()
    traced = step.trace(state, batch)
    compiled = traced.lower().compile()
    if setup.first_process:
        told = "step" if steps == 1 else f"{steps} steps in one call"
        platform = setup.mesh.devices.flat[0].platform
        counted = flops(traced.jaxpr, "cuda" if platform == "gpu" else platform) / 1e9
        took = time.monotonic() - start
        print(f"{told}: {counted:.3f} GFLOP; {_memory(compiled)}; compiled in {took:.1f} s", flush=True)
    return compiled


def _table(params: Any) -> str:
    """Returns the table of the params; their number where clu is not installed."""
    try:
        from clu import parameter_overview

        return parameter_overview.get_parameter_overview(params, include_stats=False)
    except ModuleNotFoundError:
        return f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters"


def _memory(compiled: Any) -> str:
    """Returns what XLA says of a compiled program's memory."""
    memory = compiled.memory_analysis()
    mebibytes = {name: getattr(memory, f"{name}_size_in_bytes", 0) / 2**20 for name in ("argument", "temp")}
    return (
        f"memory by XLA: {mebibytes['argument']:.1f} MiB arguments, {mebibytes['temp']:.1f} MiB temporaries"
    )
