"""Modules that a configuration names: a file of a room stands for what it holds."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from imgcls_jax.config.field_types import did_you_mean


def find_module(room: str, name: Any) -> Any:
    """Returns the module imgcls_jax.<room>.<name>.

    Args:
      room: a package whose files are choices, such as "models" or "data.sources".
      name: of one of its files.

    Raises:
      ValueError: there is no such file; the message lists those that exist.
    """
    package = importlib.import_module(f"imgcls_jax.{room}")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    if name not in names:
        hint = did_you_mean(str(name), names)
        raise ValueError(
            f"imgcls_jax/{room.replace('.', '/')}/ has no file {name}.py; {hint + ' ' if hint else ''}"
            f"it has {', '.join(names)}"
        )
    return importlib.import_module(f"imgcls_jax.{room}.{name}")


def find_function(room: str, name: Any, function: str) -> Callable[..., Any]:
    """Returns what a module of a room exports under a name: "build" of models, "make" of all others.

    Raises:
      ValueError: there is no such file, or it exports nothing of that name that can be called.
    """
    found = getattr(find_module(room, name), function, None)
    if not callable(found):
        file = f"imgcls_jax/{room.replace('.', '/')}/{name}.py"
        got = "nothing" if found is None else f"{function} = {found!r}"
        raise ValueError(f"{file} must export a function {function}(...); it has {got}")
    return found
