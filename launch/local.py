"""Several processes of one run on this machine, over loopback: what a pod does, to try on a laptop.

  python launch/local.py --processes 2 [--devices_per_process 1] [--restarts 3] [--grace_seconds 30] \
      [--dry_run] -- --config configs/digits_simpleconv3.py --workdir runs/two

What follows `--` goes to imgcls_jax.main. Every line of output begins with the number of its process.
SIGTERM, SIGHUP and Ctrl-C are passed on to all, which save and end. When one process ends badly the others
are ended, by SIGTERM and after the grace period by SIGKILL, and with --restarts all of them start again from
the newest checkpoint. Exit status: 0 where every process ended with 0, else that of the first that did not
(128 + the signal's number where a signal ended it), 2 for a mistake in the command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

Command = Sequence[str]

POLL_SECONDS = 0.1
PRINTING = threading.Lock()


def free_port() -> int:
    """Returns a TCP port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_commands(processes: int, port: int, arguments: Sequence[str]) -> list[list[str]]:
    """Returns the command of every process of a run.

    Args:
      processes: how many.
      port: where process 0 will listen.
      arguments: of imgcls_jax.main, the same for all.
    """
    joined = ["--distributed", f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"]
    program = [sys.executable, "-m", "imgcls_jax.main"]
    return [[*program, *joined, f"--process_id={i}", *arguments] for i in range(processes)]


def make_environment(devices_per_process: int | None) -> dict[str, str]:
    """Returns the environment variables that are set for every process, beside those of this one."""
    environment = {"PYTHONUNBUFFERED": "1"}
    if devices_per_process is not None:
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices_per_process)}
    return environment


def write_line(text: str) -> None:
    """Prints one whole line: print writes a text and its end apart, so that another's may come between."""
    with PRINTING:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def say(text: str) -> None:
    """Prints a line of the launcher's own, where somebody reads it."""
    with contextlib.suppress(OSError):
        write_line(f"launch: {text}")


def relay(index: int, process: subprocess.Popen[str], signals: list[int]) -> None:
    """Prints a process's output line by line behind its number, until nobody can write to it any more.

    Where nobody reads what is printed, that counts as a SIGTERM, and the rest is read and dropped, since a
    full pipe would stop the process.
    """
    for line in process.stdout:
        try:
            write_line(f"[{index}] " + line.rstrip("\n"))
        except OSError:
            signals.append(signal.SIGTERM)
            break
    for _ in process.stdout:
        pass


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kills a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def exit_status(returncode: int) -> int:
    """Returns a child's end as a shell tells it: 128 + the number where a signal ended it."""
    return 128 - returncode if returncode < 0 else returncode


def supervise(processes: Sequence[subprocess.Popen[str]], signals: list[int], grace_seconds: float) -> int:
    """Waits until all processes have ended, and sees to it that they do once one has failed; see run."""
    status, passed_on, deadline = 0, 0, float("inf")
    while None in [process.poll() for process in processes]:
        new_signals = signals[passed_on:]
        passed_on += len(new_signals)
        failed = next((i for i, process in enumerate(processes) if process.returncode), None)
        if failed is not None and not status:
            status = exit_status(processes[failed].returncode)
            say(f"process {failed} ended with status {status}; the others are ended")
            if not passed_on:  # a second signal would end those that are saving
                new_signals.append(signal.SIGTERM)
        for process in processes if new_signals else ():
            process.send_signal(new_signals[-1])
        if new_signals:
            deadline = min(deadline, time.monotonic() + grace_seconds)
        if time.monotonic() > deadline:
            for process in processes:
                kill_group(process)
        time.sleep(POLL_SECONDS)
    return status or next((exit_status(p.returncode) for p in processes if p.returncode), 0)


def run(
    commands: Sequence[Command],
    signals: list[int],
    *,
    environment: Mapping[str, str] | None = None,
    grace_seconds: float = 30.0,
) -> int:
    """Runs commands side by side until all have ended.

    Args:
      commands: each a program and its arguments.
      signals: those that came to this process, in order; one that a handler adds is passed on to all.
      environment: set for them beside this process's own.
      grace_seconds: from the first signal, or the first failure, to SIGKILL.

    Returns:
      0 where all ended with 0, else the status of the first that did not.
    """
    processes: list[subprocess.Popen[str]] = []
    threads: list[threading.Thread] = []
    try:
        for i, command in enumerate(commands):
            process = subprocess.Popen(
                command,
                env=os.environ | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # the terminal's Ctrl-C would reach them a second time
            )
            processes.append(process)
            threads.append(threading.Thread(target=relay, args=(i, process, signals), daemon=True))
            threads[-1].start()
        say("pids " + " ".join(str(process.pid) for process in processes))
        return supervise(processes, signals, grace_seconds)
    finally:
        for process in processes:
            kill_group(process)  # workers that outlived their process hold its output open
            process.wait()
        for thread in threads:
            thread.join(timeout=5)


def run_again(start: Callable[[], int], signals: list[int], restarts: int) -> int:
    """Runs until it ends well, a signal came, or the restarts are used up.

    Args:
      start: runs once and returns the exit status.
      signals: as of `run`.
      restarts: how many times it may be run again.

    Returns:
      The last exit status.
    """
    status = start()
    for restart in range(1, restarts + 1):
        if not status or signals:
            break
        say(f"restart {restart} of {restarts}")
        status = start()
    return status


def _at_least(least: int) -> Callable[[str], int]:
    """Returns a parser of whole numbers from `least` on."""

    def whole_number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"is at least {least}; got {text}")
        return int(text)

    return whole_number


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], usage="local.py --processes N [options] -- ARGUMENTS_OF_MAIN"
    )
    parser.add_argument("--processes", type=_at_least(1), required=True)
    parser.add_argument("--devices_per_process", type=_at_least(1), help="CPU devices; keeps off the GPU")
    parser.add_argument("--restarts", type=_at_least(0), default=0, help="after a failure, from a checkpoint")
    parser.add_argument("--grace_seconds", type=float, default=30.0, help="from SIGTERM to SIGKILL")
    parser.add_argument("--dry_run", action="store_true", help="print the commands, start nothing")
    parser.add_argument("arguments", nargs="+", help="of imgcls_jax.main, behind --")
    args = parser.parse_args(argv)
    environment = make_environment(args.devices_per_process)
    if args.dry_run:
        assignments = [f"{name}={value}" for name, value in environment.items()]
        for command in make_commands(args.processes, free_port(), args.arguments):
            print(shlex.join([*assignments, *command]))
        return 0
    sys.stdout.reconfigure(errors="replace")  # a character that the terminal lacks must not end a thread
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda received, _: signals.append(received))

    def start() -> int:
        commands = make_commands(args.processes, free_port(), args.arguments)
        return run(commands, signals, environment=environment, grace_seconds=args.grace_seconds)

    return run_again(start, signals, args.restarts)


if __name__ == "__main__":
    sys.exit(main())
