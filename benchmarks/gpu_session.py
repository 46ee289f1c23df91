"""A short session on a GPU, prepared beforehand: speed beside PyTorch, then runs on CIFAR-10.

  python benchmarks/gpu_session.py --data_root FOLDER --workdir FOLDER --json FILE [--minutes 12]
  python benchmarks/gpu_session.py --small --workdir FOLDER --json FILE

Three parts, one after the other; `--parts` chooses among them:

  table       training steps in bfloat16 by train_step.py, ours beside PyTorch's
  fast        configurations that are trained to their end
  few_labels  configurations that are trained for the time that is left, each for its share of it; they go on
              when a later session is given the same --workdir, --data_root and --folds

Each row is a process of its own. One that fails or takes too long is named with the reason, and the others
go on. A row is printed and is in the file as soon as it is measured, so a session that is cut off loses
nothing but the row under way. SIGTERM ends the session: a run then saves its state.

The runs hold a tenth of the training images out and are evaluated on it, not on the test images. With
`--folds 0` they are evaluated on what the folder has as test images; that is for a folder whose test images
are a development split already. `--small` shrinks every part so that a CPU takes a minute or two.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from imgcls_jax.runtime.files import read_json, write_json
from imgcls_jax.runtime.mistakes import PIP_NAMES
from imgcls_jax.search import process

TRAIN_STEP = Path(__file__).with_name("train_step.py")
FACTS = (
    "import json; from imgcls_jax.runtime.environment import environment; "
    "print(json.dumps(environment(('torch', 'torchvision', 'timm'))))"
)
OF_STEPS = ("flax", "optax")
OF_RUNS = (*OF_STEPS, "orbax", "ml_collections", "PIL")
PACKAGES = {"table": OF_STEPS, "fast": OF_RUNS, "few_labels": OF_RUNS}  # what each part imports beside jax
OF_PYTORCH = ("torch", "torchvision", "timm")
TABLE_SHARE = 0.6  # of the time that is left when the table begins: the most that it takes
ROW_SECONDS, RUN_SECONDS = 110, 180  # the most that a row of the table, and a run of `fast`, takes
LEAST_SECONDS = 60  # with less no process comes to its first figure
STOP_SECONDS = 25  # in which a run saves its state


class Plan(NamedTuple):
    """What a session measures.

    Attributes:
      table: (network, batch, pixels of a side) of each row; MixMatch's batch counts its labeled images alone.
      fast: configurations to train to their end; an option that a file does not have is left out.
      few_labels: configurations to train for the time that is left.
    """

    table: Sequence[tuple[str, int, int]]
    fast: Sequence[str]
    few_labels: Sequence[str]


FULL = Plan(
    table=(
        ("resnet50", 256, 224),
        ("wrn_28_2_mixmatch", 64, 32),
        ("vgg16_bilinear", 32, 448),
        ("vit_s16_mae", 256, 224),
    ),
    fast=("cifar10_fast", "cifar10_fast:96"),
    few_labels=("cifar10_mixmatch", "cifar10_fixmatch"),
)
SMALL = Plan(
    table=(("simpleconv3", 2, 48),),
    fast=("digits_simpleconv3:test", "digits_simpleconv3:96"),
    few_labels=("digits_mixmatch:test",),
)


class Failed(Exception):
    """A process did not do what it was started for; the text says why."""


class Session:
    """What was measured so far, and the time that is left.

    Args:
      file: for the figures.
      workdir: a folder for logs and runs.
      seconds: of the whole session.
      settings: for the file.
    """

    def __init__(self, file: Path, workdir: Path, seconds: float, settings: Mapping[str, Any]) -> None:
        self.workdir = workdir
        self._file, self._until = file, time.monotonic() + seconds
        self._content: dict[str, Any] = {"settings": dict(settings), "machine": {}}
        self._content |= {"table": [], "runs": [], "left_out": []}

    def left(self) -> float:
        """Returns the seconds that are left."""
        return self._until - time.monotonic()

    def keep(self, **content: Any) -> None:
        """Puts something into the file."""
        self._content |= content
        write_json(self._file, self._content, way_out="")

    def add(self, kind: str, row: Mapping[str, Any], line: str) -> None:
        """Prints a row and puts it into the file."""
        print(line, flush=True)
        self.keep(**{kind: [*self._content[kind], row]})

    def leave_out(self, what: str, reason: Any) -> None:
        """Says that something was not measured, and why."""
        self.add("left_out", {"what": what, "reason": str(reason)}, f"left out: {what}: {reason}")

    def run(self, words: Sequence[str], name: str, seconds: float, by: signal.Signals) -> bool:
        """Runs a command.

        Args:
          words: of the command.
          name: of its log, in the workdir.
          seconds: the most that it takes, with what it does upon the signal.
          by: the signal that ends it; SIGKILL ends its own processes too.

        Returns:
          Whether it came to its end.

        Raises:
          Failed: there is too little time, or it ended with an error.
        """
        if seconds < LEAST_SECONDS:
            raise Failed(f"no time is left: {max(seconds, 0):.0f} s")
        print(f"$ {shlex.join(words)}", flush=True)
        until = time.monotonic() + seconds - (0 if by == signal.SIGKILL else STOP_SECONDS)
        log = self.workdir / f"{name}.log"
        stopped = False

        def is_late() -> bool:
            nonlocal stopped
            stopped = time.monotonic() > until
            return stopped

        status = process.run(words, log, is_late, by=by, patience=STOP_SECONDS)
        if status and not stopped:
            raise Failed(f"{process.last_line(log)} (status {status}; all of it: {log})")
        return not stopped


# ---- before time is spent


def missing(packages: Sequence[str]) -> list[str]:
    """Returns the packages that are not installed, as pip names them."""
    return [PIP_NAMES.get(name, name) for name in packages if importlib.util.find_spec(name) is None]


def require_packages(parts: Sequence[str]) -> None:
    """Raises SystemExit where a part cannot run, with the way out."""
    lacking = {part: missing(PACKAGES[part]) for part in parts}
    names = sorted(set().union(*lacking.values()))
    if not names:
        return
    ready = [part for part in parts if not lacking[part]]
    without = f", or leave out what needs it: --parts={','.join(ready)}" if ready else ""
    raise SystemExit(
        f"error: not installed: {', '.join(names)}. Run `pip install {' '.join(names)}` (without a network: "
        f"with --no-index --find-links=FOLDER of wheels){without}"
    )


def machine_of(small: bool) -> dict[str, Any]:
    """Returns versions and devices.

    Another process asks jax, which would keep most of the GPU's memory in this one.

    Raises:
      SystemExit: jax cannot be started, or sees no GPU.
    """
    done = subprocess.run([sys.executable, "-c", FACTS], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: jax does not start:\n{done.stderr}")
    machine = json.loads(done.stdout.splitlines()[-1])
    if machine["device"]["platform"] == "cpu" and not small:
        raise SystemExit(
            "error: jax sees no GPU here: pip install 'imgcls-jax[cuda13]', or [cuda12] for an older driver. "
            "--small tries the session on a CPU"
        )
    return machine


# ---- the table


def table(session: Session, rows: Sequence[tuple[str, int, int]]) -> None:
    """Measures training steps beside PyTorch's; ours alone where it is missing or a row fails with it."""
    import train_step

    lacking = missing(OF_PYTORCH)
    if lacking:
        way_out = f"not installed: {', '.join(lacking)}; pip install {' '.join(lacking)}"
        session.leave_out("PyTorch's side of the table", way_out)
    forms = [["--alone"]] if lacking else [[], ["--alone"]]
    end = session.left() * (1 - TABLE_SHARE)
    print(train_step.HEADER)
    for network, batch, size in rows:
        options = [f"--networks={network}", f"--batch_size={batch}", f"--size={size}"]
        for alone in forms:
            try:
                row = row_of(session, network, [*options, *alone], min(ROW_SECONDS, session.left() - end))
            except Failed as failed:
                session.leave_out(" ".join([network, *alone]), failed)
            else:
                session.add("table", row, train_step.line_of(row))
                break


