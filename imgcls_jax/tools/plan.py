"""Says what a run will need before any machine is rented: memory, FLOPs, input rate, steps, disk.

  python -m imgcls_jax.tools.plan --config configs/digits_simpleconv3.py --target cpu:2
  python -m imgcls_jax.tools.plan --config configs/imagenet_resnet50.py --target h100:8 \\
    --num_examples 1281167 --num_classes 1000 [--largest_batch] [--steps_per_second 20] [--format json]
  python -m imgcls_jax.tools.plan --config configs/imagenet_simclr.py --devices 32 --num_examples 1281167 \\
    --num_classes 1000

The run's own setup builds the step for that many devices, and checks what training checks; nothing is
computed. Where the data are not on this machine, --num_examples and --num_classes stand in for them: images
of the data set's size, or photos where the transforms set the size, as many of each class.

`--target` compiles the step by the target's own compiler, which needs no device: h100:8, h200:1, a100:8 after
pip install 'imgcls-jax[cuda12]', v5e:4x4, v4:2x2x1, v5p:..., v6e:... after pip install 'imgcls-jax[tpu]', and
cpu:2. It says memory of one device, what devices send each other, and the kernels. What a GPU is best at is
found by trying, which needs the GPU: there other forms, and other temporaries, may be chosen. A program fits
a GPU whose memory, less a GiB for CUDA and cuDNN, holds it; JAX takes three quarters of the memory unless
XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise. TPUs' compilers refuse what does not fit. `--largest_batch`
searches the largest train.batch_size that fits. Without `--target`, sizes and FLOPs alone.

FLOPs are those of convolutions and matrix products. A checkpoint is the state as it lies in memory; Orbax's
files of a Simpleconv3 after two epochs were 5 % smaller. JSON gives bytes.
Exit status: 0, also where the run does not fit; 2 for a mistake.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from imgcls_jax.runtime.command import at_least_one, command, exit_with, importing, parser_of
from imgcls_jax.runtime.mistakes import user_mistake
from imgcls_jax.runtime.names import printable

with importing(__name__):
    import jax

    from imgcls_jax.config.configuration import Configuration
    from imgcls_jax.config.files import read_config
    from imgcls_jax.config.resolve import resolve
    from imgcls_jax.planning import compiled, targets
    from imgcls_jax.planning.flops import flops
    from imgcls_jax.planning.stand_in import PlannedData
    from imgcls_jax.planning.targets import Target
    from imgcls_jax.train.compiled import step_and_inputs
    from imgcls_jax.train.phase import Phase
    from imgcls_jax.train.setup import Setup
    from imgcls_jax.train.sharding import WHOLE, data_mesh

MAX_DEVICES = 4096  # what one process plays in half a minute


def plan(
    configuration: Configuration, stand_in: tuple[int, int] | None, target: Target | None = None
) -> dict[str, Any]:
    """Plans a run on the devices at hand, or on those of a target.

    Args:
      configuration: of the run.
      stand_in: (N, K) in the place of the data; None to open the data.
      target: to compile for; None to compile nothing.

    Returns:
      JSON values: sizes in bytes, the fields that the table shows.

    Raises:
      ValueError, OSError: a mistake in the configuration or the data.
    """
    data = PlannedData(configuration.data, stand_in)
    setup = Setup(configuration, data, None if target is None else target.mesh)
    settings, task, params = setup.settings.train, setup.task, setup.target(0).params
    phases = [plan_phase(setup, phase, target) for phase in setup.phases]
    kept = settings.keep_checkpoints + bool(settings.best_metric)
    checkpoint = max(phase["state_bytes"] for phase in phases)
    return {
        "devices": setup.mesh.size,
        **({} if target is None else {"target": target.name, **_chip(target)}),
        "num_examples": task.num_examples,
        "num_classes": task.num_classes,
        "image_shape": list(task.image_shape),
        "batch_size": settings.batch_size,
        "num_microbatches": settings.num_microbatches,
        "steps_per_epoch": task.steps_per_epoch,
        "total_steps": settings.total_steps,
        "params": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "phases": phases,
        "checkpoint_bytes": checkpoint,
        "kept_checkpoints_bytes": kept * checkpoint,
    }


def _chip(target: Target) -> dict[str, Any]:
    chip = target.chip
    if chip is None:
        return {}
    return {"chip": chip.title, "chip_memory_bytes": chip.memory, "chip_source": chip.source}


def plan_phase(setup: Setup, phase: Phase, target: Target | None) -> dict[str, Any]:
    """Returns what a phase needs; memory is that of one device."""
    step, state, batch = step_and_inputs(setup, phase)
    devices, explicit = setup.mesh.size, setup.task.axis_name is not None
    replicas = setup.settings.train.replicas
    if replicas and target is not None:
        raise ValueError(
            "--target compiles a step as one program, and config.train.replicas makes several of it: plan "
            "with --devices, or with --config.train.replicas=0"
        )
    traced = (jax.jit(step) if replicas else step).trace(state, batch)
    counted = flops(traced.jaxpr, "cuda" if target is None else target.platform)
    if explicit:  # the form of one replica has a device's share inside
        counted *= devices
    rows = {key: own for key, own in batch.items() if key not in WHOLE}
    frozen = phase.frozen or jax.tree.map(lambda _: False, state.params)
    free = jax.tree.map(lambda leaf, held: None if held else leaf, state.params, frozen)
    gradients = tree_bytes(free) * setup.settings.train.num_microbatches
    planned = {
        "name": phase.name,
        "steps": phase.stop - phase.start,
        "params_bytes": device_bytes(state.params),
        "opt_state_bytes": device_bytes(state.opt_state),
        "objective_state_bytes": device_bytes(state.objective_state),
        "batch_bytes": tree_bytes(rows) // devices,
        "beside_bytes": tree_bytes({key: own for key, own in batch.items() if key in WHOLE}),
        "state_bytes": tree_bytes(state),
        "flops_per_step": counted,
        "flops_per_image": counted / setup.settings.train.batch_size,
        "input_bytes_per_step": tree_bytes(rows),
        "gradient_bytes": gradients if devices > 1 else 0,
    }
    return planned if target is None else planned | {"compiled": _compiled(traced.lower(), target)}


def _compiled(lowered: Any, target: Target) -> dict[str, Any]:
    """Returns what the target's compiler says of a step, and whether it fits."""
    started = time.monotonic()
    try:
        program = compiled.compile_for(target, lowered)
    except MemoryError as error:
        return {"fits": False, "refused": str(error), "seconds": time.monotonic() - started}
    said = compiled.describe(program)
    fits = None if target.chip is None else target.memory is None or said["total_bytes"] <= target.memory
    return said | {"fits": fits, "seconds": time.monotonic() - started}


