"""A run once through, and once more killed at random steps and resumed: do both end in the same bits?

Kills lie behind the first checkpoint, before which a killed run only begins again. Every second one is
SIGTERM, upon which a run saves its state; the others are SIGKILL, as where a machine goes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from imgcls_jax.config.written import flat_fields
from imgcls_jax.runtime.files import read_json
from imgcls_jax.search import process
from imgcls_jax.search.plan import words_of
from imgcls_jax.train import finished

POLL_SECONDS = 0.01
TAIL_BYTES = 4096
LEFT_OVER = 10  # no kill in the last tenth: the run would be over before it is hit
STEP = re.compile(rb"^step (\d+)/", re.M)
RESUMED = re.compile(rb"^resumed from the checkpoint of step (\d+)", re.M)
WAY_OUT = "set --config.train.checkpoint_every_steps, or allow more --steps"


def checkpoints_of(workdir: Path) -> tuple[int, int] | None:
    """Returns (step of the first checkpoint, total steps) of a run that has begun; None of one that has not.

    Raises:
      ValueError: its config.json is damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        return None
    train = read_json(path)["resolved"]["train"]
    total = train["total_steps"]
    every = [train[name] for name in ("checkpoint_every_steps", "eval_every_steps") if train[name] > 0]
    return min([*every, total]), total


def steps_of_kills(first: int, total: int, kills: int, seed: int) -> list[int]:
    """Returns the steps at which a run is killed, ascending and different, behind its first checkpoint.

    Raises:
      ValueError: there are not as many steps between that and the end.
    """
    between = range(first + 1, total - max(1, total // LEFT_OVER) + 1)
    if len(between) < kills:
        raise ValueError(
            f"the first checkpoint lies at step {first} of {total}: too late for {kills} kills behind it; "
            f"{WAY_OUT}"
        )
    return sorted(random.Random(seed).sample(between, kills))


class Certifying:
    """Starts the runs of a certificate, one after the other, within a limit of time.

    Args:
      config, overrides: of the runs, as words_of takes them.
      folder: of the workdirs `whole` and `killed`; absent or empty.
      seconds: that all runs may take together.
      tell: takes a line for the user.

    Raises:
      ValueError: the folder holds something.
    """

    def __init__(
        self,
        config: str,
        overrides: Mapping[str, str],
        folder: Path,
        *,
        seconds: float,
        tell: Callable[[str], None],
    ) -> None:
        self._config, self._overrides, self._folder, self._tell = config, overrides, folder, tell
        self._seconds, self._began = seconds, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty: choose another --workdir, or remove what it holds")

    def certify(self, kills: int, seed: int) -> dict[str, Any]:
        """Runs; returns what the certificate holds.

        Args:
          kills: how many, at least one.
          seed: of the steps at which they come.

        Raises:
          ValueError: a run failed, no kill came in time, or the limit of time is over.
        """
        whole, killed = self._folder / "whole", self._folder / "killed"
        known: list[tuple[int, int]] = []
        steps: list[int] = []

        def look() -> bool:
            found = None if known else checkpoints_of(whole)
            if found:
                known.append(found)
                steps.extend(steps_of_kills(*found, kills, seed))
                listed = ", ".join(map(str, steps))
                self._tell(f"the first checkpoint lies at step {found[0]} of {found[1]}; kills at {listed}")
            return False

        self._tell("once through")
        self._run(whole, {}, self._folder / "whole.log", look)
        look()  # of a run that was over at once
        first, total = known[0]
        done = self._kill_and_resume(killed, steps)
        results = [finished.read_result(workdir) for workdir in (whole, killed)]
        digests = [result["state_digest"] for result in results]
        differing = _differing(*(result["metrics"] for result in results))
        same = digests[0] == digests[1]
        return {
            "config": self._config,
            "overrides": dict(self._overrides),
            "config_digest": results[0]["config_digest"],
            "seed": seed,
            "first_checkpoint": first,
            "total_steps": total,
            "kills_wanted": kills,
            "kills": done,
            "state_digest": {"whole": digests[0], "killed": digests[1], "same": same},
            "differing_metrics": differing,
            "versions": results[0]["versions"],
            "device": results[0]["device"],
            "seconds": round(time.monotonic() - self._began, 1),
            "agrees": same and not differing,
        }

    def _kill_and_resume(self, workdir: Path, steps: list[int]) -> list[dict[str, Any]]:
        """Kills a run at the steps and lets it end; returns where it was hit, and from where it went on."""
        done: list[dict[str, Any]] = []
        for number, step in enumerate([*steps, None]):
            log = self._folder / f"killed_{number}.log"
            by = (signal.SIGKILL, signal.SIGTERM)[number % 2]

            def is_reached(log: Path = log, step: int | None = step) -> bool:
                return step is not None and _last(STEP, log) >= step

            is_finished = self._run(workdir, {"train.log_every_steps": "1"}, log, is_reached, by)
            if done:
                resumed = _last(RESUMED, log, whole=True)
                done[-1]["resumed_from"] = resumed
                self._tell(f"{done[-1]['signal']} after step {done[-1]['step']}; resumed from step {resumed}")
            if is_finished:
                break
            done.append({"wanted": step, "step": _last(STEP, log), "signal": by.name})
        if not done:
            raise ValueError("the run was over before a kill could hit it: allow more --steps")
        return done

    def _run(
        self,
        workdir: Path,
        others: Mapping[str, str],
        log: Path,
        unwanted: Callable[[], bool],
        by: signal.Signals = signal.SIGTERM,
    ) -> bool:
        """Runs until it ends or is unwanted; returns whether it came to its end.

        Raises:
          ValueError: it ended by itself without a result, or the limit of time is over.
        """
        words = words_of(self._config, workdir, {**self._overrides, **others})
        hit = False

        def stops() -> bool:
            nonlocal hit
            hit = unwanted()
            return hit or self._is_late()

        process.run(words, log, stops, by=by, poll_seconds=POLL_SECONDS)
        if (workdir / "result.json").exists():
            return True
        if hit:
            return False
        if self._is_late():
            raise ValueError(
                f"--minutes {self._seconds / 60:g} are over: allow more, or fewer --steps, in a new --workdir"
            )
        raise ValueError(f"a run ended without a result: {process.last_line(log)} (all of it: {log})")

    def _is_late(self) -> bool:
        return time.monotonic() - self._began > self._seconds


def _last(pattern: re.Pattern[bytes], log: Path, *, whole: bool = False) -> int:
    """Returns the last number that a log tells in this form, of its end or the whole; 0 where it has none."""
    with contextlib.suppress(OSError), open(log, "rb") as file:
        if not whole:
            file.seek(max(os.fstat(file.fileno()).st_size - TAIL_BYTES, 0))
        return max(map(int, pattern.findall(file.read())), default=0)
    return 0


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Returns the names of the metrics that are not the same; NaN is the same as NaN."""
    before, after = flat_fields(one), flat_fields(other)
    return [
        name
        for name in sorted(before.keys() | after.keys())
        if json.dumps(before.get(name)) != json.dumps(after.get(name))
    ]
