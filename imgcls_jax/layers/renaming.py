"""Other packages' names of a network's modules, brought to those of this package."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def renamed(name: str, rules: Sequence[Rule]) -> str:
    """Replaces the beginning of a name by the first rule that matches it.

    Args:
      name: of an array, as in "stem.0.weight".
      rules: a pattern and what takes its place, as `re.sub` has it.

    Returns:
      the new name; the old one where no rule matches.
    """
    for pattern, replacement in rules:
        new, count = re.subn(rf"\A(?:{pattern})", replacement, name)
        if count:
            return new
    return name


def with_modules_renamed(arrays: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """Returns arrays under the names of other modules.

    Args:
      arrays: {"MODULE.LEAF": array}.
      known: {module: what it is called instead}; other modules keep their names.
    """
    parts = [name.rpartition(".") for name in arrays]
    names = [f"{known.get(module, module)}{dot}{leaf}" for module, dot, leaf in parts]
    return dict(zip(names, arrays.values(), strict=True))
