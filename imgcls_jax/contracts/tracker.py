"""What a tracker is: a place where a run's numbers, tables and pictures go, beside metrics.jsonl.

A file of trackers/ is a choice of `train.loggers`. It has
  make(facts) -> Tracker: connects, and calls facts.keep with the run's id there before it sends anything;
    raises UnknownRun where the place refuses the id of facts.kept;
and perhaps
  PACKAGE: what it imports, beside what every run needs; imported before the run starts;
  EXTRA: the extra of pyproject.toml that brings it;
  abandon(): called where the run goes on without the tracker; ends what the process would wait for;
  OF_WORKDIR: True for files of the workdir, whose failure ends the run as that of metrics.jsonl does. Any
    other tracker works in a thread of its own (train/tracking.py): what it raises, and how long it takes, is
    nothing to the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image


class UnknownRun(ValueError):
    """A place has no run of the id that was kept, or none that can go on: each start would end the same."""


Outcome = Literal["finished", "stopped", "failed"]


class Table(NamedTuple):
    """Rows of texts and numbers under the names of their columns; None for a value that there is not."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is told at once: a line of training, or an evaluation.

    Attributes:
      step: of the run.
      about: "train", "plan", or the name of an evaluation.
      scalars: {"<about>/<name>": a number, perhaps NaN}.
      tables, pictures: by such names, too.
    """

    step: int
    about: str
    scalars: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, Image] = dataclasses.field(default_factory=dict)


class Facts(NamedTuple):
    """What a tracker knows of a run.

    Attributes:
      workdir: of the run, perhaps in an object store.
      config_name: of its configuration, "" where that has none.
      fields: {"train.batch_size": 64, ...}, JSON values: the resolved configuration.
      resume_step: at which it goes on; 0 for a new one.
      kept: what an earlier start gave to `keep`; {} at the first.
      keep: keeps a few texts, the run's id among them, in the workdir; never a key or a token.
      tell: prints a line.
    """

    workdir: Path
    config_name: str = ""
    fields: Mapping[str, Any] = {}
    resume_step: int = 0
    kept: Mapping[str, str] = {}
    keep: Callable[[Mapping[str, str]], None] = lambda texts: None
    tell: Callable[[str], None] = lambda line: None


class Tracker(Protocol):
    """Takes what is told of a run, in order. Any method may raise."""

    def write(self, entry: Entry) -> None:
        """Writes an entry; what is None of a table, and what is NaN, is written as there is nothing."""

    def flush(self) -> None:
        """Writes what is held back, where the tracker holds something back."""

    def close(self, outcome: Outcome) -> None:
        """Ends: the run is finished, was stopped, or failed; the latter two may go on later."""
