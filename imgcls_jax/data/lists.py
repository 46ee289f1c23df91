"""Text files that list images: `path label` lines, class names, and tables of words.

Every error names the file and the line.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import io
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from imgcls_jax.data.folders import expanded, named_split
from imgcls_jax.data.listing import entries_of
from imgcls_jax.runtime import buckets

# What the columns of a table are called where a configuration does not say it, compared without case and
# separators.
IMAGE_COLUMNS = ("image", "filename", "file", "path", "imagepath", "filepath", "imagename", "imageid", "id")
LABEL_COLUMNS = ("label", "class", "target", "category", "classname", "labelname")
CAPTION_COLUMNS = ("caption", "captions", "text", "title", "comment", "description", "sentence", "rawcaption")
SPLIT_COLUMNS = ("split", "subset", "set")
MAX_NUMBER = 2**31  # ids and pixels lie below
MAX_LINE = 2**16  # characters of a line of a list
MAX_LIST_BYTES = 2**31  # of a list in an object store, which is read whole
MAX_CLASSES = 1_000_000  # a larger integer at the end of a list's line is an id or a date, not a class index


@contextlib.contextmanager
def quoted_inside(root: Path, path: Path) -> Iterator[None]:
    """Keeps what a file says out of errors where it lies outside of the data's root.

    Args:
      root: of the data.
      path: of the file that is read within.

    Raises:
      ValueError: as raised within, but without the file's content where that is not the data's.
    """
    try:
        yield
    except ValueError as error:
        if path.resolve().is_relative_to(root.resolve()):
            raise
        line = re.match(re.escape(f"{path}, line ") + r"\d+", str(error))
        raise ValueError(
            f"{line[0] if line else path}: not as expected. The file lies outside of {root}, so nothing of "
            "it is shown; move it there to see more"
        ) from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, stripped text) for the lines that are not blank."""
    if not (path.exists() if buckets.is_bucket(path) else os.path.isfile(path)):
        raise FileNotFoundError(f"{path} is missing; restore it, or correct config.data")
    # surrogateescape is how Python spells file names that are not UTF-8, so such lists find their files.
    with _opened(path) as file:
        # No more of a line than that is read: a file of another kind may hold one of gigabytes.
        lines = enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), start=1)
        for number, text in enumerate(_sound(path, lines), start=1):
            if text.strip():
                yield number, text.strip()


def _opened(path: Path) -> IO[str]:
    if buckets.is_bucket(path):
        held = io.BytesIO(buckets.read_bytes(path, MAX_LIST_BYTES))
        return io.TextIOWrapper(held, encoding="utf-8-sig", errors="surrogateescape")
    return open(path, encoding="utf-8-sig", errors="surrogateescape")


def read_names(path: Path, expected: int | None = None) -> tuple[str, ...]:
    names = tuple(text for _, text in read_lines(path))
    if not names or (expected is not None and len(names) != expected):
        raise ValueError(f"{path}: expected {expected or 'some'} class names, one a line; got {len(names)}")
    check_names(names, path)
    return names


def check_names(names: Sequence[str], path: Path) -> None:
    twice, times = collections.Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise ValueError(f"{path}: two classes are named {twice!r}; give each a name of its own")


def by_value(name: str) -> tuple[bool, float, str]:
    """Sorts whole numbers by value, before words."""
    is_number = name.isascii() and name.isdigit() and len(name) < 16
    return (not is_number, int(name) if is_number else 0, name)


def read_class_labels(path: Path, class_names: Sequence[str]) -> list[int]:
    """Returns the labels of the classes that a file names, one a line, rising."""
    label_of = {name: label for label, name in enumerate(class_names)}
    labels: set[int] = set()
    for number, name in read_lines(path):  # not quoted: the workdir of a stranger may name any file
        label = label_of.get(name)
        if label is None or label in labels:
            fault = "not the name of a class" if label is None else "a class that is named before"
            known = ", ".join(class_names[:3])
            raise ValueError(
                f"{path}, line {number}: {fault}; the data have {len(class_names)}: {known}, ..."
            )
        labels.add(label)
    return sorted(labels)


def inside_root(path: str, where: str) -> str:
    """Returns the normalized path, which must be relative and stay inside its folder."""
    normal = os.path.normpath(path)
    if os.path.isabs(normal) or normal.split(os.sep)[0] == os.pardir:
        raise ValueError(f"{where}: the path must be relative to root and stay inside it; got {path!r}")
    return normal


def pattern_for(split: str, folder: Path, pattern: str) -> Path:
    """Returns the file of a split by a pattern with "{split}": the one of its name, or of one that means the
    same ("Train", "validation").

    Args:
      split: as the configuration names it.
      folder: the pattern starts here, unless it is absolute or begins with "~".
      pattern: perhaps without "{split}", then one file for all splits.

    Raises:
      ValueError: several files may be meant.
    """
    path = folder / expanded(pattern)
    exact = buckets.as_path(str(path).replace("{split}", split))
    before, placeholder, after = path.name.partition("{split}")
    if not placeholder or exact.exists() or not path.parent.is_dir():
        return exact
    held = [entry.name for entry in entries_of(path.parent)]
    files = [name for name in held if name.startswith(before) and name.endswith(after)]
    names = [name[len(before) : len(name) - len(after)] for name in files]
    found = named_split(split, names, path.parent)
    return exact if found is None else path.parent / f"{before}{found}{after}"


