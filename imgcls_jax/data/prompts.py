"""Sentences about classes, from which CLIP's text tower makes a classifier.

Radford et al., arXiv:2103.00020 (2021), section 3.1.4. A template holds "{}" in the place of a class.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from imgcls_jax.data.lists import read_lines

# By name: the plain one, and the seven of OpenAI's notebook Prompt_Engineering_for_ImageNet, which it finds
# slightly better than its whole list of 80.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("a photo of a {}.",),
    "seven": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}


def read_templates(templates: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """Returns templates by what a configuration or a command line says of them.

    Args:
      templates: a name of TEMPLATES, one template, several, or a text file with one a line.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: one of them has not exactly one "{}".
    """
    if not isinstance(templates, (str, os.PathLike)):
        found = tuple(templates)
    elif str(templates) in TEMPLATES:
        return TEMPLATES[str(templates)]
    elif "{}" in str(templates):
        found = (str(templates),)
    else:
        path = Path(templates).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: neither a file of templates, one a line, nor one of {', '.join(TEMPLATES)}"
            )
        lines = list(read_lines(path))
        found = tuple(text for _, text in lines)
        # Not quoted: the workdir of a stranger may name any file.
        where = next((f"{path}, line {number}: " for number, text in lines if text.count("{}") != 1), "")
        if where or not found:
            raise ValueError(
                f"{where or f'{path}: '}expected a sentence with one '{{}}', where the class stands"
            )
    wrong = [template for template in found if template.count("{}") != 1]
    if wrong or not found:
        raise ValueError(
            f"a template is a sentence with one '{{}}', where the class stands; got {(wrong or [''])[0]!r}"
        )
    return found


def prompts(classes: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Returns the sentences of each class, K lists of T. Args: K classes' words; T templates."""
    return [[template.replace("{}", words) for template in templates] for words in classes]


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Reads a text file of classes, one a line: its name, and after a tab the words that stand for it in a
    sentence, where they are others.

    Returns:
      (K names, K words).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is empty, or two classes have one name.
    """
    lines = [text.split("\t", 1) for _, text in read_lines(path)]
    names = tuple(line[0].strip() for line in lines)
    if not names:
        raise ValueError(f"{path}: expected one class a line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: two classes are named {twice!r}; give each a name of its own")
    return names, tuple(line[-1].strip() for line in lines)
