"""The data side of a run that is only planned: shapes without reading more than one example, or none.

Where the data are absent a source of black images stands in for them, as large as the data set's, or photos
where the transforms set the size.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from imgcls_jax.config.settings import DataSettings
from imgcls_jax.data import transforms
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.data.folders import expanded
from imgcls_jax.data.signatures import read_rows

IMAGE_SHAPES = {
    "digits": (8, 8, 1),
    "cifar10": (32, 32, 3),
    "cifar100": (32, 32, 3),
    "mnist": (28, 28, 1),
    "fashion_mnist": (28, 28, 1),
}
PHOTO_SHAPES = ((256, 320, 3), (320, 256, 3))


class StandIn:
    """A source of black images, in the place of data that are not here.

    Args:
      num_examples, num_classes: N and K, at least 1; classes are equally large, to within one example.
      image_shape: (H, W, C).
      multi_label: whether a label is of 0 and 1, [K].
      caption: tokens of the one caption that an image has; 0 for no caption.
    """

    def __init__(
        self,
        num_examples: int,
        num_classes: int,
        image_shape: tuple[int, int, int],
        multi_label: bool,
        caption: int = 0,
    ):
        self._fields = {"text": np.zeros((1, caption), np.int32)} if caption else {}
        self.class_names = tuple(str(label) for label in range(num_classes))
        self.labels = np.arange(num_examples, dtype=np.int32) % num_classes
        if multi_label:
            self.labels = np.broadcast_to(np.int32(0), (num_examples, num_classes))
        self.image_shape = image_shape

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": np.zeros(self.image_shape, np.uint8), "label": self.labels[index], **self._fields}

    def describe(self, index: int) -> str:
        return f"stand-in[{index}]"


class PlannedData(DataSide):
    """The data side of a run that is only planned: a batch repeats one example.

    Args:
      settings: of the section.
      stand_in: (N, K) of data that are not here; None to open the data.

    Raises:
      ValueError: as for DataSide; or the images' size is that of the data.
    """

    def __init__(self, settings: DataSettings, stand_in: tuple[int, int] | None):
        super().__init__(settings)
        self._stand_in = None
        if stand_in is not None:
            multi_label = self.settings.source == "label_table"
            caption = settings.fields["context_length"] if settings.fields.get("vocabulary") else 0
            self._stand_in = StandIn(*stand_in, self._image_shape(), multi_label, caption)
            if settings.signatures and settings.known_classes:  # the other classes have no example
                known = settings.known_classes
                learned = known if isinstance(known, int) else stand_in[1] - 1
                self._stand_in.labels = np.arange(stand_in[0], dtype=np.int32) % learned

    def _image_shape(self) -> tuple[int, int, int]:
        if self.settings.source in IMAGE_SHAPES:
            return IMAGE_SHAPES[self.settings.source]
        rng = np.random.default_rng(0)
        made = {
            transforms.apply(self.train_host, np.zeros(shape, np.uint8), rng).shape for shape in PHOTO_SHAPES
        }
        if len(made) > 1:
            raise ValueError(
                "config.data.train_transforms leaves images as large as they are, and only the data tell how "
                "large: set config.data.root to them and leave out --num_examples"
            )
        return PHOTO_SHAPES[0]

    def source(self, split: str) -> Any:
        """Returns the split's source, or what stands in for it, whose classes are all known."""
        if self._stand_in is None:
            return super().source(split)
        return self._of_folds(split) if self._is_folded(split) else self._stand_in

    def read(self, split: str) -> Any:
        """Returns a split of the source, all of it, or what stands in for it."""
        return super().read(split) if self._stand_in is None else self._stand_in

    @functools.cached_property
    def signatures(self) -> np.ndarray | None:
        """The classes' signatures, float64 [C, a]; of classes that stand in any rows of the file."""
        if self._stand_in is None or not self.settings.signatures:
            return super().signatures
        _, rows = read_rows(expanded(self.settings.signatures))
        return rows[np.arange(len(self._stand_in.class_names)) % len(rows)]

    def train_batches(self, batch_size: int, seed: int, order: Any = None, *, images: bool = True) -> Any:
        """Returns the batches, all of them the first example."""
        del images
        batches = super().train_batches(batch_size, seed, order)
        least = max(self.settings.augmentation_repeats, self.settings.images_per_class)
        return RepeatedExample(batches.steps_per_epoch, super().train_batches(least, seed)[0], batch_size)


class RepeatedExample:
    """Batches of one example again and again.

    Args:
      steps_per_epoch: of the run.
      example: a batch, of which the first row is taken; labeled examples beside it stay as they are.
      batch_size: of the run.
    """

    def __init__(self, steps_per_epoch: int, example: dict[str, Any], batch_size: int):
        self.steps_per_epoch, self._example, self._rows = steps_per_epoch, example, batch_size

    def __getitem__(self, step: int) -> dict[str, Any]:
        def repeat(rows: np.ndarray) -> np.ndarray:
            return np.broadcast_to(rows[:1], (self._rows, *rows.shape[1:]))

        apart = ("labeled", "bad_examples")
        return {
            key: value if key in apart else jax.tree.map(repeat, value)
            for key, value in self._example.items()
        }
