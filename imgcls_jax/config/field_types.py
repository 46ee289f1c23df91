"""The fields of a configuration against the annotations of what they are arguments of."""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns the hint at the known name nearest to a mistyped one; "" where none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]!r}?" if near else ""


def type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the annotations of a function's parameters; a class stands for its constructor."""
    return typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)


def require_types(function: Callable[..., Any], section: str, fields: Mapping[str, Any]) -> None:
    """Raises ValueError for the first field whose value its annotation does not allow.

    Args:
      function: what takes the fields; a class stands for its constructor. Fields it does not name pass.
      section: of the configuration, for the message.
      fields: JSON values.
    """
    hints = type_hints(function)
    for name, value in fields.items():
        if name in hints and not fits(value, hints[name]):
            hint = hints[name]
            wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("collections.abc.", "")
            raise ValueError(f"config.{section}.{name} is of type {wanted}; got {value!r}")


def fits(value: Any, hint: Any) -> bool:
    """Returns whether an annotation allows a JSON value: a list stands for any sequence, an integer for a
    float, but True for no number. Annotations of other kinds allow everything."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin in (Sequence, list, tuple):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and parts[-1] is not Ellipsis:
            return len(value) == len(parts) and all(map(fits, value, parts))
        return all(fits(item, parts[0]) for item in value)
    if origin in (Mapping, dict):
        return isinstance(value, Mapping)
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, (int, float))
    if not isinstance(hint, type) or hint is Any or getattr(hint, "_is_protocol", False):
        return True
    return isinstance(value, hint)


def require_at_least(section: str, fields: Any, **least: float) -> None:
    """Raises ValueError for the first attribute of `fields` that is below its least value."""
    for name, bound in least.items():
        if getattr(fields, name) < bound:
            raise ValueError(f"config.{section}.{name} is at least {bound}; got {getattr(fields, name)!r}")
