"""Trackers at work: found before the run, each in a thread of its own, in step with metrics.jsonl.

No number that has reached a tracker is sent again. `<workdir>/loggers.json` keeps the id of the run there,
and up to which step each kind of entry had arrived when the last start ended. The next start sends what
metrics.jsonl has beyond that, and leaves out what comes again and has arrived. After a kill all that
metrics.jsonl had counts as arrived, and so does what is under way when a slow tracker is left: a line may be
missing then, and none is doubled. What ends with an error is sent again.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import queue
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.config.field_types import fits
from imgcls_jax.config.modules import find_module
from imgcls_jax.contracts.tracker import Entry, Facts, Outcome, Tracker, UnknownRun
from imgcls_jax.runtime.files import read_json, write_json
from imgcls_jax.runtime.mistakes import MAX_LENGTH, in_one_line
from imgcls_jax.runtime.names import printable

logger = logging.getLogger(__name__)

FILE = "loggers.json"
CLOSE_SECONDS = 20.0  # that the end of a run waits for a tracker
WAITING = 1000  # entries at most, before a tracker is too slow
SECRET = re.compile(r"KEY|TOKEN|PASSWORD|SECRET", re.IGNORECASE)
SECRET_LENGTH = 8  # at least; MLFLOW_S3_KEY=true is none
Arrived = dict[str, int]  # up to which step, by what an entry is about


def require(names: Sequence[str]) -> None:
    """Checks train.loggers before a run starts, on the process that logs, and imports what they need.

    Two threads must not import at once: both packages have pydantic parse sources, and `ast` of Python 3.11
    fails where two threads use it.

    Args:
      names: of files of trackers/.

    Raises:
      ValueError: there is no such file, it is named twice, or its package cannot be imported.
    """
    for number, name in enumerate(names):
        try:
            module = find_module("trackers", name)
        except ValueError as error:
            raise ValueError(f"config.train.loggers: {error}") from error
        if name in names[:number]:
            raise ValueError(f"config.train.loggers names {name!r} twice")
        package = getattr(module, "PACKAGE", "")
        if of_workdir(module) or not package:
            continue
        try:
            importlib.import_module(package)
        except Exception as error:  # whatever a package raises that goes with no other here
            missing = isinstance(error, ModuleNotFoundError)
            why = "" if missing else f", which cannot be imported ({in_one_line(error)})"
            way_out = f"'imgcls-jax[{module.EXTRA}]'" if hasattr(module, "EXTRA") else package
            raise ValueError(
                f"config.train.loggers: {name!r} needs the package {package}{why}: pip install {way_out}"
            ) from error


def of_workdir(module: Any) -> bool:
    """Whether a file of trackers/ writes files of the workdir."""
    return getattr(module, "OF_WORKDIR", False)


class Kept:
    """What loggers.json keeps of each tracker: {"id": ..., "arrived": {...}, "open": whether it is at work}.

    Args:
      workdir: of the run.
    """

    def __init__(self, workdir: Path):
        self.path, self._lock = workdir / FILE, threading.Lock()
        try:
            found = read_json(self.path) if self.path.exists() else {}
        except ValueError as error:
            logger.warning("%s; the trackers begin new runs", error)
            found = {}
        self._of = {name: own for name, own in found.items() if isinstance(own, dict)}

    def texts(self, name: str) -> dict[str, str]:
        """Returns what a tracker keeps for itself."""
        texts = self._of.get(name, {}).get("kept")
        return texts if isinstance(texts, dict) and all(_is_short(text) for text in texts.values()) else {}

    def arrived(self, name: str, written: Arrived) -> Arrived:
        """Returns what has arrived at a tracker.

        Args:
          name: of it.
          written: up to which step metrics.jsonl goes, before what comes again is taken out of it.
        """
        own = self._of.get(name, {})
        arrived = own.get("arrived")
        arrived = dict(arrived) if isinstance(arrived, dict) and fits([*arrived.values()], list[int]) else {}
        if own.get("open"):
            arrived |= {about: max(step, arrived.get(about, 0)) for about, step in written.items()}
        return arrived

    def write(self, name: str, **fields: Any) -> None:
        """Changes fields of a tracker, in the file too."""
        with self._lock:
            self._of[name] = self._of.get(name, {}) | fields
            write_json(self.path, self._of)


def _is_short(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= 200 and text.isprintable()


class Aside:
    """A tracker in a thread of its own. Where it fails, one line says so, and the run goes on without it.

    Args:
      name: of a file of trackers/.
      facts: of the run.
      kept: what the workdir keeps of trackers.
      written: up to which step metrics.jsonl went, before what comes again was taken out.
      before: what metrics.jsonl holds now, in order.
    """

    def __init__(self, name: str, facts: Facts, kept: Kept, written: Arrived, before: Iterable[Entry]):
        self._name, self._kept = name, kept
        self._told = kept.arrived(name, written)  # at the start: what is told again is left out
        self._arrived = dict(self._told)
        self._entries: queue.Queue[Entry | Outcome] = queue.Queue()
        self.given_up, self._lock = False, threading.RLock()  # of what is kept
        for entry in before:
            self._put(entry)
        self._most = self._entries.qsize() + WAITING  # what was before is no sign of a slow tracker
        facts = facts._replace(kept=kept.texts(name), keep=self._keep, tell=self._tell)
        self._thread = threading.Thread(target=self._work, args=(facts,), name=name, daemon=True)
        self._thread.start()

    def _keep(self, texts: Mapping[str, str]) -> None:
        with self._lock:
            self._kept.write(self._name, kept=dict(texts), arrived=self._arrived, open=not self.given_up)

    def _tell(self, line: str) -> None:
        print(f"{self._name}: {printable(without_secrets(line))}\n", end="", flush=True)

    def _put(self, entry: Entry) -> None:
        if entry.step > self._told.get(entry.about, -1):
            self._entries.put(entry)

    def write(self, entry: Entry) -> None:
        """Hands an entry over, where the tracker has it not yet and was not left; waits for nothing."""
        if self.given_up:
            return
        if self._entries.qsize() < self._most:
            self._put(entry)
        else:
            self._give_up(f"is too slow: {self._most} entries wait")

    def flush(self) -> None:
        """Does nothing: a checkpoint waits for no tracker."""

    def close(self, outcome: Outcome) -> None:
        """Lets the tracker end, for at most CLOSE_SECONDS."""
        self._entries.put(outcome)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"no answer within {CLOSE_SECONDS:.0f} s, and {self._entries.qsize()} entries wait")

    def _give_up(
        self, why: str, way_out: str = "the next start of this workdir sends what is missing"
    ) -> None:
        """Leaves a tracker behind, and says so once."""
        with self._lock:
            if self.given_up:
                return
            self.given_up = True
            self._leave()
        lines = [line.strip() for line in without_secrets(why).splitlines() if line.strip()]
        logger.warning(
            "%s: %s. The run goes on without it; metrics.jsonl has every number, and %s",
            self._name,
            printable(lines[0])[:MAX_LENGTH].rstrip("."),
            way_out,
        )
        with contextlib.suppress(queue.Empty):
            while True:
                self._entries.get_nowait()
        with contextlib.suppress(Exception):  # it is left already
            getattr(find_module("trackers", self._name), "abandon", lambda: None)()

    def _leave(self) -> None:
        """Keeps what has arrived."""
        try:
            self._kept.write(self._name, arrived=dict(self._arrived), open=False)
        except OSError as error:
            self._give_up(str(error))

    def _work(self, facts: Facts) -> None:
        """Runs in the thread, from connecting to the end."""
        arrived = self._arrived
        try:
            tracker: Tracker = find_module("trackers", self._name).make(facts)
            while True:
                entry = self._entries.get()
                with self._lock:
                    if self.given_up:
                        return
                    arrived = self._arrived
                    if isinstance(entry, Entry):  # one that is under way when the tracker is left may arrive
                        self._arrived = arrived | {entry.about: entry.step}
                if not isinstance(entry, Entry):
                    tracker.close(entry)
                    self._leave()
                    return
                tracker.write(entry)
        except UnknownRun as error:
            self._give_up(
                str(error),
                "this stays so until the service of that run is named again, or the entry "
                f"{self._name!r} is removed from {printable(self._kept.path)} to begin a new run there",
            )
        except BaseException as error:  # whatever a service and its package raise, SystemExit among it
            self._arrived = arrived
            self._give_up(f"{type(error).__name__}: {error}")


def without_secrets(text: str) -> str:
    """Returns a text without the user, the password and the query of addresses, and without the value, of
    SECRET_LENGTH characters or more, of any variable of the environment that holds a key, a token, a password
    or a secret."""
    values = [value for name, value in os.environ.items() if SECRET.search(name)]
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= SECRET_LENGTH:
            text = text.replace(value, "***")
    text = re.sub(r"(\w+://)\S*@", r"\1", text)  # to the last @: passwords may hold one, and a slash
    return re.sub(r"(\w+://[^\s?#]*)[?#]\S*|\?\S*=\S*", r"\1", text)  # a path alone may have a query, too
