"""The variant of a family that a caller names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


def choose_variant(family: str, variants: Mapping[str, Entry], name: str) -> Entry:
    """Returns a family's entry for one of its variants.

    Args:
      family: the `__name__` of the family's module, for the message.
      variants: the family's table: the name of each variant, and what `build` makes of it.
      name: of the variant.

    Raises:
      ValueError: the family has no such variant; the message lists those it has.
    """
    if name not in variants:
        file = f"models/{family.rpartition('.')[2]}.py"
        known = ", ".join(variants)
        what = f"has the one variant {known}" if len(variants) == 1 else f"has the variants {known}"
        raise ValueError(f"{file} {what}; got {name!r}")
    return variants[name]
