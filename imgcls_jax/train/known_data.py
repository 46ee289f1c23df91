"""Whether a command that only looks at a workdir may open the data that its configuration names.

A workdir may come from a stranger, and its section `data` may name any folder and file of this machine. So
the data are opened where this user trained on them before, which training notes in
`~/.local/state/imgcls_jax/data.jsonl` (XDG_STATE_HOME moves it), where the user names their root again
(`--data_root`), and where the user says so (`--trust_data`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgcls_jax.config.resolve import Configuration
from imgcls_jax.runtime.buckets import is_bucket
from imgcls_jax.runtime.files import open_own

logger = logging.getLogger(__name__)

ROOT = "root"  # the argument of a source that says where its files lie


@dataclasses.dataclass(frozen=True)
class Named:
    """What a user says of a workdir's data.

    Attributes:
      root: the folder to open in place of the configuration's; None for that.
      trusted: open whatever the configuration names.
    """

    root: Path | None = None
    trusted: bool = False


NOTHING = Named()


def named(arguments: argparse.Namespace) -> Named:
    """Returns what a command line says of the data."""
    return Named(arguments.data_root, arguments.trust_data)


def _file() -> Path | None:
    """Returns the file of data trained on; None for a user without a home."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state, "imgcls_jax", "data.jsonl") if os.path.isabs(state) else None


def _entry(data: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    """Returns the line of a section `data`: its source and what the source is given."""
    fields = dict(arguments)
    if isinstance(fields.get(ROOT), str) and not is_bucket(fields[ROOT]):
        fields[ROOT] = os.path.abspath(os.path.expanduser(fields[ROOT]))
    return json.dumps({"source": data["source"]} | fields, sort_keys=True)


def _lines() -> list[str]:
    file = _file()
    try:
        return [] if file is None else file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


def remember(configuration: Configuration) -> None:
    """Notes that this user trains on the data of a configuration; a user without a home goes on without."""
    file, line = _file(), _entry(configuration.resolved["data"], configuration.data.fields)
    if file is None or line in _lines():
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open_own(file, "a") as stream:
            stream.write(f"{line}\n")
    except OSError as error:
        logger.info("%s cannot be written (%s): commands on this run will ask for --data_root", file, error)


def placed(configuration: Configuration, workdir: Path, says: Named) -> tuple[Configuration, str]:
    """Returns a workdir's configuration with its data where the user says, and why they stay closed.

    Args:
      configuration: of the workdir.
      workdir: for the message.
      says: of the user.

    Returns:
      The configuration, and "" where its data may be opened.

    Raises:
      ValueError: a root is named, and the source has none.
    """
    data, arguments = configuration.resolved["data"], dict(configuration.data.fields)
    if says.root is not None:
        if ROOT not in arguments:
            raise ValueError(f"--data_root: the data of {workdir}, {data['source']!r}, have no root")
        arguments[ROOT] = str(says.root)
        resolved = configuration.resolved | {"data": data | {ROOT: str(says.root)}}
        configuration = dataclasses.replace(configuration, resolved=resolved)
    texts = {name: value for name, value in arguments.items() if isinstance(value, str)}
    if says.trusted or not texts or _entry(data, arguments) in _lines():
        return configuration, ""
    if says.root is None:
        what = f"{data['source']} of {texts.get(ROOT) or texts}"
        return configuration, (
            "pass --data_root FOLDER to say where the data lie. The configuration of "
            f"{workdir} names {what}, on which you did not train here; --trust_data opens that"
        )
    outside = [name for name, value in texts.items() if name != ROOT and _leaves(value)]
    if outside:
        return configuration, (
            f"the configuration of {workdir} names data.{outside[0]} = {texts[outside[0]]!r}, "
            "which lies outside --data_root; --trust_data opens it"
        )
    return configuration, ""


def _leaves(path: str) -> bool:
    """Whether a path, relative to a root, may lead out of it."""
    return path.startswith("~") or os.path.isabs(path) or os.pardir in Path(path).parts


def require_open(configuration: Configuration, workdir: Path, arguments: argparse.Namespace) -> Configuration:
    """Returns what `placed` does, for a command that can do nothing without the data.

    Raises:
      ValueError: they stay closed.
    """
    configuration, withheld = placed(configuration, workdir, named(arguments))
    if withheld:
        raise ValueError(withheld)
    return configuration
