"""Whose a workdir is: of one configuration, and of one run at a time."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from imgcls_jax.runtime.files import read_json
from imgcls_jax.train import experiment
from imgcls_jax.train.experiment import Config

logger = logging.getLogger(__name__)


def check(config: Config, workdir: Path) -> None:
    """Raises ValueError where another configuration trained in the workdir."""
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir {workdir} is a file")
    differing = experiment.differing_fields(read_json(path), config) if path.exists() else []
    if differing:
        raise ValueError(
            f"{workdir} belongs to a run of another configuration; choose another --workdir, or "
            + "\n  ".join(["give back:", *differing])
        )


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Holds <workdir>/lock while a run trains there; the system lets go of it however the process ends.

    The lock is of flock(2): over NFS it holds between hosts from version 4 on, or with lockd running. Where a
    file system has none, that is said and the run goes on without.

    Raises:
      ValueError: another run holds it.
    """
    import fcntl  # here, since Windows has none

    with (workdir / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            now = datetime.datetime.now().isoformat(" ", "seconds")
            file.write(f"process {os.getpid()} on {platform.node()} since {now}")
            file.flush()
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{workdir} is in use by {file.read() or 'another run'}: end it, or choose another --workdir"
            ) from None
        except OSError as error:
            logger.warning("%s cannot be locked (%s): see to it that no other run uses it", workdir, error)
        yield
