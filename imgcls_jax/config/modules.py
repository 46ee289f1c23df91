"""Modules that a configuration names: a file of a room stands for what it holds."""

from __future__ import annotations

import importlib
import pkgutil
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
