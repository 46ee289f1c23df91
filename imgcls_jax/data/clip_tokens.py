"""CLIP's tokenizer: texts to rows of token ids, by the package tokenizers.

Radford et al., arXiv:2103.00020 (2021); byte-pair encoding by Sennrich et al., arXiv:1508.07909 (2015). A row
is the start token, the text's own, the end token, and zeros. The end token has the largest id, by which the
text tower finds it.

A text is cleaned as in OpenAI's release: HTML entities are resolved twice, white space is collapsed, letters
become lowercase. Difference: the release first runs the package ftfy, of which this file does the Unicode
normal form NFC alone. Texts with ligatures, curly quotes or wrongly decoded letters come out otherwise; call
ftfy.fix_text on such texts before.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
import json
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT_LENGTH = 77  # tokens of a row, of OpenAI's towers
MERGES = 49152 - 256 - 2  # of the file's lines that the release reads, after the first
VOCABULARY_FILES = ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt")
PACKAGES = ("open_clip", "clip")  # that bring the file along
MAX_BYTES = 2**26  # of a vocabulary; CLIP's largest form has 3.6 MB
# A special token, an English ending, a run of letters, one digit, or a run of other characters.
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """Texts to token ids.

    Args:
      vocabulary: a file bpe_simple_vocab_16e6.txt or .txt.gz, as the packages open_clip and clip hold it; a
        folder that holds one, or Hugging Face's tokenizer.json, or its vocab.json and merges.txt; or the name
        of one of those two packages, which is looked into and not imported.
      context_length: L, tokens of a row, at least 3.

    Attributes:
      vocab_size: of the vocabulary; the end token has the id vocab_size - 1.
      context_length: L.

    Raises:
      FileNotFoundError: there is no such file, folder or package.
      ValueError: it is no vocabulary of CLIP, or the package tokenizers is missing.
    """

    def __init__(self, vocabulary: str | os.PathLike[str], context_length: int = CONTEXT_LENGTH) -> None:
        if context_length < 3:
            raise ValueError(f"context_length is at least 3, for start, text and end; got {context_length}")
        path = find_vocabulary(vocabulary)
        self.context_length = context_length
        self._tokenizer = _read(path)
        self.vocab_size = self._tokenizer.get_vocab_size()
        start, end = (self._tokenizer.token_to_id(token) for token in (START, END))
        if start is None or end != self.vocab_size - 1:
            raise ValueError(
                f"{path}: no vocabulary of CLIP: it needs {START}, and {END} with the largest id, "
                f"{self.vocab_size - 1}; got {start} and {end}"
            )
        self._start, self._end = start, end

    def ids(self, text: str) -> list[int]:
        """Returns the ids of a text's tokens, without start and end."""
        return self._tokenizer.encode(cleaned(text), add_special_tokens=False).ids

    def __call__(self, texts: Sequence[str], *, truncate: bool) -> np.ndarray:
        """Returns the rows of some texts.

        Args:
          texts: n texts.
          truncate: whether a text that is too long is cut, the end token last.

        Returns:
          int32 [n, L].

        Raises:
          ValueError: without truncate, a text is too long.
        """
        rows = np.zeros((len(texts), self.context_length), np.int32)
        for row, text in zip(rows, texts, strict=True):
            room = self.context_length - 2
            ids = [self._start, *within(room, self.ids(text), text, truncate=truncate), self._end]
            row[: len(ids)] = ids
        return rows


def within(room: int, ids: list[int], text: str, *, truncate: bool) -> list[int]:
    """Returns the first `room` ids of a text.

    Raises:
      ValueError: without truncate, there are more.
    """
    if len(ids) > room and not truncate:
        raise ValueError(f"a text has at most {room} tokens; {text[:60]!r}... has {len(ids)}")
    return ids[:room]


