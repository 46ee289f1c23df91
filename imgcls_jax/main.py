"""The command: a configuration -> train/run.py.

python -m imgcls_jax.main --config configs/digits_simpleconv3.py
python -m imgcls_jax.main --mode eval --workdir runs/digits_simpleconv3 --split test
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

if not __package__:  # python imgcls_jax/main.py: packages are looked for in this folder, not above it
    sys.path[0] = str(Path(__file__).parents[1])

from imgcls_jax.config import compare, files
from imgcls_jax.config.field_types import did_you_mean
from imgcls_jax.runtime.buckets import as_path
from imgcls_jax.runtime.command import DATA_ROOT_HELP, TRUST_DATA_HELP, exit_with, workdir_path
from imgcls_jax.runtime.mistakes import user_mistake

# A flag of one mode, or of several processes, is refused elsewhere: it would do nothing.
OF_EVAL = ("split", "checkpoint", "eval_transforms", "data_root", "trust_data")
OF_PROCESSES = ("coordinator", "num_processes", "process_id", "start_seconds", "heartbeat_seconds")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imgcls_jax.main",
        description="Trains a configuration, or evaluates what a workdir holds.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE.py[:OPTIONS]",
        help="the configuration, or the name of one of the project's; --config.SECTION.FIELD=VALUE overrides "
        "a field",
    )
    parser.add_argument(
        "--workdir",
        type=workdir_path,
        help="folder of the run, perhaps of gs://: checkpoints, metrics, result; a run that it "
        "holds is resumed (default: runs/NAME[_OPTIONS] of the configuration)",
    )
    parser.add_argument(
        "--accept_data_growth",
        action="store_true",
        help="go on with a run whose data have more images, and are else as they were",
    )
    parser.add_argument("--mode", choices=("train", "eval"), default="train", help="default: train")
    evaluation = parser.add_argument_group("with --mode eval")
    evaluation.add_argument("--split", help="the split, instead of those of the configuration")
    evaluation.add_argument("--checkpoint", help="'latest' (default), 'best' or a step")
    evaluation.add_argument("--eval_transforms", metavar="LINE", help="instead of data.eval_transforms")
    evaluation.add_argument("--data_root", type=workdir_path, metavar="FOLDER", help=DATA_ROOT_HELP)
    evaluation.add_argument("--trust_data", action="store_true", default=None, help=TRUST_DATA_HELP)
    several = parser.add_argument_group("several processes")
    several.add_argument(
        "--distributed",
        action="store_true",
        help="one process of several: TPU pods, Slurm and Kubernetes are recognised, elsewhere give "
        "--coordinator",
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    several.add_argument("--num_processes", type=int, help="how many processes there are")
    several.add_argument("--process_id", type=int, help="which of them this is, from 0")
    several.add_argument(
        "--start_seconds", type=int, help="how long the start waits for the other processes (default: 300)"
    )
    several.add_argument(
        "--heartbeat_seconds",
        type=int,
        help="a process that gives no sign of life for so long ends the run (default: 100)",
    )
    return parser


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, files.Named | None, dict[str, str]]:
    """Returns the flags, the configuration that they name, and the overrides.

    Raises:
      ValueError: an override without a value, no such file, or a flag that would do nothing.
    """
    parser = _parser()
    others, overrides = files.split_overrides(argv)
    flags, rest = parser.parse_known_args(others)
    if rest:
        what = "no such flag" if rest[0].startswith("-") else "flags begin with --"
        hint = did_you_mean(rest[0].partition("=")[0], parser._option_string_actions)
        raise ValueError(f"what is {rest[0]!r}? {hint or what[0].upper() + what[1:]}")
    _refuse_idle(flags, overrides)
    named = None if flags.config is None else files.find(flags.config, overrides)
    if flags.mode == "train" and named is None:
        raise ValueError("--config is missing; for example --config configs/digits_simpleconv3.py")
    if flags.mode == "eval" and flags.workdir is None:
        raise ValueError("--mode eval evaluates a run: --workdir is missing")
    return flags, named, overrides


def _refuse_idle(flags: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Raises ValueError for the first flag that would do nothing."""
    for name in OF_EVAL:
        if flags.mode != "eval" and getattr(flags, name) is not None:
            raise ValueError(f"--{name} is of --mode eval, and this run trains")
    others = [field for field in overrides if field not in compare.WHERE]
    if flags.mode == "eval" and (flags.config is not None or others):
        raise ValueError(
            f"--mode eval takes the configuration of the workdir: leave out "
            f"{f'--config.{others[0]}' if others else '--config'}; --config.data.root=FOLDER alone may say "
            "that the data have moved"
        )
    if flags.mode == "eval" and flags.accept_data_growth:
        raise ValueError("--accept_data_growth is of a training, and --mode eval trains nothing")
    for name in OF_PROCESSES:
        value = getattr(flags, name)
        if value is not None and not flags.distributed:
            raise ValueError(f"--{name} is of several processes: give --distributed too")
        if name.endswith("seconds") and value is not None and value < 1:
            raise ValueError(f"--{name} is at least 1; got {value}")


