"""What a search does: its space, what it measures and on which split, and the command of each run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.config import compare, files
from imgcls_jax.config.resolve import resolve
from imgcls_jax.config.settings import FOLD
from imgcls_jax.config.written import Config
from imgcls_jax.data.folders import split_of
from imgcls_jax.search.space import Dimension

LENGTHS = ("train.total_", "train.eval_every_", "phases.")  # what evaluations of equal number depend on


@dataclasses.dataclass(frozen=True)
class Plan:
    """A search, all but how many trials it has.

    Attributes:
      config: as `--config` names it.
      overrides: {field: text} of the command line.
      config_digest: of both, so that a changed file is noticed.
      space: what is searched.
      metric: "evaluation/metric" of the trials' runs.
      chosen_on: the split that it is measured on.
      maximize: whether the largest is the best.
      search: "grid", "random" or "tpe".
      seed: of the search.
      trial_overrides: what a trial's runs have besides.
      folds, fold_seed: of a cross-validation; 0 folds for none.
      trial_seeds: train.seed of each run of a trial; () for the configuration's own.
      prune: whether runs are given up by the median rule.
    """

    config: str
    overrides: Mapping[str, str]
    config_digest: str
    space: tuple[Dimension, ...]
    metric: str
    chosen_on: str
    maximize: bool
    search: str
    seed: int
    trial_overrides: Mapping[str, str]
    folds: int = 0
    fold_seed: int = 0
    trial_seeds: tuple[int, ...] = ()
    prune: bool = False

    def runs(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """Yields the runs of a trial: (folder within the trial's, overrides)."""
        for fold in range(max(self.folds, 1)):
            for seed in self.trial_seeds or (None,):
                parts, overrides = [], dict(self.trial_overrides)
                if self.folds:
                    parts.append(f"fold_{fold}")
                    overrides |= {"data.folds": str(self.folds), "data.fold": str(fold)}
                    overrides |= {"data.fold_seed": str(self.fold_seed)}
                if seed is not None:
                    overrides["train.seed"] = str(seed)
                    if len(self.trial_seeds) > 1:
                        parts.append(f"seed_{seed}")
                yield Path(*parts), overrides

    def command(self, workdir: Path, fields: Mapping[str, Any], others: Mapping[str, str]) -> list[str]:
        """Returns the command of a run.

        Args:
          workdir: of the run.
          fields: {field: value} of a trial.
          others: {field: text} besides.
        """
        texts = {field: repr(value) for field, value in fields.items()}
        return words_of(self.config, workdir, dict(self.overrides) | texts | dict(others))

    def as_json(self) -> dict[str, Any]:
        """Returns what `sweep.json` keeps, by which a search is known again."""
        content = dataclasses.asdict(self)
        return content | {
            "space": {own.field: str(own) for own in self.space},
            "trial_seeds": list(self.trial_seeds),
        }


def words_of(config: str, workdir: Path, overrides: Mapping[str, str]) -> list[str]:
    """Returns the command of a run, with the Python that runs this."""
    return [
        *(sys.executable, "-m", "imgcls_jax.main", "--config", config, "--workdir", str(workdir)),
        *(f"{files.PREFIX}{field}={text}" for field, text in overrides.items()),
    ]


def measured(written: Config, metric: str, *, folds: int, choose_on: str) -> tuple[str, str, dict[str, str]]:
    """Decides what the trials' runs measure: the one evaluation that chooses, and no other.

    Args:
      written: configuration.
      metric: "evaluation/metric", of the configuration.
      folds: of a cross-validation, whose runs measure the fold in place of the evaluation's split; 0 for
        none.
      choose_on: the split that the user agreed to choose on; "" for none.

    Returns:
      (metric of the trials' runs, split, overrides).

    Raises:
      ValueError: no such evaluation, or its split is not one to choose on.
    """
    name, _, quantity = metric.partition("/")
    evaluations = written["evals"]
    if not quantity or name not in evaluations:
        known = ", ".join(f"{own}/..." for own in evaluations) or "none"
        raise ValueError(
            f"--metric is EVALUATION/METRIC of the configuration, which has {known}; got {metric!r}"
        )
    section = evaluations[name]
    overrides = {f"evals.{own}": "none" for own in evaluations if own != name}
    if written["train"].get("best_metric"):
        overrides["train.best_metric"] = ""  # of an evaluation that is left out
    if folds:
        if written["data"].get("folds"):
            raise ValueError("--folds sets config.data.folds: leave that out of the configuration")
        if choose_on:
            raise ValueError(f"--choose_on {choose_on}: with --folds the folds choose; leave one of them out")
        _require_no_other_test(name, section, FOLD)
        overrides |= {f"evals.{name}": "none", f"evals.{FOLD}": repr(section | {"split": FOLD})}
        return f"{FOLD}/{quantity}", FOLD, overrides
    split = str(section.get("split", ""))
    _require_no_other_test(name, section, choose_on or split)
    trained = written["data"].get("train_split", "train")
    if choose_on and choose_on != split:
        raise ValueError(f"--choose_on {choose_on}: {metric} is measured on the split {split!r}")
    if not choose_on and (split_of(split.rpartition(":")[2]) == "test" or split == trained):
        why = "trained on" if split == trained else "there to be measured on once, at the end"
        raise ValueError(
            f"--metric {metric} would choose on the split {split!r}, which is {why}: cross-validate inside "
            "the training split (--folds 5), name an evaluation of a validation split, or say "
            f"--choose_on {split}"
        )
    return metric, split, overrides


def _require_no_other_test(name: str, section: Config, split: str) -> None:
    """Raises ValueError where an evaluation that chooses reads a test split beside its own."""
    for field, value in section.items():
        if field == "split" or not field.endswith("split") or not isinstance(value, str):
            continue
        base = value.replace("{split}", split).rpartition(":")[2]
        if split_of(base) == "test" and base != split:
            raise ValueError(
                f"--metric: evals.{name}.{field} = {value!r} would be looked at by every trial; write "
                f"{value.replace(base, '{split}')!r}, which follows the split that chooses"
            )


def check(named: files.Named, space: Sequence[Dimension], *, prune: bool) -> str:
    """Checks every field of a space against the configuration, before anything runs.

    Args:
      named: the configuration, with the overrides of the command line.
      space: of the search.
      prune: whether runs are given up at evaluations.

    Returns:
      The digest of the configuration.

    Raises:
      ValueError: an unknown field, or a value that it does not take.
    """
    for own in space:
        if own.field in named.overrides:
            raise ValueError(f"{own.field} is searched: leave out {files.PREFIX}{own.field}")
        if prune and own.field.startswith(LENGTHS):
            raise ValueError(f"--prune compares runs at equal evaluations, and {own.field} would shift them")
        for value in own.ends():
            overrides = {field: text for field, text in named.overrides.items()} | {own.field: repr(value)}
            resolve(files.load(named._replace(overrides=overrides))[0])
    resolved = resolve(files.load(named)[0]).resolved
    every = [name for name, value in resolved["train"].items() if name.startswith("eval_every_") and value]
    if prune and not every:
        raise ValueError("--prune gives up runs at evaluations: set --config.train.eval_every_epochs")
    return compare.digest(resolved)
