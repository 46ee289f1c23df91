"""Folders of images: where a data set lies, its class folders, and the image files in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from imgcls_jax.data.source import Root

IMAGE_SUFFIXES = tuple(".jpg .jpeg .jpe .png .bmp .gif .webp .tif .tiff .ppm .pgm .pbm .pnm".split())
SPLIT_FOLDERS = ("train", "val", "test")


class Origin(NamedTuple):
    """Where a public data set comes from.

    Attributes:
      data_set: what it is, a name and a few words.
      page: address of its official page.
      download: what to download there, with its size, and where it goes.
    """

    data_set: str
    page: str
    download: str

    @property
    def remedy(self) -> str:
        """What to do where it is absent, the end of a message."""
        return (
            f"{self.data_set}, comes from {self.page}: download {self.download}, or name the folder that "
            f"holds it by --config.data.root=FOLDER"
        )


def require_folder(root: Root, holds: str, remedy: str = "") -> Path:
    """Returns root.

    Args:
      root: a folder.
      holds: what it should hold.
      remedy: of an `Origin`; "" for images of the user's own.

    Raises:
      FileNotFoundError: it is no folder.
    """
    folder = Path(root).expanduser()
    if not os.path.isdir(folder):
        remedy = remedy or (
            "Name your own by --config.data.root=FOLDER; the head of a configuration's file says which "
            "images it expects"
        )
        raise FileNotFoundError(
            f"config.data.root: {str(folder)!r} is not a folder; it should hold {holds}. {remedy}"
        )
    return folder


def locate(root: Root, folder: str, marker: str, remedy: str) -> Path:
    """Returns root or root/folder, whichever holds the file `marker`.

    Raises:
      FileNotFoundError: neither does; the message ends with the remedy of an `Origin`.
    """
    root = Path(root).expanduser()
    for candidate in (root, root / folder):
        if os.path.isfile(candidate / marker):
            return candidate
    raise FileNotFoundError(f"config.data.root: neither {root} nor {root / folder} holds {marker}. {remedy}")


def subfolders(folder: Path) -> list[str]:
    folders = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    return sorted(name for name in folders if not name.startswith("."))


def class_folders(folder: Path) -> list[str]:
    names = subfolders(folder)
    if not names:
        raise ValueError(f"{folder} holds no class folder; expected {folder}/<class>/<image file>")
    return names


def image_files(folder: Path) -> list[str]:
    """Returns the image files below `folder` at any depth, relative to it and sorted, without hidden ones."""

    def stop(error: OSError) -> None:
        raise error

    paths = []
    for parent, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(parent, folder)
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                paths.append(os.path.normpath(os.path.join(inside, name)))
    if not paths:
        raise ValueError(f"{folder} holds no image file ({' '.join(IMAGE_SUFFIXES)}); add some or remove it")
    return sorted(paths)
