"""The example cache: later epochs neither read nor decode an image again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgcls_jax.data import transforms
from imgcls_jax.data.host_operation import HostOp
from imgcls_jax.data.source import Source
from imgcls_jax.data.subsets import Subset

ENTRY_BYTES = 1024  # counted for an example beside its arrays: what Python needs to hold it


class ExampleCache:
    """Holds examples of any number of sources, up to a number of bytes, for all threads of a process.

    Nothing is evicted. Each epoch visits every example once, so evicting one example for another would not
    raise the hit rate.

    Args:
        limit: bytes; `used` never exceeds it.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._examples: dict[Any, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._examples)

    def get(self, key: Any) -> dict[str, Any] | None:
        """Returns the example kept under a key, not to be changed, or None."""
        return self._examples.get(key)

    def keep(self, key: Any, example: dict[str, Any]) -> None:
        """Keeps an example of arrays and numbers where it fits."""
        size = ENTRY_BYTES + sum(np.asarray(value).nbytes for value in example.values())
        with self._lock:
            if key not in self._examples and self.used + size <= self.limit:
                self._examples[key] = example
                self.used += size


class Cached:
    """A source that caches each image after the leading deterministic transforms.

    Args:
        source: of the examples.
        ops: the first host operations of a line; none of them is random.
        cache: the memory. An example that a subset repeats, or that two subsets share, is kept once.
    """

    def __init__(self, source: Source, ops: Sequence[HostOp], cache: ExampleCache) -> None:
        self.source, self.ops, self.cache = source, tuple(ops), cache
        self.class_names, self.labels = source.class_names, source.labels

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        source = self.source
        while isinstance(source, Subset):
            index = int(source.indices[index])
            source = source.source
        key = (source, self.ops, index)
        example = self.cache.get(key)
        if example is None:
            example = dict(source[index])
            example["image"] = transforms.apply(self.ops, example["image"], np.random.default_rng(0))
            self.cache.keep(key, example)
        return example

    def describe(self, index: int) -> str:
        return self.source.describe(index)
