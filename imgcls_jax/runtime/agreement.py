"""What all processes of a run must have in common: what they see, and that none of them has failed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from imgcls_jax.runtime.mistakes import user_mistake

SHOWN = 3  # differences that an error names


class Disagreement(ValueError):
    """The processes cannot go on together; the message names those that it is about."""


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """What is done within fails in every process once it fails in one; each of them enters this.

    No process waits for another one within, since that one may have failed.

    Raises:
      Disagreement: in the processes that did not fail, naming those that did and why.
    """
    try:
        yield
    except BaseException as error:
        told = user_mistake(error) or f"{type(error).__name__}: {error}"  # never empty, which means sound
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one may be gone
            _gather(told)
        raise
    failed = [f"process {i}: {reason}" for i, reason in enumerate(_gather("")) if reason]
    if failed:
        raise Disagreement("; ".join(failed[:SHOWN]))


def require_agreement(facts: Mapping[str, Any]) -> None:
    """Compares facts among the processes; each of them calls this.

    Args:
      facts: JSON values by name, the same in every process of a sound run; causes before what follows them.

    Raises:
      Disagreement: in every process, naming those that differ from process 0, and the values.
    """
    everyone = _gather(dict(facts))
    first, absent = everyone[0], "absent"
    differing = [
        f"{name}: {_short(each.get(name, absent))} in process {i}, "
        f"{_short(first.get(name, absent))} in process 0"
        for i, each in enumerate(everyone)
        for name in dict.fromkeys([*first, *each])
        if first.get(name, absent) != each.get(name, absent)
    ]
    if differing:
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise Disagreement(f"the processes of this run differ in {'; '.join(differing[:SHOWN])}{more}")


def union(own: set[str]) -> set[str]:
    """Returns what the processes know together; each of them calls this."""
    return set().union(*_gather(sorted(own)))


def of_first(own: Any) -> Any:
    """Returns the JSON value that process 0 gives; each process calls this."""
    return _gather(own)[0]


def _gather(content: Any) -> list[Any]:
    """Returns the JSON values that the processes give, in the order of their numbers; each calls this."""
    if jax.process_count() == 1:
        return [content]
    own = np.frombuffer(json.dumps(content).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(own)))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(own)] = own
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
