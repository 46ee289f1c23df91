"""Orbax's manager of checkpoints, where a damaged file of metrics costs no more than those metrics."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from imgcls_jax.runtime.buckets import as_path, is_bucket, s3_server
from imgcls_jax.runtime.files import read_json
from imgcls_jax.runtime.mistakes import is_passing

logger = logging.getLogger(__name__)


# Some two minutes in all, where TensorStore itself goes on for a quarter of an hour.
RETRIES = {"max_retries": 8, "initial_delay": "1s", "max_delay": "32s"}


def absolute(directory: Path) -> Path:
    """Returns a folder of checkpoints as Orbax takes it.

    Raises:
      ValueError: it lies in s3://, and this version of Orbax is not known to go there.
    """
    if not is_bucket(directory):
        return Path(directory).absolute()
    _give_up_in_time()
    if os.fspath(directory).startswith("s3://"):
        _reach_s3()
    return as_path(directory)


def commit_by(directory: Path) -> Any:
    """Returns Orbax's way to tell a checkpoint that is whole; None for renaming its folder at the end.

    An object store renames by copying, which a kill may end. There a file says that all is written.
    """
    return ocp.path.atomicity.CommitFileTemporaryPath if is_bucket(directory) else None


def _give_up_in_time() -> None:
    """Bounds how often the arrays of a checkpoint are sent again to an object store that does not answer.

    Orbax has no option for it. Where a later version keeps its defaults elsewhere, those of TensorStore stay.
    """
    try:
        from orbax.checkpoint._src.serialization import tensorstore_utils
    except ImportError:
        return
    for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT"):
        context = getattr(tensorstore_utils, name, {})
        context.update(gcs_request_retries=RETRIES, s3_request_retries=RETRIES)


@functools.cache
def _reach_s3() -> None:
    """Lets Orbax write arrays to s3://, which TensorStore does and Orbax has no name for.

    What it says of a folder in gs:// holds there, but for the driver and the server.

    Raises:
      ValueError: this version of Orbax asks for it elsewhere.
    """
    try:
        from orbax.checkpoint._src.serialization import tensorstore_utils

        build = tensorstore_utils.build_kvstore_tspec
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"orbax-checkpoint {ocp.__version__} is not known to write to s3://: install the version of "
            "requirements.txt, or choose a --workdir on a disk or in gs://"
        ) from error

    @functools.wraps(build)
    def build_for_both(directory: str, *args: Any, **options: Any) -> Any:
        if not directory.startswith("s3://"):
            return build(directory, *args, **options)
        spec = build(f"gs{directory.removeprefix('s3')}", *args, **options)
        return _in_s3(spec, s3_server(directory))

    tensorstore_utils.build_kvstore_tspec = build_for_both


def _in_s3(spec: Any, server: Mapping[str, Any]) -> Any:
    """Returns a specification of TensorStore with each bucket of Google's as one of S3."""
    if isinstance(spec, list):
        return [_in_s3(part, server) for part in spec]
    if not isinstance(spec, dict):
        return spec
    spec = {name: _in_s3(part, server) for name, part in spec.items()}
    return spec | {"driver": "s3", **server} if "bucket" in spec else spec


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
