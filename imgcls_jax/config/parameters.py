"""The parameters of what a section builds, and the section's fields filled by them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imgcls_jax.config.field_types import did_you_mean, fits, type_hints
from imgcls_jax.config.modules import find_function
from imgcls_jax.config.written import RENAMED, VALUES, Config

REQUIRED = inspect.Parameter.empty
UNITS = ("steps", "epochs", "examples")


def parameters_of(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {name: (annotation, default or REQUIRED)} of what takes keywords, without `fields`."""
    hints = type_hints(function)
    return {
        name: (hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD) and name != "fields"
    }


def options_of(make: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the parameters of an objective's or evaluator's `make` that are fields: its keywords."""
    signature = inspect.signature(make).parameters
    return {
        name: parameter
        for name, parameter in parameters_of(make).items()
        if signature[name].kind is inspect.Parameter.KEYWORD_ONLY
    }


def found(field: str, room: str, name: Any, function: str = "make") -> Callable[..., Any]:
    try:
        return find_function(room, name, function)
    except ValueError as error:
        raise ValueError(f"config.{field}: {error}") from error


def required(section: str, fields: Config, field: str) -> Any:
    if field not in fields:
        raise ValueError(f"config.{section}.{field} is missing")
    return fields[field]


def filled(section: str, parameters: Mapping[str, tuple[Any, Any]], fields: Config, *others: str) -> Config:
    """Returns every field of a section: as written where it is, else by its default.

    Args:
      section: its name, for messages.
      parameters: {name: (annotation, default)}; a name that ends in _steps is a duration.
      fields: as written.
      *others: fields that are read elsewhere.

    Raises:
      ValueError: a field that is unknown, missing, of another type, or given in two units.
    """
    fields = {key: value for key, value in fields.items() if key not in others}
    names = {name: spellings_of(name) for name in parameters}
    known = [spelling for spellings in names.values() for spelling in spellings]
    for field in fields:
        if f"{section}.{field}" in RENAMED:
            instead = "".join(
                f"; write {new!r} for {old}" for old, new in VALUES.get(f"{section}.{field}", {}).items()
            )
            raise ValueError(
                f"config.{section}.{field} is called {RENAMED[f'{section}.{field}']} now{instead}"
            )
        if field not in known:
            hint = did_you_mean(field, known) or f"there are {', '.join(names) or 'none'}"
            raise ValueError(f"config.{section}.{field}: no such field; {hint}")
    complete: Config = {}
    for name, (annotation, default) in parameters.items():
        given = [spelling for spelling in names[name] if spelling in fields]
        if len(given) > 1:
            raise ValueError(f"config.{section}: {' and '.join(given)} are one duration; keep one of them")
        if not given and default is REQUIRED:
            raise ValueError(f"config.{section}.{name} is missing{_in_other_units(names[name])}")
        if not given:
            complete[name] = default
            continue
        (spelling,) = given
        value = fields[spelling]
        if spelling != name:  # epochs and examples need not be whole
            annotation = Sequence[float] if fits([1], annotation) else float
        _require_type(section, spelling, value, annotation)
        if spelling != name and not value:  # 0 epochs are 0 steps, whatever an epoch is
            spelling, value = name, [] if isinstance(value, list) else 0
        complete[spelling] = value
    return complete


def spellings_of(name: str) -> tuple[str, ...]:
    """Returns the names under which a field may be written: a duration in three units."""
    if not name.endswith("_steps"):
        return (name,)
    return tuple(name.removesuffix("steps") + unit for unit in UNITS)


def _in_other_units(spellings: Sequence[str]) -> str:
    return f" (or {', '.join(spellings[1:])})" if len(spellings) > 1 else ""


def _require_type(section: str, field: str, value: Any, hint: Any) -> None:
    if not fits(value, hint):
        wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("collections.abc.", "")
        raise ValueError(f"config.{section}.{field} is of type {wanted}; got {value!r}")
