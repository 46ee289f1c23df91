"""What a run leaves for others to read, result.json and metrics.jsonl, checked as it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgcls_jax.config.field_types import fits
from imgcls_jax.runtime.files import MAX_METRICS_BYTES, parse_json, read_bytes, read_json
from imgcls_jax.train.writer import flatten

RESULT = {
    "config": dict,
    "metrics": dict,
    "steps": int,
    "wall_seconds": float,
    "config_digest": str,
    "state_digest": str,
    "versions": dict,
    "device": dict,
}
DEVICE = {"platform": str, "kind": str, "cores": int}


def require_fields(where: str | Path, content: Any, types: Mapping[str, Any]) -> None:
    """Raises ValueError for the first field that a JSON object lacks or has of another type.

    Args:
      where: it stands, for the message.
      content: any JSON value.
      types: annotations of the fields that it must have.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where} is damaged: expected an object; got {_shortened(content)}")
    for name, wanted in types.items():
        if not fits(content.get(name), wanted):
            got = _shortened(content[name]) if name in content else "nothing"
            raise ValueError(
                f"{where} is damaged: {name} is of type {getattr(wanted, '__name__', wanted)}; got {got}"
            )


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."


def read_result(workdir: Path) -> dict[str, Any]:
    """Returns a finished run's result.json.

    Raises:
      ValueError: it is absent or damaged.
    """
    path = workdir / "result.json"
    result = read_json(path)
    require_fields(path, result, RESULT)
    require_fields(f"{path}: device", result["device"], DEVICE)
    for name, metrics in result["metrics"].items():
        require_fields(f"{path}: metrics.{name}", metrics, {})
    return result


def read_records(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl, without a last line that a kill cut short.

    Raises:
      ValueError: another line that is no record; names it.
      OSError: the file cannot be read.
    """
    lines = read_bytes(path, MAX_METRICS_BYTES).decode("utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}, is not JSON: {line[:60]!r}") from error
        where = f"{path}, line {number},"
        require_fields(where, record, {"step": int})
        require_fields(where, record, dict.fromkeys(record, float | None))
        records.append(record)
    return records


def summary(result: dict[str, Any], workdir: Path) -> str:
    """Returns a few lines on a finished run, of what read_result returns."""
    speed, bad = result.get("examples_per_second"), result.get("bad_examples")
    lines = [
        f"finished: {result['steps']} steps in {result['wall_seconds']:.1f} s"
        + (f", {speed:,.0f} examples/s" if fits(speed, float) else "")
    ]
    for name, metrics in result["metrics"].items():
        shown = flatten(metrics, name)
        lines.append("  ".join(f"{key} {value:.5g}" for key, value in shown.items()))
    if bad:
        lines.append(f"{bad} images could not be read and were left out")
    return "\n".join(
        [*lines, f"state {result['state_digest'][:16]}", f"all of it: {workdir / 'result.json'}"]
    )
