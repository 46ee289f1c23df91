"""A recorded run once more: whether its configuration, its final state and its metric come out again.

The configuration is compared as soon as the run has written its own; another one is stopped. The final state
is the same to the bit where the versions, the device and the code are. The metric agrees where it lies in
the 95 % prediction interval for one more run,

    mean ± t(0.975, n - 1) s sqrt(1 + 1/n)

of the n recorded seeds with standard deviation s (Student's t; a normal distribution is assumed), at least
mean ± one example for an accuracy. So one honest repetition in twenty is told to differ. One recorded seed
has no spread.
"""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import special

from imgcls_jax.config import compare, files
from imgcls_jax.config.written import Config, flat_fields
from imgcls_jax.rerun import recorded
from imgcls_jax.runtime.files import read_json
from imgcls_jax.search import process
from imgcls_jax.search.plan import words_of
from imgcls_jax.search.trials import value_of
from imgcls_jax.train import finished

TO_THE_BIT, WITHIN, DIFFERS = "agrees to the bit", "agrees within the spread", "differs"
COVERED = 0.95  # of the prediction interval
ROUNDING = 1e-9  # in a mean of accuracies


def chosen(content: Mapping[str, Any], seeds: Sequence[int], every: bool) -> list[dict[str, Any]]:
    """Returns the runs to repeat: all, those of some seeds, or the first.

    Raises:
      ValueError: a seed that no run has.
    """
    runs = content["runs"]
    known = [run["seeds"]["train.seed"] for run in runs]
    for seed in seeds:
        if seed not in known:
            raise ValueError(f"--seeds {seed}: the file records {', '.join(map(str, sorted(set(known))))}")
    if every:
        return list(runs)
    return [run for run, own in zip(runs, known, strict=True) if own in seeds] if seeds else runs[:1]


def interval(content: Mapping[str, Any], tolerance: float | None) -> tuple[float, float]:
    """Returns (mean, half width) of the figures that agree with a file's.

    Args:
      content: of recorded.read.
      tolerance: the half width, in the metric's unit; None for the module's rule.
    """
    values = [run["value"] for run in content["runs"]]
    mean, number = statistics.fmean(values), len(values)
    if tolerance is not None:
        return mean, tolerance
    half = 0.0
    if number > 1:
        quantile = float(special.stdtrit(number - 1, (1 + COVERED) / 2))
        half = quantile * statistics.stdev(values) * math.sqrt(1 + 1 / number)
    name, _, quantity = content["metric"].partition("/")
    measured = content["runs"][0]["metrics"].get(name)
    examples = measured.get("num_examples") if isinstance(measured, dict) else None
    if quantity.endswith("accuracy") and isinstance(examples, int) and examples > 0:
        half = max(half, 1 / examples)
    return mean, half


def rule(content: Mapping[str, Any], tolerance: float | None) -> str:
    """Returns in words when the metric agrees."""
    mean, half = interval(content, tolerance)
    number = len(content["runs"])
    why = f"the 95 % prediction interval of {number} recorded seeds, at least one example of an accuracy"
    if number == 1:
        why = "one example of an accuracy: one recorded seed has no spread"
    if tolerance is not None:
        why = "--tolerance"
    return f"{content['metric']} agrees within {mean:.6g} ± {half:.3g} ({why})"


