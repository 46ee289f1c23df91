"""SigLIP's tokenizer: texts to rows of token ids, by the package tokenizers.

Zhai et al., arXiv 2303.15343 (2023); SentencePiece by Kudo and Richardson, arXiv 1808.06226 (2018). A row is
the text's tokens and end tokens up to its length. All of a row is read by the text tower, these ends too.

A text is cleaned as in big_vision: letters become lowercase, ASCII punctuation goes, white space is
collapsed. Difference: "_" goes too, where big_vision makes it a space; Hugging Face's does as this one.
"""

from __future__ import annotations

import os
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgcls_jax.data.clip_tokens import read_tokenizers_file, within

END = "</s>"
CONTEXT_LENGTH = 64  # tokens of a row, of the released towers
FILE = "tokenizer.json"
PUNCTUATION = str.maketrans("", "", string.punctuation)


class SiglipTokenizer:
    """Texts to token ids.

    Args:
      vocabulary: Hugging Face's tokenizer.json of a SigLIP, or a folder that holds it.
      context_length: L, tokens of a row, at least 3.

    Attributes:
      vocab_size: of the vocabulary.
      context_length: L.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no vocabulary of SigLIP, or the package tokenizers is missing.
    """

    def __init__(self, vocabulary: str | os.PathLike[str], context_length: int = CONTEXT_LENGTH) -> None:
        if context_length < 3:
            raise ValueError(f"context_length is at least 3; got {context_length}")
        path = vocabulary_file(vocabulary)
        self.context_length = context_length
        self._tokenizer = read_tokenizers_file(path)
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=False)
        end = self._tokenizer.token_to_id(END)
        if not _is_unigram(self._tokenizer) or end is None:
            raise ValueError(
                f"{path}: no vocabulary of SigLIP: it needs SentencePiece's Unigram model and {END}"
            )
        self._end = end

    def ids(self, text: str) -> list[int]:
        """Returns the ids of a text's tokens, without ends."""
        return self._tokenizer.encode(cleaned(text), add_special_tokens=False).ids

    def __call__(self, texts: Sequence[str], *, truncate: bool) -> np.ndarray:
        """Returns the rows of some texts.

        Args:
          texts: n texts.
          truncate: whether a text that is too long is cut, an end token last.

        Returns:
          int32 [n, L].

        Raises:
          ValueError: without truncate, a text is too long.
        """
        rows = np.full((len(texts), self.context_length), self._end, np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = within(self.context_length - 1, self.ids(text), text, truncate=truncate)
            row[: len(ids)] = ids
        return rows


def cleaned(text: str) -> str:
    """Returns a text as it is encoded; bytes that were no UTF-8 become the replacement character."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join(text.lower().translate(PUNCTUATION).split())


def is_of_siglip(vocabulary: str | os.PathLike[str]) -> bool:
    """Whether a vocabulary is SigLIP's, by the model that its tokenizer.json names; CLIP's names another.

    Raises:
      ValueError: that file cannot be read, or the package tokenizers is missing.
    """
    try:
        return _is_unigram(read_tokenizers_file(vocabulary_file(vocabulary)))
    except FileNotFoundError:
        return False


def _is_unigram(tokenizer: Any) -> bool:
    return type(tokenizer.model).__name__ == "Unigram"


def vocabulary_file(vocabulary: str | os.PathLike[str]) -> Path:
    """Returns the tokenizer.json that a file's or a folder's path names.

    Raises:
      FileNotFoundError: there is none.
    """
    path = Path(vocabulary).expanduser()
    path = path / FILE if path.is_dir() else path
    if not path.is_file() or path.suffix != ".json" or path.name == "vocab.json":
        raise FileNotFoundError(
            f"{vocabulary}: no vocabulary of SigLIP is there: name its {FILE}, or the folder that holds it; "
            "SentencePiece's own spiece.model is not read"
        )
    return path
