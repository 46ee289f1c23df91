"""Folders of images: where a data set lies, its splits and class folders.

Every part of the project that looks into a folder asks here, so all see the same: `list_images` of
data/listing.py decides what an image file is, `find_layout` whether a folder is a split or a class.
"""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from imgcls_jax.data.known_layouts import source_of
from imgcls_jax.data.listing import (
    IMAGE_SUFFIXES,
    describe_left_out,
    entries_of,
    holds_images,
    is_folder,
    is_hidden,
    left_out_as,
    list_images,
)
from imgcls_jax.data.source import Root
from imgcls_jax.runtime import buckets

SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_WORDS = {word: split for split, words in SPLIT_WORDS.items() for word in words}
_FILLER = "sets?|data|datasets?|images?|imgs?|pictures?|photos?|splits?|folder|samples?"
_SPLIT_NAME = re.compile(f"(?:{_FILLER})*({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?:{_FILLER})*")
MAX_WRAPPERS = 8  # folders of one folder each that are passed through


class Download(NamedTuple):
    """A file of a public data set, which `tools.dataset download` fetches.

    Attributes:
      url: its address.
      size: bytes; 0 where no text says it.
      checksum: "md5:..." or "sha256:..."; "" where no text that can be trusted gives one.
      part: of the data set, such as "2007"; "" for what goes with every part.
      file: its name; "" for the end of the address.
    """

    url: str
    size: int
    checksum: str = ""
    part: str = ""
    file: str = ""

    @property
    def name(self) -> str:
        return self.file or self.url.rpartition("/")[2]


class Origin(NamedTuple):
    """Where a public data set comes from.

    Attributes:
      data_set: what it is, a name and a few words.
      page: address of its official page.
      download: what to download there, with its size, and where it goes.
      source: the name of its file in data/sources.
      files: what the command fetches; () where an account or a form stands before them.
    """

    data_set: str
    page: str
    download: str
    source: str = ""
    files: Sequence[Download] = ()

    @property
    def remedy(self) -> str:
        """What to do where it is absent, the end of a message."""
        command = f"python -m imgcls_jax.tools.dataset download {self.source} --root FOLDER"
        fetched = f"fetch it by `{command}`, or " if self.files else ""
        return (
            f"{self.data_set}, comes from {self.page}: {fetched}download {self.download}, or name the folder "
            f"that holds it by --config.data.root=FOLDER"
        )


def expanded(root: Root) -> Path:
    """Returns a path in which `~` is the home folder.

    Raises:
      FileNotFoundError: there is no such user, or it lies in an object store.
    """
    if "://" in os.fspath(root):
        by = f" by `{buckets.copying(root)} {os.fspath(root)} FOLDER`" if buckets.is_bucket(root) else ""
        raise FileNotFoundError(
            f"config.data.root: {os.fspath(root)!r} is an address, which image_folder, list_file and "
            f"array_record alone read; for other sources copy it to this machine{by}"
        )
    try:
        return Path(root).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"config.data.root: {os.fspath(root)!r}: {error}") from error


def require_folder(root: Root, holds: str, remedy: str = "", *, in_store: bool = False) -> Path:
    """Returns root.

    Args:
      root: a folder.
      holds: what it should hold.
      remedy: of an `Origin`; "" for images of the user's own.
      in_store: whether it may lie in an object store.

    Raises:
      FileNotFoundError: it is no folder.
      ValueError: an address of no known store, or its package is missing.
    """
    if in_store and "://" in os.fspath(root):
        folder = buckets.as_path(root)
        with buckets.told(folder):
            found = folder.is_dir()
    else:
        folder = expanded(root)
        found = os.path.isdir(folder)
    if not found:
        remedy = remedy or (
            "Name your own by --config.data.root=FOLDER; the head of a configuration's file says which "
            "images it expects"
        )
        raise FileNotFoundError(
            f"config.data.root: {str(folder)!r} is not a folder; it should hold {holds}. {remedy}"
        )
    return folder


