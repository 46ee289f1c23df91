"""Modules found by name: the model, objective, evaluator or data set that a configuration names."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from imgcls_jax.config.field_types import did_you_mean


def find_module(room: str, name: str) -> Any:
    """Returns the module imgcls_jax.<room>.<name>.

    Args:
      room: such as "models" or "data.sources".
      name: of the module's file, without ".py".

    Raises:
      ValueError: there is no such file; the message names those there are.
    """
    package = importlib.import_module(f"imgcls_jax.{room}")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    if name not in names:
        hint = did_you_mean(str(name), names)
        raise ValueError(
            f"imgcls_jax/{room.replace('.', '/')}/ has no file {name}.py; it has {', '.join(names)}"
            + (f" ({hint})" if hint else "")
        )
    return importlib.import_module(f"imgcls_jax.{room}.{name}")
