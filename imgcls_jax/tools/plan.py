"""Says what a run will need before any machine is rented: memory, FLOPs, input rate, steps, disk.

  python -m imgcls_jax.tools.plan --config configs/digits_simpleconv3.py --devices 2
  python -m imgcls_jax.tools.plan --config configs/imagenet_simclr.py --devices 32 --num_examples 1281167 \\
    --num_classes 1000 --steps_per_second 2 [--config.train.batch_size=2048] [--compile] [--format json]

The run's own setup builds the step for that many devices, and checks what training checks; nothing is
computed. Where the data are not on this machine, --num_examples and --num_classes stand in for them: images
of the data set's size, or photos where the transforms set the size, as many of each class.

Memory is that of one device: the state, its share of a batch, and temporaries, estimated from the jaxpr
(step_cost.py) for a GPU or TPU. With `--compile` the estimate is for a CPU, and XLA's own figures for a CPU
stand beside it. Measured with jax 0.10.2 for `:test` of all configurations of this project, the estimate's
total was 0.89 to 1.10 of XLA's on one device and 0.91 to 1.12 on two (`python -m pytest -n0 -m slow -s -k
every_configuration tests/tools/test_plan.py`). A GPU's compiler lays out, fuses and frees otherwise and was
not measured: leave a margin. A loss that compares all examples of a batch (SimCLR's) needs more than its
share.

FLOPs are those of convolutions and matrix products. The devices sum their gradients once a step (once each
part with train.num_microbatches); the sums of BatchNorm are not counted. A checkpoint is the state as it lies
in memory; Orbax's files of a Simpleconv3 after two epochs were 5 % smaller. JSON gives bytes.
Exit status: 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

from imgcls_jax.runtime.command import at_least_one, command, exit_with, importing, parser_of
from imgcls_jax.runtime.mistakes import user_mistake
from imgcls_jax.runtime.names import printable

with importing(__name__):
    import jax

    from imgcls_jax.config.configuration import Configuration
    from imgcls_jax.config.files import read_config
    from imgcls_jax.config.resolve import resolve
    from imgcls_jax.planning import step_cost
    from imgcls_jax.planning.stand_in import PlannedData
    from imgcls_jax.train.compiled import step_and_inputs
    from imgcls_jax.train.phase import Phase
    from imgcls_jax.train.setup import Setup
    from imgcls_jax.train.sharding import TEACHER, WHOLE

MAX_DEVICES = 4096  # what one process plays in half a minute


def plan(configuration: Configuration, stand_in: tuple[int, int] | None, xla: bool) -> dict[str, Any]:
    """Plans a run on the devices at hand.

    Args:
      configuration: of the run.
      stand_in: (N, K) in the place of the data; None to open the data.
      xla: whether to compile, too.

    Returns:
      JSON values: sizes in bytes, the fields that the table shows.

    Raises:
      ValueError, OSError: a mistake in the configuration or the data.
    """
    setup = Setup(configuration, PlannedData(configuration.data, stand_in))
    settings, task, params = setup.settings.train, setup.task, setup.target(0).params
    phases = [plan_phase(setup, phase, xla) for phase in setup.phases]
    kept = settings.keep_checkpoints + bool(settings.best_metric)
    checkpoint = max(phase["state_bytes"] for phase in phases)
    return {
        "devices": setup.mesh.size,
        "num_examples": task.num_examples,
        "num_classes": task.num_classes,
        "image_shape": list(task.image_shape),
        "batch_size": settings.batch_size,
        "steps_per_epoch": task.steps_per_epoch,
        "total_steps": settings.total_steps,
        "params": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "phases": phases,
        "checkpoint_bytes": checkpoint,
        "kept_checkpoints_bytes": kept * checkpoint,
    }


def plan_phase(setup: Setup, phase: Phase, xla: bool) -> dict[str, Any]:
    """Returns what a phase needs; memory is that of one device."""
    step, state, batch = step_and_inputs(setup, phase)
    devices, platform = setup.mesh.size, "cpu" if xla else "cuda"

    def rows(times: int) -> Any:
        def part(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((times * leaf.shape[0] // devices, *leaf.shape[1:]), leaf.dtype)

        return {key: own if key in WHOLE else jax.tree.map(part, own) for key, own in batch.items()}

    share, explicit = rows(1), setup.task.axis_name is not None
    # The form of one replica has a device's share inside, whatever it is given.
    jaxpr = step.trace(state, batch if explicit else share).jaxpr
    wider = step.trace(state, rows(2)).jaxpr if devices > 1 and not explicit else None
    teacher = tree_bytes(batch.get(TEACHER, {}))
    flops = devices * step_cost.flops(jaxpr, platform="cuda")
    memory = {
        "params_bytes": device_bytes(state.params),
        "opt_state_bytes": device_bytes(state.opt_state),
        "objective_state_bytes": device_bytes(state.objective_state),
        "batch_bytes": tree_bytes(share) - teacher,
        "teacher_bytes": teacher,
        "temporary_bytes": step_cost.temporary_bytes(
            jaxpr, platform=platform, wider=wider, donated=len(jax.tree.leaves(state))
        ),
    }
    frozen = phase.frozen or jax.tree.map(lambda _: False, state.params)
    free = jax.tree.map(lambda leaf, held: None if held else leaf, state.params, frozen)
    gradients = tree_bytes(free) * setup.settings.train.num_microbatches
    planned = {
        "name": phase.name,
        "memory_on": platform,
        "steps": phase.stop - phase.start,
        **memory,
        "total_bytes": sum(memory.values()),
        "state_bytes": tree_bytes(state),
        "flops_per_step": flops,
        "flops_per_image": flops / setup.settings.train.batch_size,
        "input_bytes_per_step": tree_bytes(batch) - teacher,
        "all_reduce_bytes": gradients if devices > 1 else 0,
    }
    if xla:
        analysis = step.lower(state, batch).compile().memory_analysis()
        planned["xla_argument_bytes"] = analysis.argument_size_in_bytes
        planned["xla_temporary_bytes"] = analysis.temp_size_in_bytes
    return planned


def tree_bytes(tree: Any) -> int:
    """Returns the bytes of all leaves, keys of random numbers among them."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes(state: Any) -> int:
    """Returns the bytes that one device holds of leaves with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(state)
    )


# ---- telling


def size(number: float) -> str:
    """Returns "12.3 MiB", in KiB, MiB or GiB."""
    power = 1 + (number >= 2**20) + (number >= 2**30)
    return f"{number / 1024**power:,.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def table(planned: dict[str, Any]) -> str:
    """Returns the plan as lines for a reader."""
    height, width, channels = planned["image_shape"]
    lines = [
        f"{planned['num_examples']:,} examples of {planned['num_classes']:,} classes, "
        f"images {height} x {width} x {channels}, {planned['devices']} devices",
        f"{planned['total_steps']:,} steps of {planned['batch_size']:,} images, "
        f"{planned['steps_per_epoch']:,} an epoch; {planned['params']:,} parameters",
    ]
    for phase in planned["phases"]:
        lines += ["", *_phase_lines(phase, planned)]
    once, kept = size(planned["checkpoint_bytes"]), size(planned["kept_checkpoints_bytes"])
    return "\n".join([*lines, "", f"a checkpoint {once}, all that are kept at once {kept}"])


def _phase_lines(phase: dict[str, Any], planned: dict[str, Any]) -> list[str]:
    devices = planned["devices"]
    labels = {
        "params": "parameters",
        "opt_state": "optimizer",
        "objective_state": "objective state",
        "batch": "batch",
        "teacher": "teacher",
        "temporary": "temporaries (estimate)",
        "total": "total (estimate)",
    }
    rows = [(label, phase[f"{name}_bytes"]) for name, label in labels.items()]
    rows = [row for row in rows if row != ("teacher", 0)]
    if "xla_temporary_bytes" in phase:
        total = phase["xla_argument_bytes"] + phase["xla_temporary_bytes"]
        rows += [("temporaries by XLA", phase["xla_temporary_bytes"]), ("total by XLA", total)]
    where = "a CPU" if phase["memory_on"] == "cpu" else "a GPU or TPU"
    lines = [f"{'phase ' + phase['name'] + ', ' + where:30}{'a device':>14}{'in all':>14}"]
    lines += [f"{label:30}{size(one):>14}{size(one * devices):>14}" for label, one in rows]
    images, bytes_a_step = planned["batch_size"], phase["input_bytes_per_step"]
    reduced = phase["all_reduce_bytes"]
    lines += [
        f"a step: {phase['flops_per_step'] / 1e9:,.3f} GFLOP, an image {phase['flops_per_image'] / 1e9:,.3f}",
        f"all-reduce: {size(reduced)} of gradients a step" if reduced else "all-reduce: none",
        f"input: {images:,} images, {size(bytes_a_step)} a step",
    ]
    rate = planned.get("steps_per_second")
    if rate:
        lines.append(
            f"at {rate:g} steps/s: {rate * images:,.0f} images/s, {size(rate * bytes_a_step)}/s of input, "
            f"{rate * phase['flops_per_step'] / 1e12 / devices:,.3f} TFLOP/s a device, "
            f"{phase['steps'] / rate / 3600:,.2f} h"
        )
    return lines


# ---- the command


def _use_devices(number: int) -> None:
    """Makes the CPU look like that many devices; must come before the first use of any."""
    present = jax.config.values
    if present["jax_num_cpu_devices"] != number or present["jax_platforms"] != "cpu":
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", number)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(
        "plan",
        __doc__,
        usage="%(prog)s --config FILE.py[:options] [--config.section.field=value ...] --devices N [...]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--devices", type=at_least_one, required=True, help="GPUs or TPU cores of all machines"
    )
    parser.add_argument("--steps_per_second", type=float, help="to say what input and time it means")
    parser.add_argument("--num_examples", type=at_least_one, help="where the data are absent")
    parser.add_argument("--num_classes", type=at_least_one, help="where the data are absent")
    parser.add_argument("--compile", action="store_true", help="also compile the step and say XLA's memory")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    return parser


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parses the command line; what is not of this tool is of the configuration."""
    parser = _parser()
    arguments, of_config = parser.parse_known_args(argv)
    if (arguments.num_examples is None) != (arguments.num_classes is None):
        parser.error("--num_examples and --num_classes go together")
    rate = arguments.steps_per_second
    if rate is not None and not 0 < rate < math.inf:
        parser.error(f"--steps_per_second must be a positive number, got {rate}")
    if arguments.devices > MAX_DEVICES:
        parser.error(f"--devices goes up to {MAX_DEVICES:,}, got {arguments.devices}")
    return arguments, of_config


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments, of_config = parse_arguments(argv)
    stand_in = (arguments.num_examples, arguments.num_classes) if arguments.num_examples else None
    configuration = resolve(read_config(of_config))
    _use_devices(arguments.devices)
    try:
        planned = plan(configuration, stand_in, arguments.compile)
    except (OSError, ImportError) as error:
        line = user_mistake(error)
        if stand_in or line is None:
            raise
        raise ValueError(
            f"{line}; to plan without the data, give --num_examples and --num_classes"
        ) from error
    if arguments.steps_per_second:
        planned["steps_per_second"] = arguments.steps_per_second
        planned["images_per_second"] = arguments.steps_per_second * planned["batch_size"]
    if arguments.format == "json":
        print(json.dumps(planned, indent=2))
    else:
        print("\n".join(map(printable, table(planned).splitlines())))
    return 0


if __name__ == "__main__":
    exit_with(main)
