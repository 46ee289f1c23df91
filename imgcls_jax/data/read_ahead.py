"""Batches read ahead of their use with grain, in threads or in worker processes that end with the trainer."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import numpy as np

from imgcls_jax.data.pipeline import EvalBatches, TrainBatches
from imgcls_jax.data.worker_processes import require_guard


@contextlib.contextmanager
def iterate(
    batches: TrainBatches | EvalBatches,
    start: int,
    stop: int,
    *,
    num_threads: int = 2,
    num_workers: int = 0,
    prefetch: int = 4,
) -> Iterator[Iterator[dict[str, np.ndarray]]]:
    """Reads batches in order, ahead of their use.

    Batches gathered from an array are made on request: that is cheaper than to pass them between threads.

    Args:
      batches: random access to them.
      start, stop: the range to read.
      num_threads: threads that prepare batches (decoding and resizing release the interpreter lock).
      num_workers: worker processes instead of threads, each with its own copy of the source; 0 for threads.
      prefetch: batches prepared ahead.

    Yields:
      An iterator over batches[start:stop]; leaving the context ends threads and workers.

    Raises:
      SystemExit: worker processes would run the script from its beginning.
    """
    if batches.gather is not None and not batches.view_ops and not num_workers:
        yield (batches[step] for step in range(start, stop))
        return
    if num_workers:
        require_guard()
    import grain  # here, so that this module loads where grain is not installed

    dataset = grain.MapDataset.source(_Range(batches, start, stop))
    if num_workers:
        _parse_absl_flags()
        options = grain.MultiprocessingOptions(
            num_workers=num_workers, per_worker_buffer_size=max(1, prefetch // num_workers)
        )
        _start_tracker()
        read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        dataset = dataset.to_iter_dataset(read).mp_prefetch(options, worker_init_fn=_die_with_parent)
    else:
        dataset = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
        )
    iterator = iter(dataset)
    try:
        yield map(_own, iterator) if num_workers else iterator
    finally:
        iterator.close()


def _own(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns a batch in memory of its own, so that the shared memory of the workers is freed now."""
    return {
        key: tuple(map(np.array, value)) if isinstance(value, tuple) else np.array(value)
        for key, value in batch.items()
    }


def _start_tracker() -> None:
    """Starts Python's tracker of shared memory, which frees in silence what workers have left as they end."""
    before = list(sys.warnoptions)
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions[:] = before


class _Range:
    """batches[start:stop] as a sequence, for grain."""

    def __init__(self, batches: TrainBatches | EvalBatches, start: int, stop: int):
        self.batches, self.start, self.stop = batches, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        return self.batches[self.start + position]


def _parse_absl_flags() -> None:
    """grain's workers read absl flags; outside absl.app nobody has parsed them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _die_with_parent(*_: Any) -> None:
    """Asks Linux to kill this worker when the trainer dies; grain would leave it running."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
