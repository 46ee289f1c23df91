"""The command: flags -> configuration -> train/loop.py.

python -m imgcls_jax.main --config configs/digits_simpleconv3.py --workdir runs/digits
python -m imgcls_jax.main --mode eval --workdir runs/digits --split test
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags

from imgcls_jax.config.files import define_config, parse_flags
from imgcls_jax.runtime.command import exit_with

_CONFIG = define_config(flags.FLAGS)
flags.declare_key_flag("config")  # listed by --help among those of this file
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, metrics, result; resumed where it has some."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate what a workdir holds.")
_SPLIT = flags.DEFINE_string(
    "split", "", "With --mode eval: the split, instead of those of the configuration."
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "With --mode eval: 'latest', 'best' or a step.")
_EVAL_TRANSFORMS = flags.DEFINE_string(
    "eval_transforms", "", "With --mode eval: a line instead of data.eval_transforms."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "One process of several: TPU pods, Slurm and Kubernetes are recognised, elsewhere give --coordinator.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "With --distributed: HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many processes.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: which of them this is, from 0.")
_START_SECONDS = flags.DEFINE_integer(
    "start_seconds",
    300,
    "With --distributed: how long the start waits for the other processes.",
    lower_bound=1,
)
_HEARTBEAT_SECONDS = flags.DEFINE_integer(
    "heartbeat_seconds",
    100,
    "With --distributed: a process that gives no sign of life for so long ends the run.",
    lower_bound=1,
)
flags.mark_flag_as_required("workdir")


def _parse_flags(argv: Sequence[str]) -> Sequence[str]:
    """Parses the flags and loads the configuration; a mistake in either becomes one line."""
    try:
        return [*argv[:1], *parse_flags(flags.FLAGS, argv, _CONFIG)]
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error


def _leave(message: str) -> NoReturn:
    """Ends a process of several at once: jax would first wait for the others, and they for this one."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


def _start_processes() -> None:
    """Joins the processes of one run; must come before any other use of jax."""
    import jax

    seconds = _START_SECONDS.value
    # jax itself aborts with a stack of C++ when it has waited for long enough.
    timer = threading.Timer(
        seconds,
        _leave,
        [
            f"error: not all processes of the run came together within --start_seconds={seconds}. Does each "
            f"run, and can this host reach process 0 ({_COORDINATOR.value or 'found by itself'})?"
        ],
    )
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            _COORDINATOR.value,
            _NUM_PROCESSES.value,
            _PROCESS_ID.value,
            initialization_timeout=seconds + 60,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS.value,
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


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised by this package itself, to tell the user of a mistake."""
    package = Path(__file__).parent
    return package in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parents


def _run() -> None:
    """Runs the mode that the flags name."""
    import jax

    from imgcls_jax.inference import trained
    from imgcls_jax.train import loop

    try:
        if _MODE.value == "eval":
            result = trained.evaluate(
                _WORKDIR.value,
                split=_SPLIT.value,
                checkpoint=_CHECKPOINT.value,
                transforms=_EVAL_TRANSFORMS.value,
            )
            if jax.process_index() == 0:
                print(json.dumps(result, indent=2))
        elif _CONFIG.value is None:
            raise SystemExit("error: --config is missing; for example --config configs/digits_simpleconv3.py")
        else:
            loop.run(_CONFIG.value, _WORKDIR.value)
    except loop.Interrupted as stop:
        print(f"{stop}; the same command goes on from there")
    except BrokenPipeError:
        raise
    except FloatingPointError as error:
        raise SystemExit(f"error: {error}") from error
    except (ValueError, OSError) as error:
        if not _is_ours(error):
            raise
        raise SystemExit(f"error: {error}") from error


def _run_as_one_of_several() -> None:
    """Runs; what ends this process badly ends it at once, with a line where another one caused it."""
    import jax

    from imgcls_jax.runtime.agreement import Disagreement

    _start_processes()
    try:
        _run()
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


def main(argv: Sequence[str]) -> None:
    """Runs what the flags ask for."""
    if argv[1:]:
        raise SystemExit(f"error: what is {argv[1]!r}? Flags begin with --")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    # jax is imported only now, so that --help and a typo do not wait for it.
    if _DISTRIBUTED.value:
        _run_as_one_of_several()
    else:
        _run()


if __name__ == "__main__":
    exit_with(lambda: app.run(main, flags_parser=_parse_flags))
