"""What all processes of a run must have in common, compared before the first step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

SHOWN = 3  # differences that an error names


def require_agreement(facts: Mapping[str, Any], refusal: str = "") -> None:
    """Compares facts among the processes; each of them calls this.

    Args:
      facts: JSON values by name, the same in every process of a sound run.
      refusal: why this process cannot go on; then none does.

    Raises:
      ValueError: in every process, naming the processes that refuse or differ from process 0, and the values.
    """
    everyone = _gather({"refusal": refusal, "facts": dict(facts)})
    refusals = [f"process {i}: {each['refusal']}" for i, each in enumerate(everyone) if each["refusal"]]
    if refusals:
        raise ValueError("; ".join(refusals[:SHOWN]) if len(everyone) > 1 else refusal)
    first, absent = everyone[0]["facts"], "absent"
    differing = [
        f"{name}: {_short(each['facts'].get(name, absent))} in process {i}, "
        f"{_short(first.get(name, absent))} in process 0"
        for i, each in enumerate(everyone)
        for name in sorted(first.keys() | each["facts"].keys())
        if first.get(name, absent) != each["facts"].get(name, absent)
    ]
    if differing:
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise ValueError(f"the processes of this run differ in {'; '.join(differing[:SHOWN])}{more}")


def _gather(content: Any) -> list[Any]:
    """Returns the JSON value that each process gave, in the order of their numbers."""
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
