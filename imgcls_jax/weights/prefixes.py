"""The prefix under which a file of weights holds a network: "model.", "backbone.", "module.encoder_q.".

Training programs keep the network as a part of something larger, with other parts beside it: a queue, a
projector, a moving average. Whatever the prefix is called, the network is where all its names are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from types import ModuleType

import numpy as np

from imgcls_jax.weights.hugging_face import PREFIX
from imgcls_jax.weights.layout import renamed

Arrays = dict[str, np.ndarray]

MAX_PARTS = 8  # of a prefix, as in "module.encoder_q."; longer ones are not looked for
MAX_CHARACTERS = 200
NETWORK, AVERAGE = "encoder_q.", "encoder_k."  # of MoCo, whose authors measure the first
SHOWN = 5  # names beside the prefix


def under_prefix(
    arrays: Mapping[str, np.ndarray],
    family: ModuleType,
    variant: str,
    needed: frozenset[str],
    prefix: str = "",
) -> tuple[Arrays, str]:
    """Finds a network among arrays.

    The prefix taken is the one with most of the needed names under it, and with half of them at least. Where
    none is better than no prefix, the arrays stay as they are, but for copies of the network under prefixes.

    Args:
      arrays: by PyTorch's names.
      family, variant: of models/; its `import_weights` may know other names.
      needed: names of the backbone's arrays, as in layout.py.
      prefix: the one to take, as in "teacher."; "" to find it.

    Returns:
      The arrays of the network, without the prefix, and a sentence on what was taken and left; "" where there
      is no prefix.

    Raises:
      ValueError: the network is there under several prefixes, or nothing is under the one given.
    """
    if not prefix:
        best = _best(arrays, family, variant, needed)
        if best[0] == "":
            kept = {name: a for name, a in arrays.items() if not name.startswith(tuple(best[1:]))}
            copies = ", ".join(map(repr, best[1 : 1 + SHOWN]))
            return kept, f"copies of the network left out, under {copies}" if copies else ""
        prefix = best[0]
    prefix = f"{prefix.rstrip('.')}."
    taken = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    if not taken:
        first = next(iter(arrays))[:MAX_CHARACTERS]
        raise ValueError(f"no array's name begins with {prefix!r}; the first is {first!r}")
    beside = dict.fromkeys(_shown(name, prefix) for name in arrays if not name.startswith(prefix))
    if not beside:
        return taken, f"names read under {prefix!r}"
    listed = ", ".join(list(beside)[:SHOWN]) + (", ..." if len(beside) > SHOWN else "")
    return taken, f"names read under {prefix!r}, and what is beside it left out ({listed})"


def _best(
    arrays: Mapping[str, np.ndarray], family: ModuleType, variant: str, needed: frozenset[str]
) -> list[str]:
    """Returns the prefix to take, "" for none, and after "" those of copies.

    Raises:
      ValueError: there are several.
    """
    groups = {"": list(arrays)}
    for name in arrays:
        for prefix in _prefixes(name):
            groups.setdefault(prefix, []).append(name)
    covered = {"": 0}
    for prefix, names in groups.items():
        if 2 * len(names) >= len(needed):  # two streams may share the arrays of one network
            group = {name.removeprefix(prefix): arrays[name] for name in names}
            covered[prefix] = len(needed & _names_read(group, family, variant))
    most = max(covered.values())
    best = [prefix for prefix, count in covered.items() if count == most]
    # What reads foreign names takes off by itself what they begin with.
    taken_off = re.compile("" if hasattr(family, "import_weights") else rf"(?:^|\.){PREFIX.pattern}$")
    best = [
        prefix
        for prefix in best
        if not (taken_off.search(prefix) and any(prefix.startswith(p) for p in best if p != prefix))
    ]
    best = [p for p in best if p.removesuffix(AVERAGE) + NETWORK not in best or not p.endswith(AVERAGE)]
    if most == len(needed) and best[0] == "":
        return best
    if most == len(needed) and len(best) > 1:
        raise ValueError(
            f"the network is there {len(best)} times, under {' and '.join(map(repr, best[:SHOWN]))}: write "
            "the one to use into a file by tools.convert --prefix, and take that file"
        )
    return best if len(best) == 1 and 2 * most >= len(needed) else [""]


def _names_read(arrays: Arrays, family: ModuleType, variant: str) -> Set[str]:
    """Returns the names that a family finds."""
    try:
        return renamed(arrays, family, variant).keys()
    except ValueError:
        return set()


def _prefixes(name: str) -> Iterator[str]:
    """Yields the beginnings of a name that end with a dot, the shortest first."""
    end = name.find(".") + 1
    for _ in range(MAX_PARTS):
        if not 0 < end <= MAX_CHARACTERS:
            return
        yield name[:end]
        end = name.find(".", end) + 1


def _shown(name: str, prefix: str) -> str:
    """Returns what to call an array beside the prefix: its first parts, as many as those of the prefix."""
    return ".".join(name.split(".", prefix.count("."))[: prefix.count(".")])[:MAX_CHARACTERS]
