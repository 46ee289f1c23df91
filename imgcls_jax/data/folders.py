"""Folders of images: where a data set lies, its class folders, and the image files in them."""

from __future__ import annotations

import os
from pathlib import Path

from imgcls_jax.data.source import Root

IMAGE_SUFFIXES = tuple(".jpg .jpeg .jpe .png .bmp .gif .webp .tif .tiff .ppm .pgm .pbm .pnm".split())
SPLIT_FOLDERS = ("train", "val", "test")


def require_folder(root: Root, holds: str) -> Path:
    folder = Path(root).expanduser()
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"root {str(folder)!r} is not a folder; it should hold {holds}")
    return folder


def locate(root: Root, folder: str, marker: str, remedy: str) -> Path:
    """Returns root or root/folder, whichever holds the file `marker`."""
    root = Path(root).expanduser()
    for candidate in (root, root / folder):
        if os.path.isfile(candidate / marker):
            return candidate
    raise FileNotFoundError(f"neither {root} nor {root / folder} holds {marker}; {remedy}")


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
