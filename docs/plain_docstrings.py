"""Makes Markdown of docstrings that are plain text, for the API pages."""

from __future__ import annotations

import itertools
import re
import textwrap
from typing import Any

import griffe

COMMAND = re.compile(r"(python|pip) ")
CODE = re.compile(r"(`[^`]*`)")


def escaped(line: str) -> str:
    """Returns a line whose <names> and ][ Markdown shows as they are; `code` needs no help."""
    parts = CODE.split(line)
    parts[::2] = [re.sub(r"<(?=[A-Za-z/])", "&lt;", part).replace("][", "]&#91;") for part in parts[::2]]
    return "".join(parts)


def markdown(text: str) -> str:
    """Returns a module's docstring with its indented lines as code blocks."""
    blocks = []
    for indented, lines in itertools.groupby(text.splitlines(), lambda line: line[:1] == " "):
        block = "\n".join(lines)
        if indented:
            block = textwrap.dedent(block)
            block = f"\n```{'sh' if COMMAND.match(block) else 'text'}\n{block}\n```\n"
        else:
            block = "\n".join(map(escaped, block.splitlines()))
        blocks.append(block)
    return "\n".join(blocks)


class PlainDocstrings(griffe.Extension):
    """Changes each docstring once its object is loaded."""

    def on_instance(self, *, obj: griffe.Object, **options: Any) -> None:
        if obj.docstring is None:
            return
        text = obj.docstring.value
        obj.docstring.value = markdown(text) if obj.is_module else escaped(text)
