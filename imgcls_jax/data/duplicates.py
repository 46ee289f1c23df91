"""Images that are the same, or nearly: by their decoded pixels, and by difference hashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

HASH_SIDE = 8


class Found(NamedTuple):
    """An image.

    Attributes:
      path: relative to the root.
      split: "" where there are no splits.
      label: its class's name.
      size: (width, height), pixels.
      digest: of the decoded pixels.
      hash: uint64, which of neighbouring pixels of a row is brighter, on an image shrunk to 9x8.
    """

    path: str
    split: str
    label: str
    size: tuple[int, int]
    digest: str
    hash: int


def difference_hash(image: Image.Image) -> int:
    """Returns 64 bits that small changes of an image leave alone: whether each pixel of its 9x8 gray version
    is brighter than the one to its left."""
    gray = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(gray, np.int16)
    bits = (pixels[:, 1:] > pixels[:, :-1]).ravel()
    return int(np.packbits(bits).view(">u8")[0])


def exact_duplicates(found: Sequence[Found]) -> list[list[int]]:
    """Returns groups of positions, of two or more, whose decoded pixels are equal."""
    groups: dict[str, list[int]] = {}
    for position, image in enumerate(found):
        groups.setdefault(image.digest, []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def near_duplicates(found: Sequence[Found], most: int) -> list[list[int]]:
    """Returns groups of positions, of two or more, whose hashes differ in at most `most` bits from that of
    another of the group.

    Of exact duplicates the first stands for all. Images without any structure, whose hash is 0, are like
    everything even, and left out.
    """
    first_of: dict[str, int] = {}
    for position, image in enumerate(found):
        if image.hash:
            first_of.setdefault(image.digest, position)
    positions = list(first_of.values())
    hashes = np.array([found[position].hash for position in positions], np.uint64)
    group = np.arange(len(hashes))
    for row in range(len(hashes)):  # a row at a time: all pairs of alike images would not fit the memory
        close = np.flatnonzero(np.bitwise_count(hashes[row + 1 :] ^ hashes[row]) <= most) + row + 1
        others = np.unique(group[close])
        if (others != group[row]).any():
            group[np.isin(group, others)] = group[row]
    members: dict[int, list[int]] = {}
    for position, number in zip(positions, group.tolist(), strict=True):
        members.setdefault(number, []).append(position)
    return [own for own in members.values() if len(own) > 1]
