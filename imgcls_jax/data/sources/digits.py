"""scikit-learn's handwritten digits: small enough for tests, nothing to download."""

from __future__ import annotations

import numpy as np

from imgcls_jax.data.source import Arrays, Root, require_choice
from imgcls_jax.data.subsets import stratified_split


class Digits(Arrays):
    """scikit-learn's handwritten digits: 1,797 gray 8x8 images, 10 classes, 20 % of each class in "test".

    Args:
        split: "train" or "test".
        root: not read; scikit-learn carries the images.
    """

    def __init__(self, split: str, *, root: Root | None = None) -> None:
        require_choice("the split of Digits", split, ("train", "test"))
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError("Digits needs scikit-learn: pip install scikit-learn") from error
        digits = load_digits()
        self.rule = (
            f"scikit-learn's digits, {'all but ' if split == 'train' else ''}a fixed fifth of each class"
        )
        indices = stratified_split(digits.target, 0.2, seed=0)[split == "test"]
        images = np.round(digits.images[indices] * (255 / 16)).astype(np.uint8)[..., None]  # 0..16 -> 0..255
        super().__init__(images, digits.target[indices], "0123456789", f"Digits/{split}")


make = Digits
