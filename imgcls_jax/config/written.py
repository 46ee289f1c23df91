"""A configuration as it is written: nested sections that hold choices alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_collections import ConfigDict

Config = dict[str, Any]
SECTIONS = ("data", "model", "objective", "optimizer", "train", "evals")
OPTIONAL_SECTIONS = ("phases",)
# Fields that had another name in an earlier version, and what took the place of their values.
RENAMED = {"train.accumulate_steps": "train.num_microbatches", "data.crop_to_box": "data.region"}
VALUES: dict[str, dict[Any, Any]] = {"data.crop_to_box": {False: "", True: "box"}}


def sections(arg: str = "", **options: bool | tuple[str, ...]) -> tuple[ConfigDict, Any]:
    """Returns an empty configuration and the options of its argument, for the `get_config` of a file.

        config, options = sections(arg, way=("linear", "finetune"), compact=False, test=False)

    Args:
      arg: what follows the colon of `--config FILE.py:finetune,test`: names of options, joined by commas.
      **options: the options that the file knows: each False, or a tuple of names, of which one may be given
        and the first stands for none.

    Returns:
      (config, options): a ConfigDict with all sections, each empty; and one with a bool for each option, or
      the name chosen of a tuple.

    Raises:
      ValueError: an option that the file does not know, or two of one tuple.
    """
    from ml_collections import (
        ConfigDict,  # here, since all else of this room needs the standard library alone
    )

    given = [name for name in arg.split(",") if name]
    choices = {field: choice if isinstance(choice, tuple) else (field,) for field, choice in options.items()}
    known = [name for names in choices.values() for name in names]
    for name in given:
        if name not in known:
            hint = f"; it has {', '.join(known)}" if known else ", and has none"
            raise ValueError(f"this configuration has no option {name!r}{hint}")
    chosen: dict[str, bool | str] = {}
    for field, names in choices.items():
        among = [name for name in names if name in given]
        if len(among) > 1:
            raise ValueError(f"this configuration takes one of {', '.join(names)}; got {' and '.join(among)}")
        chosen[field] = (among or names)[0] if isinstance(options[field], tuple) else bool(among)
    config = ConfigDict({name: ConfigDict() for name in (*SECTIONS, *OPTIONAL_SECTIONS)})
    return config, ConfigDict(chosen)


def plain(config: Any) -> Config:
    """Returns a written configuration (ConfigDict or dict) as nested dicts of JSON values.

    Raises:
      ValueError: a section is missing or unknown, or a value has no JSON form.
    """
    nested = config.to_dict() if hasattr(config, "to_dict") else config
    try:
        nested = json.loads(json.dumps(nested))
    except TypeError as error:
        raise ValueError(f"the configuration holds a value without a JSON form: {error}") from error
    if not isinstance(nested, dict):
        raise ValueError(f"a configuration is a dictionary of sections; got {nested!r}")
    missing, unknown = set(SECTIONS) - set(nested), set(nested) - {*SECTIONS, *OPTIONAL_SECTIONS}
    if missing or unknown:
        raise ValueError(
            f"a configuration has the sections {SECTIONS}, and perhaps {OPTIONAL_SECTIONS}; missing: "
            f"{sorted(missing)}, unknown: {sorted(unknown)}"
        )
    _check_values(nested)
    return nested


def _check_values(config: Config) -> None:
    """Raises ValueError where a section is no dictionary, or a number is one that no field takes."""
    named = dict(config)
    for outer in ("evals", "phases"):
        if isinstance(config.get(outer), dict):
            named |= {f"{outer}.{name}": fields for name, fields in config[outer].items()}
    for name, fields in named.items():
        if not isinstance(fields, dict):
            raise ValueError(f"config.{name} is a section of fields; got {fields!r}")
    for name, value in flat_fields(config).items():
        limit = math.inf if isinstance(value, float) else 2**63
        if isinstance(value, (int, float)) and not abs(value) < limit:
            raise ValueError(f"config.{name} is {value}, which no field takes")


def flat_fields(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"train.batch_size": 64, ...}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= (
            flat_fields(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
    return flat


def in_present_words(config: Config) -> Config:
    """Returns a configuration of an earlier version with the present names of the fields of RENAMED."""
    present = {name: dict(fields) if isinstance(fields, dict) else fields for name, fields in config.items()}
    for old, new in RENAMED.items():
        section, _, field = old.partition(".")
        if isinstance(present.get(section), dict) and field in present[section]:
            value = present[section].pop(field)
            if isinstance(value, bool):
                value = VALUES.get(old, {}).get(value, value)
            present[section][new.partition(".")[2]] = value
    return present


def of_first_version(config: Config) -> Config:
    """Returns a configuration that version 0.1 wrote, in present words: what was not there yet has the value
    by which today's code computes what that version did."""
    present = in_present_words(config)
    if present.get("objective", {}).get("ema_decay"):
        present["objective"].setdefault("ema_warmup", False)
    if present.get("optimizer", {}).get("name") == "lars":
        present["optimizer"].setdefault("trust_params", ".*")
    return present
