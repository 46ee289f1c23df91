"""Weights & Biases: a run of https://wandb.ai, of a server of one's own, or of a folder (WANDB_MODE=offline).

The variables that the package defines hold: WANDB_MODE, WANDB_BASE_URL, WANDB_ENTITY, WANDB_PROJECT (else the
configuration's name), WANDB_NAME (else the workdir's), WANDB_RUN_ID, WANDB_DIR (else the workdir), and so on.
The key is that of `wandb login` or WANDB_API_KEY; none is asked for. Charts are drawn over "step", the run's
own: W&B's count of calls takes no earlier step after a later one, as a resumed run may bring it.
"""

from __future__ import annotations

import logging
import os
import uuid
from typing import Any

from imgcls_jax.contracts.tracker import Entry, Facts, Outcome, UnknownRun
from imgcls_jax.runtime.buckets import is_bucket

PACKAGE, EXTRA = "wandb", "wandb"
PROJECT = "imgcls_jax"  # of a run whose configuration has no name
STEP = "step"


def make(facts: Facts) -> Wandb:
    """Returns the tracker, once the service has the run.

    Raises:
      UnknownRun: the kept id can be none of a run.
      ValueError: there is no key.
      Exception: of wandb, here or in a method.
    """
    return Wandb(facts)


def abandon() -> None:
    """Ends the process that sends, for which wandb would wait at the end of this one, for minutes.

    What it holds stays in the run's folder, which `wandb sync` sends.
    """
    import wandb

    connection: Any = getattr(wandb.setup(), "_connection", None)  # wandb offers no other way
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    if process is not None:
        connection._cleanup()  # what it would do at the end, which is to wait
        process.terminate()


class Wandb:
    """A run of W&B."""

    def __init__(self, facts: Facts):
        import wandb
        from wandb.errors import UsageError

        name = facts.kept.get("id") or os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:12]
        try:
            wandb.Settings(run_id=name)
        except UsageError as error:
            if facts.kept.get("id"):
                raise UnknownRun(str(error)) from error
            raise
        # Of wandb's own reports; it tells of each that does not arrive.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            x_transaction_log_flush_interval=1.0,  # seconds: what a kill may take
        )
        offline = wandb.setup(settings).settings.mode in ("offline", "disabled", "dryrun")
        if not offline and not wandb.login(prompt=False, verify=False):
            raise ValueError("there is no key: run `wandb login`, or set WANDB_MODE=offline")
        folder = None
        if not os.environ.get("WANDB_DIR") and not is_bucket(facts.workdir):
            folder = str(facts.workdir)
            if (facts.workdir / "wandb").is_symlink():  # of a stranger's workdir, into any folder
                raise ValueError(f"{facts.workdir / 'wandb'} is a symbolic link: remove it")
        project = os.environ.get("WANDB_PROJECT") or facts.kept.get("project") or facts.config_name or PROJECT
        facts.keep({"id": name, "project": project})
        self._wandb = wandb
        self._run = wandb.init(
            id=name,
            project=project,
            name=os.environ.get("WANDB_NAME") or facts.workdir.name,
            resume="allow",
            dir=folder,
            settings=settings,
        )
        self._run.config.update(dict(facts.fields), allow_val_change=True)
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        facts.tell(f"run {name}: {self._run.url or self._run.settings.sync_dir}")

    def write(self, entry: Entry) -> None:
        """Hands an entry to the process that sends it."""
        tables = {
            name: self._wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
            for name, table in entry.tables.items()
        }
        pictures = {name: self._wandb.Image(picture) for name, picture in entry.pictures.items()}
        self._run.log({STEP: entry.step} | dict(entry.scalars) | tables | pictures)

    def flush(self) -> None:
        """Does nothing: nothing is held back here."""

    def close(self, outcome: Outcome) -> None:
        """Waits until all is sent, and ends the run."""
        self._run.finish(exit_code=int(outcome != "finished"))
