"""How many programs a run has had XLA compile: a number that its steps must not add to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import jax.monitoring

EVENT = "/jax/core/compile/backend_compile_duration"  # one a program, taken from the cache or not


@contextlib.contextmanager
def counted() -> Iterator[Callable[[], int]]:
    """Yields a function that returns how many programs were compiled since the context was entered."""
    count = 0

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        nonlocal count
        count += event == EVENT

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield lambda: count
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
