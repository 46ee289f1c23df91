"""Names of files and classes, which anybody may have chosen, made safe for a terminal and a table."""

from __future__ import annotations

import re
from typing import Any

# Control characters (escape codes, newlines), separators of lines, halves of characters, and the marks that
# change the direction of writing.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_FORMULA = ("=", "+", "-", "@")  # how a spreadsheet tells a formula from a text


def printable(name: Any) -> str:
    r"""Returns a name, a path or a message on one line, without anything that a terminal would act on.

    An unsafe character becomes its escape: a newline `\n`, an escape code `\x1b`, a byte that is not UTF-8
    `\xff`. All other characters stay, whatever their script.
    """
    return _UNSAFE.sub(_escaped, str(name))


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name, as Python keeps it
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def csv_cell(name: Any) -> str:
    """Returns a printable text for a cell of CSV, which a spreadsheet does not take for a formula."""
    text = printable(name)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