def row_of(session: Session, network: str, options: Sequence[str], seconds: float) -> dict[str, Any]:
    """Returns a row of train_step.py, with the speed of the machine.

    Raises:
      Failed: it was not measured.
    """
    file = session.workdir / f"{network}.json"
    file.unlink(missing_ok=True)
    words = [sys.executable, str(TRAIN_STEP), *options, f"--json={file}"]
    session.run(words, network, seconds, signal.SIGKILL)
    if not file.exists():
        raise Failed(f"it took longer than {seconds:.0f} s")
    content = read_json(file)
    (row,) = content.pop("rows")
    return row | content


# ---- the runs


def overrides_of(config: str, data_root: str, folds: int) -> dict[str, str]:
    """Returns the fields of a run: where its images are, and what it is evaluated on.

    Raises:
      ValueError: there is no such configuration, or it does not have the option.
    """
    from imgcls_jax.config import files
    from imgcls_jax.config.settings import FOLD

    written, _ = files.load(files.find(config, {}))
    fields = {"data.root": data_root} if data_root else {}
    if folds:
        fields |= {"data.folds": str(folds)}
        fields |= {f"evals.{name}.split": FOLD for name in written["evals"]}
    return fields


def train(
    session: Session, config: str, arguments: argparse.Namespace, seconds: float, **others: str
) -> None:
    """Trains a configuration, from where an earlier session stopped, and adds its row.

    Args:
      session: what it belongs to.
      config: as `--config` names it.
      arguments: of the command.
      seconds: the most that it takes.
      **others: fields of the section `train` besides.
    """
    from imgcls_jax.search.plan import words_of

    name = config.replace(":", "_")
    workdir = session.workdir / name
    began = time.monotonic()

    def tell() -> None:
        row = {"config": config, "command": shlex.join(words), **reached(workdir)}
        row["session_seconds"] = time.monotonic() - began
        session.add("runs", row, line_of(row))

    try:
        fields = overrides_of(config, arguments.data_root, arguments.folds)
        fields |= {f"train.{field}": value for field, value in others.items()}
        words = words_of(config, workdir, fields)
        session.run(words, name, seconds, signal.SIGTERM)
        tell()
    except (Failed, OSError, ValueError) as error:
        session.leave_out(config, error)
    except KeyboardInterrupt:  # the run has saved its state
        with contextlib.suppress(Failed):
            tell()
        raise


