"""The captions of a data set's images, as the token ids that the text towers of CLIP and SigLIP read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imgcls_jax.data.clip_tokens import ClipTokenizer
from imgcls_jax.data.siglip_tokens import SiglipTokenizer, is_of_siglip


class Captions:
    """Captions by image; a text becomes tokens when it is asked for.

    Args:
      texts: the captions of each image, at least one.
      vocabulary, context_length: of data/clip_tokens.py, or of data/siglip_tokens.py where the vocabulary is
        SigLIP's.

    Raises:
      ValueError, FileNotFoundError: no such vocabulary.
    """

    def __init__(self, texts: Sequence[Sequence[str]], vocabulary: str, context_length: int) -> None:
        self.texts = texts
        self.most = max(map(len, texts), default=0)
        tokenizer = SiglipTokenizer if is_of_siglip(vocabulary) else ClipTokenizer
        self._tokenizer = tokenizer(vocabulary, context_length)

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns the rows of an image, int32 [n, L], n the most that an image has: its captions, those that
        are too long cut, then rows of zeros."""
        rows = np.zeros((self.most, self._tokenizer.context_length), np.int32)
        own = self._tokenizer(self.texts[index], truncate=True)
        rows[: len(own)] = own
        return rows