def read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of its first line, cells) for the rows of a CSV file, the header first, without blanks.

    Cells are stripped. The separator is the one of comma, semicolon and tab that the header has most of.
    Quoted cells may hold separators and line ends. UTF-8, or UTF-16 with a byte order mark, as spreadsheets
    write it.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no text of this kind; names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; restore it, or correct config.data")
    with open(path, "rb") as start:
        is_utf16 = start.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    with open(path, encoding=encoding, errors="surrogateescape", newline="") as file:
        header = file.readline(MAX_LINE + 1)
        file.seek(0)
        separator = max(",;\t", key=header.count)
        lines = enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), start=1)
        reader = csv.reader(_sound(path, lines), delimiter=separator, skipinitialspace=True)
        first = 1
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield first, [cell.strip() for cell in cells]
                first = reader.line_num + 1
        except (csv.Error, UnicodeError) as error:
            raise ValueError(f"{path}, line {first}: {error}; is this a table in UTF-8?") from error


def column_of(table: Path, header: Sequence[str], name: str, usual: Sequence[str], what: str) -> int:
    """Returns the position of a column.

    Args:
      table: the file, for the message.
      header: the names of its columns.
      name: of the column; "" for the first of `usual` that is there.
      usual: names without case and separators.
      what: the field of the configuration is called config.data.<what>_column.

    Raises:
      ValueError: there is no such column, or it is there twice.
    """
    if name:
        found = [position for position, own in enumerate(header) if own == name]
    else:
        position = usual_column(header, usual)
        found = [] if position is None else [position]
    if len(found) != 1:
        raise ValueError(
            f"{table}, line 1: which column is the {what}? Set config.data.{what}_column to one of "
            f"{list(header)!r}"
        )
    return found[0]


def usual_column(header: Sequence[str], usual: Sequence[str]) -> int | None:
    """Returns the position of the first of the usual names that a header has, None where it has none."""
    plain = ["".join(filter(str.isalnum, name.lower())) for name in header]
    return next((plain.index(name) for name in usual if name in plain), None)


def _sound(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    for number, text in lines:
        if len(text) > MAX_LINE or "\0" in text:
            raise ValueError(
                f"{path}, line {number}: a NUL or over {MAX_LINE} characters; is this a list in UTF-8?"
            )
        yield text


def _parse_list_line(text: str, where: str) -> tuple[str, int]:
    """Splits a line "path label" into (normalized path inside root, label)."""
    words = text.rsplit(maxsplit=1)
    if len(words) < 2:
        csv_source = "; data.source = 'csv_file' reads tables with commas" if "," in text else ""
        raise ValueError(f"{where}: expected 'path label', got {text!r}; add the label{csv_source}")
    label = words[1]
    short = len(label) < len(str(MAX_CLASSES))  # Python refuses to convert thousands of digits
    if not (short and label.isascii() and label.isdigit()):
        wanted = f"the last word must be the label, an integer in 0..{MAX_CLASSES - 1}"
        names = "" if label[:1] in "0123456789.+-" else "; data.source = 'csv_file' takes classes by name"
        raise ValueError(f"{where}: {wanted}; got {label!r} in {text!r}{names}")
    return inside_root(words[0], where), int(label)


def read_list(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Reads a list file: (N paths, int32 labels [N], int32 line numbers [N])."""
    line_of: dict[str, int] = {}
    labels = []
    for number, text in read_lines(path):
        image, label = _parse_list_line(text, f"{path}, line {number}")
        if image in line_of:
            first = f"line {line_of[image]}"
            raise ValueError(f"{path}, line {number}: {image!r} is listed in {first} too; remove one")
        line_of[image] = number
        labels.append(label)
    if not labels:
        raise ValueError(f"{path} is empty; expected one 'path label' line an image")
    return list(line_of), np.array(labels, np.int32), np.array(list(line_of.values()), np.int32)


def _value(kind: type, word: str) -> Any:
    """Converts a word. Refuses numbers that Python alone reads: 1_000, nan, inf."""
    if kind is str:
        return word
    if not (re.fullmatch(r"[-+.eE0-9]+", word) and abs(kind(word)) < MAX_NUMBER):
        raise ValueError(word)
    return kind(word)


def read_table(path: Path, kinds: Sequence[type], num_keys: int = 1) -> dict[Any, tuple]:
    """Reads lines of len(kinds) words, the last of which may hold spaces.

    Returns:
        {key: remaining values}; the key is the first value, or the tuple of the first `num_keys`.
    """
    table: dict[Any, tuple] = {}
    for number, text in read_lines(path):
        words = text.split(maxsplit=len(kinds) - 1)
        try:
            values = tuple(_value(kind, word) for kind, word in zip(kinds, words, strict=True))
        except ValueError:
            wanted = " ".join(kind.__name__ for kind in kinds)
            with quoted_inside(path.parent, path):
                raise ValueError(
                    f"{path}, line {number}: expected the words '{wanted}', got {text!r}"
                ) from None
        key = values[0] if num_keys == 1 else values[:num_keys]
        if key in table:
            raise ValueError(f"{path}, line {number}: a second line for id {key}; remove one")
        table[key] = values[num_keys:]
    return table


def read_matching(path: Path, kinds: Sequence[type], ids: Collection, ids_file: str = "images.txt") -> dict:
    """Reads a table as `read_table` does and requires that its ids are `ids`, those of `ids_file`."""
    table = read_table(path, kinds, 1 if ids_file == "images.txt" else 2)
    for what, differing in (("lacks", set(ids) - set(table)), ("alone has", set(table) - set(ids))):
        if differing:
            raise ValueError(f"{path} {what} id {min(differing)}, unlike {ids_file}; unpack both again")
    return table
