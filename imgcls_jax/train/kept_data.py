"""What a workdir keeps of its data, in `data.json`: enough to refuse to go on with others.

class_names, splits   of the run: {split: {"examples": N, "digest": ...}}
names                 the examples' names and labels, packed
brightness            of the images trained on, for a hint at prediction
grown_from            {split: examples} before each growth that was accepted
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.config.field_types import fits
from imgcls_jax.data.contents import Contents, differing, pack
from imgcls_jax.runtime.files import read_json, write_json

logger = logging.getLogger(__name__)

FILE = "data.json"
FLAG = "--accept_data_growth"


def read(workdir: Path) -> dict[str, Any] | None:
    """Returns what a workdir keeps of its data; None where it keeps nothing, as those of older versions.

    Raises:
      ValueError: the file is damaged.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    kept = read_json(path)
    splits = kept.get("splits")
    if not (
        fits(kept.get("class_names"), Sequence[str])
        and isinstance(splits, dict)
        and all(isinstance(own, dict) and fits(own.get("examples"), int) for own in splits.values())
        and all(fits(own.get("digest"), str) for own in splits.values())
        and fits(kept.get("names", ""), str)
        and fits(kept.get("grown_from", []), list)
    ):
        raise ValueError(f"{path} is damaged: remove it, and the run goes on without comparing its data")
    return kept


def brightness_of(workdir: Path) -> tuple[float, float] | None:
    """Returns mean and spread of the brightness of the images trained on; None where that is not known."""
    try:
        found = (read(workdir) or {}).get("brightness")
    except ValueError:  # a hint is not worth a failure
        return None
    if isinstance(found, list) and len(found) == 2 and all(isinstance(value, float) for value in found):
        return found[0], found[1]
    return None


def has_grown(workdir: Path, split: str, examples: int) -> bool:
    """Whether a split has more examples than the workdir's run had."""
    kept = (read(workdir) or {}).get("splits", {}).get(split)
    return kept is not None and examples > kept["examples"]


def write(
    workdir: Path,
    splits: Mapping[str, Contents],
    class_names: Sequence[str],
    brightness: Callable[[], tuple[float, float] | None],
) -> None:
    """Writes what a workdir keeps of its data, where that has changed; `brightness` is asked once."""
    kept = read(workdir) or {}
    content = pack(splits, class_names)
    before = {name: own["examples"] for name, own in kept.get("splits", {}).items()}
    after = {name: own["examples"] for name, own in content["splits"].items()}
    grown_from = kept.get("grown_from", [])
    if any(before[name] != after[name] for name in before.keys() & after.keys()):
        grown_from = [*grown_from, before]
    content |= {"brightness": kept.get("brightness") or brightness(), "grown_from": grown_from}
    if content != kept:
        write_json(workdir / FILE, content)


def require_same(
    workdir: Path,
    splits: Mapping[str, Contents],
    class_names: Sequence[str],
    *,
    accept_growth: bool = False,
    told: bool = True,
) -> bool:
    """Checks that the data of a workdir are those at hand.

    Args:
      workdir: of the run.
      splits, class_names: at hand.
      accept_growth: whether more images, where nothing else has changed, are accepted.
      told: whether to say that nothing is known, and that they have grown.

    Returns:
      Whether they have grown.

    Raises:
      ValueError: they are others; names what changed.
    """
    kept = read(workdir)
    if kept is None:
        if told and (workdir / "config.json").exists():
            logger.warning("%s keeps no digest of its data: that they are the same is not checked", workdir)
        return False
    found = differing(kept, splits, class_names)
    lines = [line for own in found.values() for line in own.lines]
    grown = bool(found) and all(own.grown for own in found.values())
    if not found:
        return False
    if grown and accept_growth:
        if told:
            logger.warning(
                "the data have grown: %s. The run goes on from its newest checkpoint; the running epoch is "
                "shuffled anew, and metrics compare only with those from here on",
                "; ".join(lines),
            )
        return True
    way_out = f", or go on with more images: {FLAG}" if grown else ""
    raise ValueError(
        f"{workdir} belongs to a run on other data: {'; '.join(lines)}. Bring the data back, choose another "
        f"--workdir{way_out}"
    )