def largest_batch(fits: Callable[[int], bool], first: int, multiple: int) -> int:
    """Returns the largest batch that fits, to within a sixteenth; 0 where none does.

    Args:
      fits: of a batch size, a multiple of `multiple`.
      first: the batch size to begin with.
      multiple: what batches have to be a multiple of.
    """
    low, high = 0, first // multiple  # in multiples; high is not known to fit
    while high and fits(high * multiple):
        low, high = high, 2 * high
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * multiple) else (low, middle)
    return low * multiple


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
        f"images {height} x {width} x {channels}, {planned['devices']} devices"
        + (f" ({planned['chip']})" if "chip" in planned else ""),
        f"{planned['total_steps']:,} steps of {planned['batch_size']:,} images, "
        f"{planned['steps_per_epoch']:,} an epoch; {planned['params']:,} parameters",
    ]
    for phase in planned["phases"]:
        lines += ["", *_phase_lines(phase, planned)]
    once, kept = size(planned["checkpoint_bytes"]), size(planned["kept_checkpoints_bytes"])
    lines += ["", f"a checkpoint {once}, all that are kept at once {kept}"]
    if "largest_batch" in planned:
        lines.append(f"the largest train.batch_size that fits: {planned['largest_batch']:,}")
    return "\n".join(lines)