def reached(workdir: Path) -> dict[str, Any]:
    """Returns how far a run is, over all its sessions, and its newest evaluation.

    Returns:
      Seconds: `wall_seconds` of the whole run, `training_seconds` of its steps alone. Of a run that is not
      finished `step` is that of its last line.

    Raises:
      Failed: it has not written a line yet.
    """
    from imgcls_jax.train import finished
    from imgcls_jax.train.writer import flatten

    if (workdir / "result.json").exists():
        result = finished.read_result(workdir)
        steps, speed = result["steps"], result["examples_per_second"]
        metrics: dict[str, float] = {}
        for name, own in result["metrics"].items():
            metrics |= flatten(own, name)
        return {
            "finished": True,
            "step": steps,
            "total_steps": steps,
            "wall_seconds": result["wall_seconds"],
            "training_seconds": steps * result["config"]["train"]["batch_size"] / speed,
            "examples_per_second": speed,
            "metrics": metrics,
        }
    lines = workdir / "metrics.jsonl"
    records = finished.read_records(lines) if lines.exists() else []
    told = [record for record in records if "train/examples_per_second" in record]
    if not told:
        raise Failed("it was stopped before its first line; a later session begins it again, or goes on")
    evaluated = [record for record in records if "train/examples_per_second" not in record]
    return {
        "finished": False,
        "step": told[-1]["step"],
        "total_steps": read_json(workdir / "config.json")["resolved"]["train"]["total_steps"],
        "examples_per_second": told[-1]["train/examples_per_second"],
        "metrics": evaluated[-1] if evaluated else {},
    }


def line_of(row: Mapping[str, Any]) -> str:
    """Returns a line on a run."""
    words = [f"{row['config']}: step {row['step']:,} of {row['total_steps']:,}"]
    if row["finished"]:
        words.append(f"{row['wall_seconds']:.1f} s, of which the steps {row['training_seconds']:.1f} s")
    words.append(f"{row['examples_per_second']:,.0f} examples/s")
    words += [f"{key} {value:.4f}" for key, value in row["metrics"].items() if key.endswith("/accuracy")]
    return ", ".join(words)


# ---- the command


def parts_of(text: str) -> list[str]:
    """Parses names of parts joined by commas, for argparse; they run in the order of PACKAGES."""
    names = text.split(",")
    unknown = sorted(set(names) - set(PACKAGES))
    if unknown:
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown)}; there are {', '.join(PACKAGES)}")
    return [part for part in PACKAGES if part in names]


def measure(session: Session, plan: Plan, arguments: argparse.Namespace) -> None:
    """Runs the parts."""

    def fast() -> None:
        for config in plan.fast:
            train(session, config, arguments, min(RUN_SECONDS, session.left()))

    def few_labels() -> None:
        for number, config in enumerate(plan.few_labels):
            share = session.left() / (len(plan.few_labels) - number)
            train(session, config, arguments, share, checkpoint_every_minutes="1")

    jobs = {"table": lambda: table(session, plan.table), "fast": fast, "few_labels": few_labels}
    for part in arguments.parts:
        try:
            jobs[part]()
        except Exception as error:  # whatever it is, the other parts go on
            session.leave_out(part, f"{type(error).__name__}: {error}")


def main() -> None:
    """Measures, prints, and writes what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", type=Path, required=True, help="new file for the figures")
    parser.add_argument("--workdir", type=Path, default=Path("runs/gpu_session"), help="for logs and runs")
    parser.add_argument(
        "--data_root", default="", help="folder of CIFAR-10, instead of the configurations' own"
    )
    parser.add_argument("--folds", type=int, default=10, help="parts of the training images, one held out")
    parser.add_argument("--minutes", type=float, default=12.0, help="that the session takes at most")
    parser.add_argument("--parts", type=parts_of, default=list(PACKAGES), help="names joined by commas")
    parser.add_argument("--small", action="store_true", help="everything small, for a CPU")
    arguments = parser.parse_args()
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()
    }
    session = Session(arguments.json, arguments.workdir, 60 * arguments.minutes, settings)
    if arguments.json.exists():
        raise SystemExit(f"error: {arguments.json} holds an earlier session: name another file")
    require_packages(arguments.parts)
    for folder in (arguments.workdir, arguments.json.parent):
        folder.mkdir(parents=True, exist_ok=True)
    machine = machine_of(arguments.small)
    print(json.dumps(machine), flush=True)
    session.keep(machine=machine)
    try:
        measure(session, SMALL if arguments.small else FULL, arguments)
    except KeyboardInterrupt:
        raise SystemExit(f"stopped by a signal; {arguments.json} holds what was measured") from None
    print(f"all of it: {arguments.json}")


if __name__ == "__main__":
    main()
