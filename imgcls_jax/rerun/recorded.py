"""What a results file records of its runs, and its command as what a run takes: never as a shell's words.

The file may come from a stranger. Its command is split into flags, and only those of a training run are
known. A configuration is Python code, so without the user's word it is one of this project's; without it
no override names a place, such as a folder of images or weights to fetch.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.config import files
from imgcls_jax.config.compare import WHERE
from imgcls_jax.config.resolve import resolve
from imgcls_jax.config.written import Config, flat_fields
from imgcls_jax.runtime.files import read_json
from imgcls_jax.runtime.names import printable
from imgcls_jax.train import finished

SEEDS = ("train.seed", "data.label_seed")  # what runs of one file may differ in
SEED = "SEED"  # stands in a command for each run's own
START = ["python", "-m", "imgcls_jax.main"]
MAX_COMMAND = 4096  # characters
NO_PLACE = re.compile(r"[\w.+\-,|()\[\] ]*")  # of a value: neither a path nor an address
PLACES = (*WHERE, "train.resume_from")  # a name alone is a place, too
FILE = {"command": str, "metric": str, "versions": dict, "device": dict, "runs": list}
RUN = {
    "seeds": dict,
    "value": float,
    "metrics": dict,
    "wall_seconds": float,
    "config_digest": str,
    "state_digest": str,
}


def read(path: Path) -> dict[str, Any]:
    """Returns a results file with all that its runs are compared by.

    Raises:
      ValueError: it is absent or damaged, or of an evaluation without a name.
    """
    content = read_json(path)
    kept = {"config": dict} if "config" in content else {}  # older files have none
    finished.require_fields(path, content, FILE | kept)
    finished.require_fields(f"{path}: device", content["device"], finished.DEVICE)
    if not content["runs"]:
        raise ValueError(f"{path} is damaged: it holds no runs")
    for number, run in enumerate(content["runs"]):
        where = f"{path}: runs[{number}]"
        finished.require_fields(where, run, RUN)
        finished.require_fields(f"{where}.seeds", run["seeds"], {"train.seed": int})
        finished.require_fields(f"{where}.seeds", run["seeds"], dict.fromkeys(run["seeds"], int))
        unknown = set(run["seeds"]) - set(SEEDS)
        if unknown:
            raise ValueError(f"{where}.seeds is damaged: {printable(min(unknown))} is no seed")
    return content


def parse(command: str, *, trust: bool) -> files.Named:
    """Returns the configuration and the overrides that a recorded command names.

    Args:
      command: `python -m imgcls_jax.main --config FILE.py[:OPTIONS] --config.SECTION.FIELD=VALUE ...`.
      trust: whether any configuration, and any place in an override, is accepted.

    Raises:
      ValueError: anything else; the configuration is none of this project, or an override names a place,
        without trust.
    """
    if len(command) > MAX_COMMAND:
        raise ValueError(
            f"the recorded command has {len(command)} characters; at most {MAX_COMMAND} are read"
        )
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"the recorded command cannot be split into words: {error}") from error
    if words[:3] != START:
        raise ValueError(
            f"the recorded command does not begin with {' '.join(START)}: {printable(command[:60])!r}"
        )
    others, overrides = files.split_overrides(words[3:])
    config = _config_of(others)
    named = files.find(config, overrides)
    if not trust:
        _require_own(named)
        for field, text in overrides.items():
            if field in PLACES or not NO_PLACE.fullmatch(text):
                raise ValueError(
                    f"the recorded command sets {printable(field)} to {printable(text[:60])!r}, which may "
                    "name a place: look at it, then give --trust_config"
                )
    return named


def _config_of(words: Sequence[str]) -> str:
    """Returns the value of --config, the one flag that a recorded command may have."""
    first, *rest = words or [""]
    name, equals, text = first.partition("=")
    if name == "--config" and not equals and rest:
        text, *rest = rest
    if name != "--config" or not text or rest:
        odd = next(
            (word for word in words if word.startswith("-") and word.partition("=")[0] != "--config"), ""
        )
        raise ValueError(
            "the recorded command has --config FILE.py[:OPTIONS], overrides --config.SECTION.FIELD=VALUE, "
            f"and nothing else; got {printable(odd or ' '.join(words))[:60]!r}"
        )
    return text


def _require_own(named: files.Named) -> None:
    """Raises ValueError for a configuration's file that this project does not ship."""
    if named.path.resolve().parent not in [folder.resolve() for folder in files.PACKAGED]:
        raise ValueError(
            f"{printable(named.path)} is none of this project's configurations, and a configuration is a "
            "program: look at it, then give --trust_config"
        )


def of_run(named: files.Named, seeds: Mapping[str, int]) -> dict[str, str]:
    """Returns the overrides of one recorded run: SEED filled in, and seeds that the command does not name.

    Args:
      named: of parse.
      seeds: {field: seed} of the run.

    Raises:
      ValueError: the configuration cannot be loaded, or SEED stands for what is no seed of the run.
    """
    overrides = {
        field: str(seeds[field]) if text == SEED and field in seeds else text
        for field, text in named.overrides.items()
    }
    left = [field for field, text in overrides.items() if text == SEED]
    if left:
        raise ValueError(
            f"the recorded command has {SEED} for {printable(left[0])}, of which the runs say none"
        )
    written = flat_fields(files.load(named._replace(overrides=overrides))[0])
    return overrides | {field: str(seed) for field, seed in seeds.items() if written.get(field, 0) != seed}


def resolved(named: files.Named, overrides: Mapping[str, str]) -> Config:
    """Returns a configuration with every field of its sections, durations as they are written.

    Raises:
      ValueError: it cannot be loaded, or refuses a value.
    """
    return resolve(files.load(named._replace(overrides=overrides))[0]).resolved