def cleaned(text: str) -> str:
    """Returns a text as it is encoded; bytes that were no UTF-8 become the replacement character."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = html.unescape(html.unescape(unicodedata.normalize("NFC", text)))
    return " ".join(text.split()).lower()


def find_vocabulary(vocabulary: str | os.PathLike[str]) -> Path:
    """Returns the file of a vocabulary: of tokenizers' own kind, the merges of the release, or a vocab.json
    whose merges.txt lies beside it.

    Raises:
      FileNotFoundError: there is none.
    """
    path = Path(vocabulary).expanduser()
    if str(vocabulary) in PACKAGES and not path.exists():
        spec = importlib.util.find_spec(str(vocabulary))
        if spec is None or spec.origin is None:
            raise FileNotFoundError(
                f"the package {vocabulary} is not installed here: install it, or name the file "
                f"{VOCABULARY_FILES[0]}"
            )
        path = Path(spec.origin).parent
    if path.is_file():
        return path
    names = (*VOCABULARY_FILES, "tokenizer.json", "vocab.json")
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{vocabulary}: no vocabulary of CLIP is there: name {VOCABULARY_FILES[0]}, or a folder that "
            "holds it, tokenizer.json, or vocab.json and merges.txt"
        )
    return found


def _package() -> Any:
    try:
        import tokenizers  # here, so that this package works without it
    except ImportError as error:
        raise ValueError(
            "captions are encoded by the package tokenizers, which is missing: pip install 'imgcls_jax[clip]'"
        ) from error
    return tokenizers


def read_tokenizers_file(path: Path) -> Any:
    """Returns the tokenizers.Tokenizer of a file that this package wrote, as tokenizer.json.

    Raises:
      ValueError: it is another file, too large, or the package is missing.
    """
    package, text = _package(), _text(path)
    try:
        return package.Tokenizer.from_str(text)
    except Exception as error:  # the package raises this class itself
        raise ValueError(f"{path}: not a file of the package tokenizers: {error}") from error


def _read(path: Path) -> Any:
    """Returns the tokenizers.Tokenizer of a file of `find_vocabulary`."""
    tokenizers = _package()
    if path.suffix == ".json":
        if path.name != "vocab.json":
            return read_tokenizers_file(path)
        vocabulary = _ids(path, _text(path))
        lines = _text(path.with_name("merges.txt")).splitlines()
        merges = _merges(path.with_name("merges.txt"), lines, len(lines))
    else:
        merges = _merges(path, _text(path).splitlines(), 1 + MERGES)
        letters = _byte_letters()
        symbols = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
        vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    try:
        model = tokenizers.models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END)
    except Exception as error:
        raise ValueError(f"{path}: no vocabulary of byte pairs: {error}") from error
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(PIECES), "removed", invert=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([token for token in (START, END) if token in vocabulary])
    return tokenizer


def _text(path: Path) -> str:
    """Returns what a file of at most MAX_BYTES holds, unpacked where it ends in .gz."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"over {MAX_BYTES / 2**20:.0f} MiB")
        return content.decode("utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; it belongs beside vocab.json") from None
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: no vocabulary of CLIP: {error}") from error


def _merges(path: Path, lines: Sequence[str], stop: int) -> list[tuple[str, str]]:
    """Returns the pairs of symbols of lines[1:stop]; the first line is a header."""
    merges = []
    for number, line in enumerate(lines[1:stop], start=2):
        pair = line.split()
        if len(pair) != 2:
            raise ValueError(f"{path}, line {number}: expected two symbols to merge")
        merges.append((pair[0], pair[1]))
    if not merges:
        raise ValueError(f"{path}: no vocabulary of CLIP: it holds no pairs under a first line")
    return merges


def _ids(path: Path, text: str) -> dict[str, int]:
    """Returns {symbol: id} of a vocab.json."""
    try:
        vocabulary = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    if not isinstance(vocabulary, dict) or not all(type(n) is int and n >= 0 for n in vocabulary.values()):
        raise ValueError(f"{path}: expected an object of symbols and ids")
    return vocabulary


def _byte_letters() -> list[str]:
    """Returns the letters that stand for the 256 bytes, in the order of their ids.

    Bytes that print stand for themselves and come first; the others follow as letters from U+0100 on.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # of Latin-1
    others = 256 - len(printing)
    return [chr(code) for code in (*printing, *range(256, 256 + others))]
