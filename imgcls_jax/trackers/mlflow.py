"""MLflow: a run of a tracking server, or of a file.

The variables that the package defines hold: MLFLOW_TRACKING_URI (else mlflow.db and mlruns/ of the current
folder), MLFLOW_EXPERIMENT_ID or MLFLOW_EXPERIMENT_NAME (else the configuration's name), MLFLOW_RUN_ID,
MLFLOW_TRACKING_TOKEN, and so on; MLFLOW_RUN_NAME, else the workdir's name, names the run. Params of MLflow
never change: a field that another value took the place of at a resume becomes the tag "resumed.FIELD".
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from imgcls_jax.contracts.tracker import Entry, Facts, Outcome, Table, UnknownRun

PACKAGE, EXTRA = "mlflow", "mlflow"
EXPERIMENT = "imgcls_jax"  # of a run whose configuration has no name
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
METRICS, PARAMS = 1000, 100  # of one request, at most
NAME_LENGTH = 250
REFUSED = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what an id that is no run's is answered
PRINTS_NOTHING = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
Item = TypeVar("Item")


def make(facts: Facts) -> Mlflow:
    """Returns the tracker, once the store has the run.

    Raises:
      UnknownRun: the store has no run of the kept id, or a deleted one.
      Exception: of mlflow, here or in a method.
    """
    return Mlflow(facts)


class Mlflow:
    """A run of MLflow, by its client alone: nothing of mlflow's own active run is touched."""

    def __init__(self, facts: Facts):
        from mlflow import MlflowClient, MlflowException, entities

        os.environ[PRINTS_NOTHING] = "true"  # it would print the user and the password of an address
        for name in ("mlflow", "urllib3.connectionpool"):  # they tell of each table and each new try
            logging.getLogger(name).setLevel(logging.ERROR)
        self._client, self._entities = MlflowClient(), entities
        kept = facts.kept.get("id") or os.environ.get("MLFLOW_RUN_ID")
        if kept:
            try:
                self._client.update_run(kept, status="RUNNING")
            except MlflowException as error:
                if facts.kept.get("id") and error.error_code in REFUSED:
                    raise UnknownRun(error.message) from error
                raise
            self._id = kept
        else:
            name = os.environ.get("MLFLOW_RUN_NAME") or facts.workdir.name
            self._id = self._client.create_run(self._experiment(facts), run_name=name).info.run_id
        facts.keep({"id": self._id})
        self._write_fields(facts.fields)
        facts.tell(f"run {self._id}: {self._client.tracking_uri}")

    def _experiment(self, facts: Facts) -> str:
        given = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if given:
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or facts.config_name or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        return self._client.create_experiment(name) if found is None else found.experiment_id

    def _write_fields(self, fields: Mapping[str, Any]) -> None:
        told = self._client.get_run(self._id).data.params
        texts = {key: str(value) for key, value in _keys(fields).items()}
        new = [self._entities.Param(key, text) for key, text in texts.items() if key not in told]
        for part in _parts(new, PARAMS):
            self._client.log_batch(self._id, params=part)
        for key, text in texts.items():
            if key in told and told[key] != text:
                self._client.set_tag(self._id, f"resumed.{key}", text)

    def write(self, entry: Entry) -> None:
        """Sends an entry."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(key, value, now, entry.step) for key, value in _keys(entry.scalars).items()
        ]
        for part in _parts(metrics, METRICS):
            self._client.log_batch(self._id, metrics=part)
        for key, table in _keys(entry.tables).items():
            self._client.log_text(self._id, _csv(table), f"tables/{key}/{entry.step:08d}.csv")
        for key, picture in _keys(entry.pictures).items():
            self._client.log_image(self._id, picture, key=key.replace(":", "_"), step=entry.step)

    def flush(self) -> None:
        """Does nothing: nothing is held back."""

    def close(self, outcome: Outcome) -> None:
        """Says how the run ended."""
        self._client.set_terminated(self._id, STATUS[outcome])


def _keys(named: Mapping[str, Item]) -> dict[str, Item]:
    """Returns a mapping under names that MLflow takes; two that would become one are numbered."""
    keys: dict[str, Item] = {}
    for name, value in named.items():
        key = re.sub(r"[^\w/.\- :]", "_", name)[:NAME_LENGTH]
        number = 2
        while key in keys:
            key = f"{key[: NAME_LENGTH - 10]}_{number}"
            number += 1
        keys[key] = value
    return keys


def _parts(items: list[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _csv(table: Table) -> str:
    text = io.StringIO()
    rows: Iterable[Any] = (table.columns, *table.rows)
    csv.writer(text).writerows(rows)
    return text.getvalue()
