"""Answers single images in batches: what came while the network was busy is its next batch.

A batch waits for nobody. An image that comes alone is answered alone; under load the batches grow by
themselves, up to the largest. This needs no time to wait to be chosen, and costs an idle server no latency.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np


class Full(Exception):
    """As many images as the batcher takes are waiting."""


class Closed(Exception):
    """The batcher was closed."""


def sizes_up_to(largest: int) -> tuple[int, ...]:
    """Returns the batch sizes that are compiled: the powers of two below `largest`, and `largest`."""
    return (*(2**power for power in range((largest - 1).bit_length())), largest)


class Batcher:
    """Runs a function of batches on images that come one at a time, from any thread, in a thread of its own.

    Each batch is filled up with zeros to one of few sizes, so that few programs are compiled.

    Args:
      function: uint8 [B, H, W, C] -> float [B, K], row by row; B is one of `sizes_up_to(batch_size)`.
      shape: (H, W, C).
      batch_size: images at a time, at most.
      most_waiting: images that wait at a time, at most, beside those the function is at.
      observe: is told the number of images of each batch, before it runs.
    """

    def __init__(
        self,
        function: Callable[[np.ndarray], Any],
        shape: Sequence[int],
        *,
        batch_size: int,
        most_waiting: int,
        observe: Callable[[int], None] = lambda count: None,
    ):
        self._function, self._shape, self._observe = function, tuple(shape), observe
        self._sizes = sizes_up_to(batch_size)
        self._waiting: queue.Queue[tuple[np.ndarray, Future[np.ndarray]] | None]
        self._waiting = queue.Queue(most_waiting)
        self._lock = threading.Lock()  # nothing is put in after the end was
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def start(self) -> None:
        """Compiles the function for every size, then begins to answer."""
        for size in self._sizes:
            np.asarray(self._function(np.zeros((size, *self._shape), np.uint8)))
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether images are answered."""
        return self._thread.is_alive() and not self._closed

    @property
    def num_waiting(self) -> int:
        """How many images wait, about."""
        return self._waiting.qsize()

    def submit(self, image: np.ndarray) -> Future[np.ndarray]:
        """Returns the answer to come, float [K]. Where it is cancelled in time, its image is left out.

        Args:
          image: uint8 [H, W, C].

        Returns:
          A future that ends with the row, with ValueError where it is no number, or with what the function
          raised on the whole batch.

        Raises:
          ValueError: the image has another shape or dtype.
          Full: too many wait.
          Closed: after `close`.
        """
        if image.shape != self._shape or image.dtype != np.uint8:
            raise ValueError(f"expected uint8 {self._shape}, got {image.dtype} {image.shape}")
        answer: Future[np.ndarray] = Future()
        with self._lock:
            if self._closed:
                raise Closed("no more images are answered")
            try:
                self._waiting.put_nowait((image, answer))
            except queue.Full:
                raise Full(f"{self._waiting.maxsize} images are waiting") from None
        return answer

    def close(self) -> None:
        """Answers what waits, and ends the thread. A second call does nothing."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed and self._thread.is_alive():
            self._waiting.put(None)  # waits for room where the queue is full
            self._thread.join()

    def _run(self) -> None:
        while True:
            batch, ended = self._next()
            # An image whose asker has gone costs no place in the batch.
            batch = [(image, answer) for image, answer in batch if answer.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)
            if ended:
                return

    def _next(self) -> tuple[list[tuple[np.ndarray, Future[np.ndarray]]], bool]:
        """Waits for an image, and returns all that wait by then; and whether the end came."""
        batch: list[tuple[np.ndarray, Future[np.ndarray]]] = []
        while len(batch) < self._sizes[-1]:
            try:
                item = self._waiting.get(block=not batch)
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    def _answer(self, batch: list[tuple[np.ndarray, Future[np.ndarray]]]) -> None:
        size = next(size for size in self._sizes if size >= len(batch))
        images = np.zeros((size, *self._shape), np.uint8)
        for row, (image, _) in enumerate(batch):
            images[row] = image
        try:
            self._observe(len(batch))
            rows = np.asarray(self._function(images))
        except Exception as error:  # whatever the network raises; the next batch may succeed
            for _, answer in batch:
                answer.set_exception(error)
            return
        for row, (_, answer) in zip(rows, batch, strict=False):
            if np.isfinite(row).all():
                answer.set_result(row)
            else:
                answer.set_exception(ValueError("the network gives no number for it (NaN or infinity)"))