def unlike(content: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Returns the versions and facts of the device that differ, as "numpy: 2.4.5 then, 2.4.6 here"."""
    return [
        f"{name}: {old} then, {result[part].get(name, 'none')} here"
        for part in ("versions", "device")
        for name, old in content[part].items()
        if result[part].get(name) != old
    ]


def again(
    content: Mapping[str, Any],
    run: Mapping[str, Any],
    named: files.Named,
    workdir: Path,
    *,
    moved: Mapping[str, str],
    tolerance: float | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Repeats one recorded run, and compares.

    Args:
      content: of recorded.read.
      run: one of its runs.
      named: of recorded.parse.
      workdir: for the repetition; one that broke off there is resumed.
      moved: {field: text} of compare.WHERE, where the data lie here.
      tolerance: as of interval.
      tell: takes a line for the user.

    Returns:
      What a certificate holds of the run; its "verdict" is one of the module's.

    Raises:
      ValueError: the configuration is refused, the workdir holds another run, or the run failed.
    """
    overrides = recorded.of_run(named, run["seeds"])
    there = flat_fields(recorded.resolved(named, overrides))
    overrides |= moved
    recorded.resolved(named, overrides)
    config = f"{named.path}{':' * bool(named.options)}{named.options}"
    words = words_of(config, workdir, overrides)
    tell(shlex.join(words))
    path = workdir / "config.json"

    def own() -> Config:
        """Returns the configuration of the repetition, with the data where the record has them."""
        found = read_json(path)["resolved"]
        places = {field.removeprefix("data."): there[field] for field in moved}
        return found | {"data": found["data"] | places}

    def is_another() -> bool:
        return path.exists() and compare.digest(own()) != run["config_digest"]

    if is_another():
        raise ValueError(f"{workdir} holds a run of another configuration: remove it, or choose --workdir")
    earlier = (workdir / "result.json").exists()
    if earlier:
        tell(f"{workdir} holds the finished run of an earlier start: that is compared")
    log = workdir.with_name(f"{workdir.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    process.run(words, log, is_another)
    found: dict[str, Any] = {
        "seeds": dict(run["seeds"]),
        "workdir": str(workdir),
        "of_earlier_start": earlier,
    }
    if is_another():
        here = own()
        names = compare.differing_fields(content["config"], here) if "config" in content else {}
        names = {name: pair for name, pair in names.items() if name not in recorded.SEEDS}
        digests = _pair(run["config_digest"], compare.digest(here))
        return found | {"config_digest": digests, "differing": names, "verdict": DIFFERS}
    if not (workdir / "result.json").exists():
        said = process.last_line(log).removeprefix("error: ")
        raise ValueError(f"the run ended without a result: {said} (all of it: {log})")
    digests = {"config_digest": _pair(run["config_digest"], compare.digest(own()))}
    return found | digests | _compared(content, run, workdir, tolerance)


def _pair(old: str, new: str) -> dict[str, Any]:
    return {"recorded": old, "here": new, "same": old == new}


def _compared(
    content: Mapping[str, Any], run: Mapping[str, Any], workdir: Path, tolerance: float | None
) -> dict[str, Any]:
    """Returns the comparison of a run with its finished repetition; arguments as of again."""
    result = finished.read_result(workdir)
    value, (mean, half) = value_of(workdir, result, content["metric"]), interval(content, tolerance)
    agrees = abs(value - mean) <= half + ROUNDING
    same = result["state_digest"] == run["state_digest"]
    return {
        "state_digest": _pair(run["state_digest"], result["state_digest"]),
        "unlike": unlike(content, result),
        "metric": {
            "recorded": run["value"],
            "here": value if math.isfinite(value) else None,
            "mean": mean,
            "tolerance": half,
            "agrees": agrees,
        },
        "seconds": result["wall_seconds"],
        "versions": result["versions"],
        "device": result["device"],
        "verdict": TO_THE_BIT if same and value == run["value"] else WITHIN if agrees else DIFFERS,
    }


def told(metric: str, found: Mapping[str, Any]) -> list[str]:
    """Returns lines on a comparison, for a reader."""
    lines = [", ".join(f"{name} = {seed}" for name, seed in found["seeds"].items())]
    if not found["config_digest"]["same"]:
        lines.append("  configuration: differs today, so the run was stopped")
        lines += [
            f"    {name}: {old!r} then, {new!r} here" for name, (old, new) in found["differing"].items()
        ]
        if not found["differing"]:
            lines.append("    in what, the file does not say: it keeps the digest alone")
        return [*lines, f"  verdict: {found['verdict']}"]
    lines.append("  configuration: the same")
    if found["state_digest"]["same"]:
        lines.append("  final state: the same to the bit")
    elif found["unlike"]:
        lines.append(f"  final state: differs, as it may: {'; '.join(found['unlike'])}")
    else:
        lines.append(
            "  final state: differs, with the same versions and device: another model of CPU, or other code "
            "of this project, rounds otherwise"
        )
    own = found["metric"]
    shown = "no number" if own["here"] is None else f"{own['here']:.6g}"
    lines.append(f"  {metric}: {shown}, recorded {own['recorded']:.6g}; {found['seconds']:.1f} s")
    return [*lines, f"  verdict: {found['verdict']}"]
