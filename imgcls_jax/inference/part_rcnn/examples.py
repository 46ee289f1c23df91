"""What the detectors learn from: the proposals and the feature maps of the training images, made once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from imgcls_jax.data import proposals
from imgcls_jax.data.decoding import decode
from imgcls_jax.data.sources.cub200 import Cub200
from imgcls_jax.inference.part_rcnn.find import proposed
from imgcls_jax.inference.part_rcnn.trunk import Trunk, distinct
from imgcls_jax.runtime.progress import tracked

CHANNELS = 96  # of a map that is kept: its principal components
BASIS_IMAGES = 64  # from which they are computed


class Example(NamedTuple):
    """An image as one region's detector sees it.

    Attributes:
      feature_map: float16 [h, w, C], the network's map in its principal components.
      boxes: float64 [P, 4], proposals in positions of the map.
      true: float64 [4], the region's box there; None where it does not show.
    """

    feature_map: np.ndarray
    boxes: np.ndarray
    true: np.ndarray | None


class Examples:
    """The training images, as the detectors see them.

    Attributes:
      bases: of each region's network, float32 [D, C]: a map times its basis is the map that is kept.

    Args:
      train: with boxes and parts.
      trunks: of root, head and body.
      true: float64 [N, regions, 4], the true boxes in pixels; NaN where a region does not show.
      propose: of proposals.proposer.
    """

    def __init__(
        self, train: Cub200, trunks: Sequence[Trunk], true: np.ndarray, propose: proposals.Propose
    ) -> None:
        self._true, kept = true, distinct(trunks)
        few = np.unique(np.linspace(0, len(train) - 1, BASIS_IMAGES).astype(int)).tolist()
        bases = [
            principal(trunk.feature_map(image)[0] for image in images_of(train, few)) for trunk in kept[0]
        ]
        self.bases = [bases[position] for position in kept[1]]
        self._boxes: list[np.ndarray] = []
        self._maps: list[list[tuple[np.ndarray, float]]] = []
        for image in tracked(images_of(train), "maps", len(train)):
            self._boxes.append(proposed(image, propose))
            found = [trunk.feature_map(image) for trunk in kept[0]]
            small = [
                ((seen @ basis).astype(np.float16), scale)
                for (seen, scale), basis in zip(found, bases, strict=True)
            ]
            self._maps.append([small[position] for position in kept[1]])

    def of(self, region: int) -> Iterator[Example]:
        """Yields all images as the detector of a region sees them."""
        for boxes, maps, true in zip(self._boxes, self._maps, self._true[:, region], strict=True):
            feature_map, scale = maps[region]
            yield Example(feature_map, boxes * scale, true * scale if np.isfinite(true).all() else None)


def principal(maps: Iterator[np.ndarray]) -> np.ndarray:
    """Returns the directions in which maps, float [h, w, D] each, are largest, float32 [D, C], orthonormal.

    They are those of the second moment, without a mean taken away, so that a linear detector needs no other
    bias. C is CHANNELS, or D where that is less.
    """
    moment = sum(
        rows.T @ rows for rows in (one.reshape(-1, one.shape[-1]).astype(np.float64) for one in maps)
    )
    return np.linalg.eigh(np.asarray(moment))[1][:, ::-1][:, :CHANNELS].astype(np.float32)


def images_of(source: Cub200, rows: Sequence[int] | None = None) -> Iterator[Image.Image]:
    """Yields the images of a source, decoded; of all rows, or of some.

    Raises:
      ValueError: one cannot be decoded; names it.
    """
    for row in range(len(source)) if rows is None else rows:
        try:
            yield decode(source[row]["image"])
        except ValueError as error:
            raise ValueError(f"{source.describe(row)}: {error}") from error