def _leave(message: str) -> NoReturn:
    """Ends a process of several at once: jax would first wait for the others, and they for this one."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


def _bound_to(coordinator: str | None) -> str | None:
    """Returns where process 0 listens: of a loopback address there alone, else wherever jax does."""
    host = (coordinator or "").rpartition(":")[0].strip("[]")
    return coordinator if host in ("localhost", "::1") or host.startswith("127.") else None


def _start_processes(flags: argparse.Namespace) -> None:
    """Joins the processes of one run; must come before any other use of jax."""
    import jax

    seconds = flags.start_seconds or 300
    # jax itself aborts with a stack of C++ when it has waited for long enough.
    timer = threading.Timer(
        seconds,
        _leave,
        [
            f"error: not all processes of the run came together within --start_seconds={seconds}. Does each "
            f"run, and can this host reach process 0 ({flags.coordinator or 'found by itself'})?"
        ],
    )
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            flags.coordinator,
            flags.num_processes,
            flags.process_id,
            initialization_timeout=seconds + 60,
            heartbeat_timeout_seconds=flags.heartbeat_seconds or 100,
            coordinator_bind_address=_bound_to(flags.coordinator),  # else it listens on every interface
        )
    except (ValueError, TypeError, RuntimeError) as error:
        text = str(error).split("\n", 1)[0]
        raise SystemExit(
            f"error: --distributed: {text} Give --coordinator, --num_processes, --process_id."
        ) from error
    finally:
        timer.cancel()
    if jax.default_backend() == "cpu":
        # Process 0 alone would find its programs there, perhaps compiled for another number of cores: they
        # round otherwise than those that the others compile now, and the states would drift apart.
        jax.config.update("jax_enable_compilation_cache", False)


def _trainer(named: files.Named, flags: argparse.Namespace) -> Callable[[], None]:
    """Loads a configuration and returns what trains it.

    Raises:
      ValueError: the configuration cannot be loaded.
    """
    config, notes = files.load(named)
    workdir = flags.workdir
    if workdir is None:
        workdir = named.default_workdir
        notes.append(f"workdir: {workdir} (--workdir chooses another)")

    def train() -> None:
        import jax

        from imgcls_jax.train.run import run

        if jax.process_index() == 0:
            print("\n".join(notes), end="\n" if notes else "", flush=True)
        run(config, workdir, name=named.path.stem, accept_data_growth=flags.accept_data_growth)

    return train


def _evaluate(flags: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    from imgcls_jax.inference import trained
    from imgcls_jax.train.known_data import Named

    root = as_path(overrides["data.root"]) if "data.root" in overrides else None
    trained.evaluate(
        flags.workdir,
        split=flags.split or "",
        checkpoint=flags.checkpoint or "latest",
        transforms=flags.eval_transforms or "",
        data=Named(flags.data_root or root, bool(flags.trust_data)),
        moved={field.removeprefix("data."): place for field, place in overrides.items()},
        show=lambda result: print(json.dumps(result, indent=2), flush=True),
    )


def _run(job: Callable[[], None]) -> None:
    """Runs what was asked for; a user's mistake becomes one line."""
    from imgcls_jax.runtime.stop import Interrupted

    try:
        job()
    except Interrupted as stop:
        print(f"{stop}; the same command goes on from there")
    except Exception as error:
        line = user_mistake(error)
        if line is None:
            raise
        raise SystemExit(f"error: {line}") from error


def _run_as_one_of_several(flags: argparse.Namespace, job: Callable[[], None]) -> None:
    """Runs; what ends this process badly ends it at once, with a line where another one caused it."""
    import jax

    from imgcls_jax.runtime.agreement import Disagreement

    _start_processes(flags)
    try:
        _run(job)
    except SystemExit as error:
        told = isinstance(error.__cause__, Disagreement)  # which names processes itself
        _leave(str(error) if told else str(error).replace(":", f": process {jax.process_index()}:", 1))
    except KeyboardInterrupt:
        _leave(f"error: process {jax.process_index()}: interrupted")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            _leave(traceback.format_exc())
        _leave(
            f"error: process {jax.process_index()} of {jax.process_count()} can no longer compute with the "
            f"others, one of which has probably ended: {str(error).splitlines()[0][:300]}. Started again, "
            "all go on from the newest checkpoint"
        )
    except Exception:
        _leave(traceback.format_exc())


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    try:
        flags, named, overrides = _parse(sys.argv[1:] if argv is None else argv)
        job = functools.partial(_evaluate, flags, overrides) if named is None else _trainer(named, flags)
    except (ValueError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {user_mistake(error) or error}") from error
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    # jax is imported only now, so that --help and a typo do not wait for it.
    if flags.distributed:
        _run_as_one_of_several(flags, job)
    else:
        _run(job)


def command() -> NoReturn:
    """The console script `imgcls`."""
    exit_with(main)


if __name__ == "__main__":
    command()
