"""Orbax's manager of checkpoints, where a damaged file of metrics costs no more than those metrics."""

from __future__ import annotations

import logging
import math

import orbax.checkpoint as ocp

from imgcls_jax.runtime.buckets import as_path
from imgcls_jax.runtime.files import read_json
from imgcls_jax.runtime.mistakes import is_passing

logger = logging.getLogger(__name__)


class Manager(ocp.CheckpointManager):
    """Finds a checkpoint without metrics where their file is damaged. A subclass names best_metric."""

    best_metric = ""

    def metrics(self, step: int) -> dict[str, float] | None:
        """Returns the metrics that were recorded for a checkpoint, with best_metric among them."""
        path = as_path(self.directory) / str(step) / "metrics" / "metrics"
        if not self.best_metric or not path.exists():
            return None
        try:
            found = read_json(path)
            value = found.get(self.best_metric)
            if isinstance(value, (int, float)) and not math.isnan(value):
                return found
            raise ValueError(f"{path} holds no number {self.best_metric}")
        except ValueError as error:
            if is_passing(error):  # else the best checkpoint would be taken for one that may go
                raise
            logger.warning("%s; that checkpoint counts as not evaluated", error)
            return None