def locate(root: Root, folders: str | Sequence[str], marker: str, remedy: str) -> Path:
    """Returns root, or the first of some folders in it, that holds the file `marker`.

    Raises:
      FileNotFoundError: none does; the message ends with the remedy of an `Origin`.
    """
    root = expanded(root)
    folders = [folders] if isinstance(folders, str) else list(folders)
    for candidate in (root, *(root / folder for folder in folders)):
        if os.path.isfile(candidate / marker):
            return candidate
    places = root / folders[0] if len(folders) == 1 else f"{', '.join(folders)} in it"
    raise FileNotFoundError(f"config.data.root: neither {root} nor {places} holds {marker}. {remedy}")


# ---- splits and classes


class Layout(NamedTuple):
    """How a folder of images is arranged.

    Attributes:
      top: the folder that holds the splits, or else the classes; where root holds nothing but one folder of
        folders, that one.
      splits: {name: folder} of what lies in top and is split; {} where top holds the classes.
    """

    top: Path
    splits: dict[str, Path]


def split_of(name: str) -> str:
    """Returns the split that a name means, however it is written: "Training set" is "train"; "" for none."""
    found = _SPLIT_NAME.fullmatch(re.sub(r"[\W_]+", "", name.lower()))
    return _WORDS[found[1]] if found else ""


def named_split(split: str, names: Collection[str], where: Path) -> str | None:
    """Returns which of some names a split has there: the same, or the one that means the same; None for none.

    Raises:
      ValueError: several mean it.
    """
    if split in names:
        return split
    same = sorted(name for name in names if split_of(name) and split_of(name) == split_of(split))
    if len(same) > 1:
        raise ValueError(f"{where}: the split {split!r} may be any of {same}; name one of them in full")
    return same[0] if same else None


def find_layout(root: Path) -> Layout:
    """Tells splits from classes.

    A folder that is called as splits are (`split_of`) and holds folders is a split; one that holds images
    itself, beside others that do, is a class.

    Raises:
      ValueError: folders may be either.
    """
    top = unwrapped(root)
    names = subfolders(top)
    named = [name for name in names if split_of(name)]
    kinds = {split_of(name) for name in named}
    others = [name for name in names if name not in named]
    if not named:
        _require_no_split_among(top, names)
        return Layout(top, {})
    beside = [name for name in others if holds_images(top / name)]
    if len(kinds) == 1 and beside and all(holds_images(top / name) for name in named):
        return Layout(top, {})  # a class that is called train
    if len(kinds) == 1:
        _require_splits(top, named, others, beside)
    return Layout(top, {name: top / name for name in names})


def unwrapped(folder: Path, known: Collection[str] = ()) -> Path:
    """Returns the folder, or what it holds where that is one folder of folders alone, and so on."""
    for _ in range(MAX_WRAPPERS):
        names = subfolders(folder)
        if len(names) != 1 or names[0] in known or holds_images(folder):
            break
        if split_of(names[0]) not in ("", split_of(folder.name)):  # train/train/<class> is passed through
            break
        inner = folder / names[0]
        if not subfolders(inner) or holds_images(inner):
            break
        folder = inner
    return folder


def _require_no_split_among(top: Path, names: list[str]) -> None:
    """Raises ValueError where folders seem to be splits by an unusual name, as `seg_train` and `seg_test`."""
    words = {name: [_WORDS[w] for w in re.split(r"[\W_\d]+", name.lower()) if w in _WORDS] for name in names}
    alike = [name for name in names if words[name] and not holds_images(top / name)]
    if len({words[name][0] for name in alike}) > 1:
        raise ValueError(
            f"{top}: are {_quoted(alike)} splits? They hold no images but folders. Call them train, val and "
            "test, or name one of them by config.data.root"
        )


