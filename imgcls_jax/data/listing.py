"""The image files of a folder: the one place that decides what an image file is."""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from imgcls_jax.runtime import buckets

Entry = os.DirEntry[str] | buckets.Object  # what a folder holds

IMAGE_SUFFIXES = tuple(
    ".jpg .jpeg .jpe .jfif .jfi .jif .pjpeg .pjp .mpo .png .apng .bmp .dib .gif .webp .tif .tiff "
    ".ppm .pgm .pbm .pnm".split()
)
HEIF_SUFFIXES = (".heic", ".heif", ".hif")  # read where pillow-heif is installed
# Files that hold many images, and the source that reads them.
CONTAINERS = {".parquet": "parquet", ".tar": "webdataset", ".array_record": "array_record"}
AVIF_SUFFIX = ".avif"  # read where Pillow was built with it
# The first bytes of files that have no suffix, as those that are named by a hash.
STARTS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|BM|RIFF....WEBP|II\*\0|MM\0\*|P[1-6][\s#]|"
    rb"....ftyp(avif|avis|heic|heix|mif1)",
    re.DOTALL,
)
# Folders that systems put beside those of a user.
SYSTEM_FOLDERS = (
    "__MACOSX",
    "__pycache__",
    "@eaDir",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
)


class Listing(NamedTuple):
    """The image files of a folder.

    Attributes:
      paths: of the image files at any depth, relative to the folder, sorted.
      left_out: how many of what else there is: {".heic": 30, "hidden": 2}.
    """

    paths: list[str]
    left_out: Mapping[str, int]


def list_images(folder: Path, seen: set[tuple[int, int]] | None = None) -> Listing:
    """Lists the image files below a folder: the one place that decides what an image file is.

    Links are followed, but not upwards; a folder that is reached twice is listed once. Files are told by
    their suffix, those without one by their first bytes. Hidden files and folders, and those of systems, are
    left out.

    Args:
      folder: exists.
      seen: (device, inode) of folders listed before, which are left out; those found are added.

    Raises:
      OSError: the folder or one below it cannot be listed.
    """
    if buckets.is_bucket(folder):
        return _list_objects(folder)
    seen = set() if seen is None else seen
    left_out: collections.Counter[str] = collections.Counter()
    above = set(map(_identity, map(os.stat, folder.resolve().parents)))
    paths = []
    waiting = [""] if _is_new(os.stat(folder), seen) else []
    while waiting:
        inside = waiting.pop()
        folders = []
        for entry in _scan(folder / inside):
            path = os.path.join(inside, entry.name)
            if is_folder(entry):
                folders.append((entry.is_symlink(), path, entry))
            elif kind := left_out_as(entry):
                left_out[kind] += 1
            else:
                paths.append(path)
        # Of two ways to a folder that without a link is taken.
        for _, path, entry in sorted(folders, key=lambda found: found[:2]):
            if is_hidden(entry.name):
                left_out["hidden"] += 1
            elif _identity(entry.stat()) not in above and _is_new(entry.stat(), seen):
                waiting.append(path)
            else:
                left_out["folders linked twice or upwards"] += 1
    return Listing(sorted(paths), left_out)


def _list_objects(folder: Path) -> Listing:
    """Lists the images of a folder in an object store, where nothing is linked."""
    left_out: collections.Counter[str] = collections.Counter()
    paths = []
    for found in buckets.below(folder):
        *folders, name = found.name.split("/")
        own = dataclasses.replace(found, name=name)
        if kind := "hidden" if any(map(is_hidden, folders)) else left_out_as(own):
            left_out[kind] += 1
        else:
            paths.append(found.name)
    return Listing(sorted(paths), left_out)


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Returns what to say of files that are no images: "30 .heic (...), 2 hidden"; "" where there is none."""
    most = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count} {kind}" for kind, count in most[:5] if count]
    if len(most) > 5:
        parts.append(f"{sum(count for _, count in most[5:])} others")
    if any(kind in HEIF_SUFFIXES for kind in left_out):
        parts.append("pip install 'imgcls-jax[heif]' reads HEIC")
    parts += [
        f"data.source = {source!r} reads {kind}" for kind, source in CONTAINERS.items() if kind in left_out
    ]
    return ", ".join(parts)


def entries_of(folder: Path) -> Sequence[Entry]:
    return buckets.entries(folder) if buckets.is_bucket(folder) else _scan(folder)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _is_new(found: os.stat_result, seen: set[tuple[int, int]]) -> bool:
    """Adds a folder to those seen; returns whether it was not among them."""
    key = _identity(found)
    if key in seen:
        return False
    seen.add(key)
    return True


def is_folder(entry: Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS


def left_out_as(entry: Entry) -> str:
    """Returns what a file that is no image is counted as; "" for an image."""
    if is_hidden(entry.name):
        return "hidden"
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return ""
    if suffix in HEIF_SUFFIXES or suffix == AVIF_SUFFIX:
        return "" if _can_decode(suffix) else suffix
    if not suffix:
        return "" if _starts_as_image(entry) else "without a suffix"
    return suffix if re.fullmatch(r"\.[a-z0-9_]{1,10}", suffix) else "of other suffixes"


@functools.cache
def _can_decode(suffix: str) -> bool:
    if suffix in HEIF_SUFFIXES:
        return importlib.util.find_spec("pillow_heif") is not None
    from PIL import features  # loaded where such a file lies alone

    return bool(features.check("avif"))


def _starts_as_image(entry: Entry) -> bool:
    try:
        if isinstance(entry, buckets.Object):
            start = entry.start(16)
        elif not entry.is_file():  # a pipe would wait for ever
            return False
        else:
            with open(entry.path, "rb") as file:
                start = file.read(16)
        found = STARTS.match(start)
    except OSError:
        return False
    if found is None or found[1] is None:
        return found is not None
    return _can_decode(AVIF_SUFFIX if found[1].startswith(b"avi") else HEIF_SUFFIXES[0])


def holds_images(folder: Path) -> bool:
    """Whether an image file lies in a folder itself."""
    return any(not is_folder(entry) and not left_out_as(entry) for entry in entries_of(folder))
