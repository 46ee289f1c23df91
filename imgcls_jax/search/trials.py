"""The trials of a search, one run after the other, each a process and a workdir of its own.

`sweep.json` of the search's folder keeps the plan, every trial that ended, and what was retrained. What it
names is skipped when the search is taken up again, and a run that broke off resumes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.files import read_json, write_json
from imgcls_jax.search import process
from imgcls_jax.search.plan import Plan
from imgcls_jax.search.proposals import Outcome, propose
from imgcls_jax.search.pruning import pruned_at
from imgcls_jax.train import finished

FILE = "sweep.json"
FINISHED, PRUNED, DIVERGED, FAILED = "finished", "pruned", "diverged", "failed"
PLAN = {"metric": str, "space": dict, "maximize": bool, "folds": int, "chosen_on": str}
FINAL = {"trial": int, "seeds": Sequence[int], "metrics": dict}
TRIAL = {
    "fields": Mapping[str, Any],
    "state": str,
    "values": Sequence[float],
    "evaluations": Sequence[Sequence[float | None]],
    "seconds": float,
    "note": str,
}
Runner = Callable[[Sequence[str], Path, Callable[[], bool]], int]


@dataclasses.dataclass
class Trial:
    """What became of one choice of fields.

    Attributes:
      fields: {field: value}.
      state: "finished"; "pruned", given up at an evaluation; "diverged", its loss was not finite; or
        "failed", which is tried again when the search is taken up again.
      values: the metric at the end of each run.
      evaluations: the metric at each evaluation of each run, as far as it was looked at; None where it was
        no number.
      seconds: wall time of its finished runs.
      note: what a run that failed said.
    """

    fields: Mapping[str, Any]
    state: str = FINISHED
    values: list[float] = dataclasses.field(default_factory=list)
    evaluations: list[list[float | None]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    note: str = ""

    @property
    def value(self) -> float | None:
        """The mean over its runs; None where one of them did not end."""
        return statistics.fmean(self.values) if self.state == FINISHED else None

    @property
    def outcome(self) -> Outcome:
        """What later proposals see of it; one that diverged or failed is worse than all others."""
        seen = self.evaluations[0] if self.state in (FINISHED, PRUNED) else []
        return Outcome(self.fields, self.value, seen)


class Search:
    """A search in its folder.

    Args:
      plan: of the search.
      folder: exists; with what an earlier start of the same search left.
      run: starts a command and waits for it, as process.run.
      tell: takes a line for the user.

    Raises:
      ValueError: the folder holds another search.
    """

    def __init__(
        self, plan: Plan, folder: Path, *, run: Runner = process.run, tell: Callable[[str], None] = print
    ) -> None:
        self.plan, self.folder, self._run, self._tell = plan, folder, run, tell
        self.trials: list[Trial] = []
        self.final: dict[str, Any] = {}
        if (folder / FILE).exists():
            content = read(folder)
            _require_same_plan(folder, content["plan"], plan.as_json())
            runs = len(list(plan.runs()))
            for number, trial in enumerate(content["trials"]):
                if trial.state == FINISHED and len(trial.values) != runs:
                    raise ValueError(
                        f"{folder / FILE} is damaged: trials[{number}] is finished with "
                        f"{len(trial.values)} of {runs} runs"
                    )
            self.trials, self.final = content["trials"], content["final"]

    def advance(self, count: int) -> None:
        """Tries so many choices in all; 0 for the whole of a grid.

        Raises:
          ValueError: a run failed, and none before it had come to its end.
        """
        for number in range(count) if count else itertools.count():
            known = self.trials[number] if number < len(self.trials) else None
            if known is not None and known.state != FAILED:
                continue
            fields = known.fields if known is not None else self._propose(number)
            if fields is None:
                return
            said = "  ".join(f"{field}={value!r}" for field, value in fields.items())
            self._tell(f"trial {number}: {said}")
            trial = self._try(number, fields)
            if trial.state == FAILED and not any(own.state == FINISHED for own in self.trials):
                raise ValueError(f"trial {number} failed: {trial.note}")
            self.trials[number : number + 1] = [trial]
            self._keep()
            value = trial.note or trial.state if trial.value is None else f"{trial.value:.6g}"
            self._tell(f"trial {number}: {self.plan.metric} {value}")

    def _propose(self, number: int) -> Mapping[str, Any] | None:
        plan, earlier = self.plan, [trial.outcome for trial in self.trials[:number]]
        return propose(
            plan.search, plan.space, number, seed=plan.seed, earlier=earlier, maximize=plan.maximize
        )

    def _try(self, number: int, fields: Mapping[str, Any]) -> Trial:
        """Runs a trial to its end, or to where it is given up."""
        trial = Trial(fields)
        for position, (path, overrides) in enumerate(self.plan.runs()):
            workdir = self.folder / f"trial_{number:04d}" / path
            finals = [own for own in self.trials[:number] if own.state == FINISHED]
            earlier = [own.evaluations[position] for own in finals]

            def given_up(
                workdir: Path = workdir, earlier: Sequence[Sequence[float | None]] = earlier
            ) -> int | None:
                if not self.plan.prune:
                    return None
                values = evaluations(workdir, self.plan.metric)
                return pruned_at(values, earlier, maximize=self.plan.maximize)

            trial.state, trial.note = self._run_to_end(
                workdir, fields, overrides, lambda: given_up() is not None
            )
            values = evaluations(workdir, self.plan.metric)
            at = given_up()
            trial.evaluations.append(values if at is None else values[: at + 1])
            if at is not None and trial.state != FAILED:
                trial.state, trial.note = PRUNED, f"pruned at evaluation {at + 1}"
            if trial.state != FINISHED:
                return trial
            result = finished.read_result(workdir)
            value = value_of(workdir, result, self.plan.metric)
            trial.seconds += result["wall_seconds"]
            if not math.isfinite(value):
                trial.state, trial.note = DIVERGED, f"diverged: {self.plan.metric} is {value}"
                return trial
            trial.values.append(value)
        return trial

    def _run_to_end(
        self,
        workdir: Path,
        fields: Mapping[str, Any],
        overrides: Mapping[str, str],
        unwanted: Callable[[], bool],
    ) -> tuple[str, str]:
        """Runs what is not finished; returns its state and a note."""
        if (workdir / "result.json").exists():
            return FINISHED, ""
        log = workdir.with_name(f"{workdir.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        status = self._run(self.plan.command(workdir, fields, overrides), log, unwanted)
        if (workdir / "result.json").exists():
            return FINISHED, ""
        if unwanted():
            return PRUNED, ""
        if status and any(workdir.glob("nonfinite_*.json")):
            return DIVERGED, "diverged: its loss or state was not finite"
        said = process.last_line(log).removeprefix("error: ") or f"exit status {status}"
        return FAILED, f"{said} (all of it: {log})"

    @property
    def best(self) -> int | None:
        """The number of the best trial, the first of equals; None where none is finished."""
        values = {n: own.value for n, own in enumerate(self.trials) if own.value is not None}
        sign = 1 if self.plan.maximize else -1
        return max(values, key=lambda number: (sign * values[number], -number)) if values else None

    def retrain(self, seeds: Sequence[int]) -> dict[str, Any]:
        """Trains the best choice on the whole training split, once for each seed, and measures at the end.

        Returns:
          {"trial": number, "seeds": seeds, "metrics": {"evaluation/metric": values}} of all evaluations.

        Raises:
          ValueError: no trial is finished, or a run failed.
        """
        best = self.best
        if best is None:
            raise ValueError(f"{self.folder}: no trial is finished: there is nothing to train on other seeds")
        metrics: dict[str, list[float]] = {}
        quantity = self.plan.metric.partition("/")[2]
        for seed in seeds:
            workdir = self.folder / f"final_{best:04d}" / f"seed_{seed}"
            others = {"train.seed": str(seed), "train.eval_every_steps": "0", "train.best_metric": ""}
            self._tell(f"trial {best} again, seed {seed}")
            state, note = self._run_to_end(workdir, self.trials[best].fields, others, lambda: False)
            if state != FINISHED:
                raise ValueError(f"{workdir}: {note}")
            for name, measured in finished.read_result(workdir)["metrics"].items():
                if isinstance(measured.get(quantity), (int, float)):
                    metrics.setdefault(f"{name}/{quantity}", []).append(float(measured[quantity]))
        self.final = {"trial": best, "seeds": list(seeds), "metrics": metrics}
        self._keep()
        return self.final

    def _keep(self) -> None:
        trials = [dataclasses.asdict(trial) | {"value": trial.value} for trial in self.trials]
        content = {"plan": self.plan.as_json(), "trials": trials, "best": self.best, "final": self.final}
        write_json(self.folder / FILE, content, way_out="")


def finished_runs(folder: Path, final: Mapping[str, Any], best: int) -> list[Path]:
    """Returns the workdirs of the best choice: those that were trained anew, else those of its trial."""
    place = folder / (f"final_{final['trial']:04d}" if final else f"trial_{best:04d}")
    found = (path.parent for depth in ("", "*/", "*/*/") for path in place.glob(f"{depth}result.json"))
    return sorted(found)


def evaluations(workdir: Path, metric: str) -> list[float | None]:
    """Returns a metric at each evaluation of a run so far; None where it was no number, so that those of
    equal number stay evaluations of equal steps."""
    path, own = workdir / "metrics.jsonl", f"{metric.partition('/')[0]}/"
    found: dict[int, float | None] = {}
    for record in finished.read_records(path) if path.exists() else []:
        if any(name.startswith(own) for name in record):
            value = record.get(metric)
            found[record["step"]] = found.get(record["step"]) if value is None else value
    return [found[step] for step in sorted(found)]


def value_of(workdir: Path, result: Mapping[str, Any], metric: str) -> float:
    """Returns a metric at the end of a run; NaN where the run could not say.

    Raises:
      ValueError: the run measured no such thing.
    """
    name, _, quantity = metric.partition("/")
    measured = result["metrics"].get(name, {})
    if quantity in measured and measured[quantity] is None:
        return math.nan
    if not isinstance(measured.get(quantity), (int, float)):
        known = ", ".join(
            f"{name}/{own}" for own, value in measured.items() if isinstance(value, (int, float))
        )
        raise ValueError(f"{workdir} measured no {metric}; it has {known or 'none'}")
    return float(measured[quantity])


def read(folder: Path) -> dict[str, Any]:
    """Returns what a folder's sweep.json holds, its trials as records.

    Raises:
      ValueError: it is absent or damaged.
    """
    path = folder / FILE
    content = read_json(path)
    finished.require_fields(path, content, {"plan": dict, "trials": Sequence[dict], "final": dict})
    finished.require_fields(f"{path}: plan", content["plan"], PLAN)
    if content["final"]:
        finished.require_fields(f"{path}: final", content["final"], FINAL)
        figures = dict.fromkeys(content["final"]["metrics"], Sequence[float])
        finished.require_fields(f"{path}: final.metrics", content["final"]["metrics"], figures)
    for number, trial in enumerate(content["trials"]):
        finished.require_fields(f"{path}: trials[{number}]", trial, TRIAL)
    trials = [Trial(**{name: own[name] for name in TRIAL}) for own in content["trials"]]
    for number, trial in enumerate(trials):
        if trial.state == FINISHED and not trial.values:
            raise ValueError(f"{path} is damaged: trials[{number}] is finished and has no value")
        runs = len(trial.values) if trial.state == FINISHED else int(trial.state == PRUNED)
        if len(trial.evaluations) < runs:
            raise ValueError(
                f"{path} is damaged: trials[{number}] has the evaluations of {len(trial.evaluations)} runs; "
                f"expected {runs}"
            )
    return content | {"trials": trials}


def _require_same_plan(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differing = [name for name in new if old.get(name) != new[name]]
    if differing:
        name = differing[0]
        raise ValueError(
            f"{folder} holds another search: its {name} is {old.get(name)!r}, and {new[name]!r} now. Choose "
            "another --workdir, or give that back"
        )
