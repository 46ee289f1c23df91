"""Checks a stranger's .mat file of MATLAB 5 to 7.2 before scipy reads it: what it claims fits what it holds.

A compressed variable may unpack to a thousand times its size, and an array may claim elements that are not
there, for which scipy makes room. The form is that of "MAT-File Format", The MathWorks: elements of a tag
(type, number of bytes) and content, padded to 8 bytes; an array holds flags, dimensions, name and content.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Iterator

HEADER = 128  # bytes before the first element
MAX_UNPACKED = 2**25  # bytes; the lists of published data sets have a few million
MAX_DEPTH = 16  # of arrays in cells and structures
COMPRESSED, MATRIX = 15, 14  # types of elements
STRUCTURE, SPARSE = 2, 5  # classes of arrays
ARRAYS = {1, 2, *range(4, 16)}  # cells, structures, characters, sparse, and numbers


def require_honest(content: bytes) -> None:
    """Checks the arrays of a file at every depth.

    Args:
      content: of the file. One of MATLAB 4, whose arrays lie there as they are, passes.

    Raises:
      ValueError: it unpacks to more than MAX_UNPACKED bytes, claims more than it holds, or holds what no list
        needs, such as an object or a function.
    """
    if len(content) < HEADER or content[126:128] not in (b"IM", b"MI"):
        return  # of MATLAB 4, or nothing of the kind: scipy says so
    order = "<" if content[126:128] == b"IM" else ">"
    left = MAX_UNPACKED
    for kind, element in _elements(memoryview(content)[HEADER:], order):
        if kind == COMPRESSED:
            unpacked = zlib.decompressobj().decompress(element, left + 1)
            left -= len(unpacked)
            if left < 0:
                raise ValueError(f"it unpacks to over {MAX_UNPACKED:,} bytes, more than a list of images has")
            for inner, array in _elements(memoryview(unpacked), order):
                _require_array(inner, array, order, MAX_DEPTH)
        else:
            _require_array(kind, element, order, MAX_DEPTH)


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yields (type, content) of the elements that follow each other."""
    place = 0
    while len(content) - place >= 8:
        kind, size = struct.unpack_from(f"{order}II", content, place)
        if kind >> 16:  # a small element: type, size and content in 8 bytes
            kind, size, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
            if size > 4:
                raise ValueError(f"an element of at most 4 bytes claims {size}")
        else:
            start = place + 8
            end = start + size + (-size % 8 if kind != COMPRESSED else 0)
        if start + size > len(content):
            raise ValueError(f"an element claims {size:,} bytes and has {len(content) - start:,}")
        yield kind, content[start : start + size]
        place = end


def _require_array(kind: int, content: memoryview, order: str, depth: int) -> None:
    if kind != MATRIX or not content:  # an empty one stands for []
        return
    if not depth:
        raise ValueError(f"its arrays are nested over {MAX_DEPTH} deep")
    parts = _elements(content, order)
    head = [part for _, part in itertools.islice(parts, 3)]
    if len(head) < 3 or len(head[0]) < 4:
        raise ValueError("an array lacks its flags, dimensions or name")
    array_class = _integers(head[0], order)[0] & 0xFF
    if array_class not in ARRAYS:
        raise ValueError(f"it holds an object or a function (class {array_class}), which no list needs")
    size = math.prod(max(0, extent) for extent in _integers(head[1], order))
    if array_class == STRUCTURE:
        (width, names) = ([part for _, part in itertools.islice(parts, 2)] + [b"", b""])[:2]
        size *= max(1, len(names) // max(1, *_integers(width, order)[:1], 1))
    if array_class != SPARSE and size > len(content):
        raise ValueError(f"an array claims {size:,} elements in {len(content):,} bytes")
    for inner, element in parts:
        _require_array(inner, element, order, depth - 1)


def _integers(content: memoryview | bytes, order: str) -> tuple[int, ...]:
    count = len(content) // 4
    return struct.unpack_from(f"{order}{count}i", content)