def _phase_lines(phase: dict[str, Any], planned: dict[str, Any]) -> list[str]:
    devices = planned["devices"]
    labels = {
        "params": "parameters",
        "opt_state": "optimizer",
        "objective_state": "objective state",
        "batch": "batch",
        "beside": "teacher, images",
    }
    rows = [(label, phase[f"{name}_bytes"]) for name, label in labels.items()]
    if not phase["beside_bytes"]:
        rows.pop()
    said = phase.get("compiled", {})
    if "total_bytes" in said:
        rows += [("temporaries", said["temporary_bytes"]), ("total", said["total_bytes"])]
    lines = [f"{'phase ' + phase['name']:30}{'a device':>14}{'in all':>14}"]
    lines += [f"{label:30}{size(one):>14}{size(one * devices):>14}" for label, one in rows]
    lines += _said(said, planned)
    images, bytes_a_step = planned["batch_size"], phase["input_bytes_per_step"]
    summed = phase["gradient_bytes"]
    lines += [
        f"a step: {phase['flops_per_step'] / 1e9:,.3f} GFLOP, an image {phase['flops_per_image'] / 1e9:,.3f}",
        f"gradients to sum over devices: {size(summed)} a step" if summed else "no gradients to sum",
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


def _said(said: dict[str, Any], planned: dict[str, Any]) -> list[str]:
    """Returns the lines of what the compiler said."""
    if not said:
        return []
    if said["fits"] is not None:
        memory = f"{size(planned['chip_memory_bytes'])} of {planned['chip']} ({planned['chip_source']})"
        why = f": {said['refused']}" if "refused" in said else ""
        lines = [f"{'fits' if said['fits'] else 'DOES NOT FIT'} the {memory}{why}"]
    else:
        lines = []
    if "kernels" in said:
        sent = [f"{own['count']} {name} of {size(own['bytes'])}" for name, own in said["collectives"].items()]
        lines.append(f"devices send each other: {', '.join(sent) or 'nothing'} a step")
        kinds = [f"{count:,} {name}" for name, count in said["kernels"].items()]
        kinds += [f"{count} convolutions in {dtype}" for dtype, count in said["convolutions"].items()]
        lines.append(f"a step runs {', '.join(kinds)}")
    return [*lines, f"compiled in {said['seconds']:.0f} s"]


# ---- the command


def _use_cpus(number: int | None) -> None:
    """Plans on this machine's processor, which looks like that many devices where a number is given; comes
    before the first use of any."""
    wanted = {"jax_platforms": "cpu"} | ({} if number is None else {"jax_num_cpu_devices": number})
    for name, value in wanted.items():
        if jax.config.values[name] != value:
            jax.config.update(name, value)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(
        "plan",
        __doc__,
        usage="%(prog)s --config FILE.py[:options] [--config.section.field=value ...] --target h100:8 [...]",
        allow_abbrev=False,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--target", help="cpu:2, h100:8, h200:1, a100:8, v5e:4x4, ...: compile for these")
    where.add_argument("--devices", type=at_least_one, help="how many; compile nothing")
    parser.add_argument("--steps_per_second", type=float, help="to say what input and time it means")
    parser.add_argument("--num_examples", type=at_least_one, help="where the data are absent")
    parser.add_argument("--num_classes", type=at_least_one, help="where the data are absent")
    parser.add_argument("--largest_batch", action="store_true", help="search it; some compilations more")
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
    try:
        kind, count = (
            ("cpu", str(arguments.devices)) if arguments.devices else targets.parse(arguments.target)
        )
    except ValueError as error:
        parser.error(str(error))
    arguments.cpus = int(count) if kind == "cpu" else None
    if arguments.cpus and arguments.cpus > MAX_DEVICES:
        flag = "--devices" if arguments.devices else "--target=cpu:"
        parser.error(f"{flag} goes up to {MAX_DEVICES:,}, got {arguments.cpus}")
    if arguments.largest_batch and kind == "cpu":
        parser.error("--largest_batch needs a --target whose memory is known: a GPU or a TPU")
    return arguments, of_config


def _searched(
    of_config: Sequence[str], stand_in: tuple[int, int] | None, target: Target, planned: dict[str, Any]
) -> int:
    """Returns the largest batch of a run that fits in each of its phases."""

    def fit(phases: Sequence[dict[str, Any]]) -> bool:
        return all(phase["compiled"]["fits"] for phase in phases)

    def fits(batch_size: int) -> bool:
        if batch_size == planned["batch_size"]:
            return fit(planned["phases"])
        if batch_size > planned["num_examples"]:
            return False
        other = resolve(read_config([*of_config, f"--config.train.batch_size={batch_size}"]))
        return fit(plan(other, stand_in, target)["phases"])

    multiple = planned["devices"] * planned["num_microbatches"]
    return largest_batch(fits, planned["batch_size"], multiple)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments, of_config = parse_arguments(argv)
    stand_in = (arguments.num_examples, arguments.num_classes) if arguments.num_examples else None
    configuration = resolve(read_config(of_config))
    _use_cpus(arguments.cpus)
    target = targets.open_target(arguments.target, data_mesh()) if arguments.target else None
    try:
        planned = plan(configuration, stand_in, target)
        if arguments.largest_batch and target is not None:
            planned["largest_batch"] = _searched(of_config, stand_in, target, planned)
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