def _require_splits(top: Path, named: list[str], others: list[str], beside: list[str]) -> None:
    """Raises ValueError where a folder with a split's name lies beside folders that may be classes."""
    classes = {name for split in named for name in subfolders(top / split)}
    unlike = [
        name
        for name in others
        if name not in beside
        and not classes & set(subfolders(top / name))
        and any(holds_images(top / name / inner) for inner in subfolders(top / name))
    ]
    if beside or unlike:
        raise ValueError(
            f"{top}: is {_quoted(named)} a split or a class? Beside it lies {_quoted(beside or unlike)}. "
            "Move that away if it is a split; give it another name if it is a class"
        )


def _quoted(names: Collection[str]) -> str:
    shown = ", ".join(map(repr, sorted(names)[:4]))
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown


def subfolders(folder: Path) -> list[str]:
    return sorted(e.name for e in entries_of(folder) if is_folder(e) and not is_hidden(e.name))


def class_folders(folder: Path, known: Collection[str] = ()) -> dict[str, Path]:
    """Returns {class: its folder} of a split, or of a whole that is not split.

    Args:
      folder: of the classes, or of one folder that holds them.
      known: the classes' names where they are.

    Raises:
      ValueError: there is none.
    """
    inside = unwrapped(folder, known)
    names = subfolders(inside)
    if not names:
        flat = "; images without labels lie in one such folder of any name" if holds_images(inside) else ""
        if source := source_of(inside):
            flat = f"; data.source = {source!r} reads this data set"
        raise ValueError(f"{folder} holds no class folder; expected {folder}/<class>/<image file>{flat}")
    return {name: inside / name for name in names}


class Labeled(NamedTuple):
    """The images of a split, or of a whole that is not split.

    Attributes:
      folder: the paths start here.
      paths, names: of N images, and the names of their classes.
      left_out: how many of what is no image.
    """

    folder: Path
    paths: list[str]
    names: list[str]
    left_out: Mapping[str, int]


def labeled_images(folder: Path, known: Collection[str] = ()) -> Labeled:
    """Lists the images of class folders; arguments as of `class_folders`.

    Raises:
      ValueError: no class folder, one without an image, or splits inside the classes.
      OSError: a folder cannot be listed.
    """
    paths: list[str] = []
    names: list[str] = []
    left_out: collections.Counter[str] = collections.Counter()
    classes = class_folders(folder, known)
    inside = next(iter(classes.values())).parent
    for name, own in classes.items():
        listing = list_images(own)
        if not listing.paths:
            found = describe_left_out(listing.left_out)
            raise ValueError(
                f"{own} holds no image file ({' '.join(IMAGE_SUFFIXES)}"
                f"{f'; it holds {found}' if found else ''}); add some or remove it"
            )
        paths += [os.path.join(name, path) for path in listing.paths]
        names += [name] * len(listing.paths)
        left_out.update(listing.left_out)
    _require_no_split_inside(inside, paths)
    for entry in entries_of(inside):
        if not is_folder(entry):
            left_out[left_out_as(entry) or "beside the class folders"] += 1
    return Labeled(inside, paths, names, left_out)


def _require_no_split_inside(folder: Path, paths: Collection[str]) -> None:
    """Raises ValueError for <class>/train/<image> with <class>/test/<image>."""
    inner = {parts[1] for parts in (path.split(os.sep, 2) for path in paths) if len(parts) == 3}
    splits = {split_of(name) for name in inner} - {""}
    if len(splits) > 1 and all(map(split_of, inner)):
        raise ValueError(
            f"{folder} holds <class>/<split>/<image>, with {_quoted(inner)} inside the classes; expected "
            "<split>/<class>/<image>"
        )


def all_labeled(root: Path) -> Iterator[tuple[str, Labeled]]:
    """Yields (split's folder name, its images) of a folder, ("", images) where it is not split.

    Raises:
      ValueError, OSError: as of `find_layout` and `labeled_images`.
    """
    layout = find_layout(root)
    known: Collection[str] = ()
    train = named_split("train", layout.splits, layout.top)
    if train:
        known = class_folders(layout.splits[train])
    for name, folder in layout.splits.items():
        if split_of(name):
            yield name, labeled_images(folder, known)
    if not layout.splits:
        yield "", labeled_images(layout.top)
