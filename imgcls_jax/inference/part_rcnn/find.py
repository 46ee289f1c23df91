"""The regions of images, as a fitted Part R-CNN finds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from imgcls_jax.data import proposals
from imgcls_jax.data.regions import grow_and_crop, suppressed, within
from imgcls_jax.inference.part_rcnn import detectors, geometry
from imgcls_jax.inference.part_rcnn.geometry import Prior
from imgcls_jax.inference.part_rcnn.model import PartRCNN
from imgcls_jax.inference.part_rcnn.trunk import BATCH, Trunk, distinct

ROOTS, SAME_ROOT = 10, 0.7  # roots looked into, and the overlap above which two of them are one


class Looked(NamedTuple):
    """The proposals of an image and what the detectors say of them.

    Attributes:
      width: of the image, in pixels.
      boxes: float64 [P, 4], in pixels.
      scores: float64 [P, 3], log d of root, head and body.
    """

    width: int
    boxes: np.ndarray
    scores: np.ndarray


class Roots(NamedTuple):
    """The boxes that may be the root.

    Attributes:
      boxes: float64 [R, 4].
      scores: float64 [R], log d; 0 where the root is known.
      embeddings: float32 [R, D], for the prior "np"; None for the others.
    """

    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray | None = None


def look(model: PartRCNN, image: Image.Image, propose: proposals.Propose) -> Looked:
    """Returns the proposals of an image, RGB, with their scores; propose: of `proposals.proposer`."""
    boxes = proposed(image, propose)
    margins = [
        detectors.scores(detector, feature_map, boxes * scale)
        for detector, (feature_map, scale) in zip(model.detectors, maps_of(image, model.trunks), strict=True)
    ]
    return Looked(image.width, boxes, np.stack([detectors.log_probability(m) for m in margins], axis=1))


def likely_roots(looked: Looked) -> Roots:
    """Returns the best proposals of the root, no two of them alike."""
    kept = suppressed(looked.boxes, looked.scores[:, 0], SAME_ROOT, most=ROOTS)
    return Roots(looked.boxes[kept], looked.scores[kept, 0])


def known_root(box: np.ndarray) -> Roots:
    """Returns a root whose box, float [4], is given."""
    return Roots(np.asarray(box, np.float64)[None], np.zeros(1))


def with_embeddings(model: PartRCNN, images: Sequence[Image.Image], roots: Sequence[Roots]) -> list[Roots]:
    """Returns the roots of each image with their embeddings."""
    crops = (
        crop_of(image, box, model.trunks[0], model.options.padding)
        for image, found in zip(images, roots, strict=True)
        for box in found.boxes
    )
    rows = np.stack(list(model.trunks[0].embeddings(crops)))
    ends = np.cumsum([len(found.boxes) for found in roots])[:-1]
    return [found._replace(embeddings=part) for found, part in zip(roots, np.split(rows, ends), strict=True)]


def choose(model: PartRCNN, looked: Looked, roots: Roots, how: str) -> np.ndarray:
    """Returns the regions of an image, float64 [3, 4], in pixels; NaN where a part was not found.

    Args:
      model: fitted.
      looked: of `look`.
      roots: among which to choose; for "np" with embeddings.
      how: "box", the constraint that parts lie in the root; "mg" and "np", a prior of their places besides.
    """
    slack = model.options.slack * looked.width / proposals.WIDTH
    inside = np.flatnonzero(within(looked.boxes, roots.boxes, slack).any(axis=1))
    inside = inside if len(inside) else np.arange(1)  # one that does not pass
    boxes, scores = looked.boxes[inside], looked.scores[inside, 1:]
    log_priors = None
    if how != "box" and model.options.alpha:
        places = geometry.places(boxes[None], roots.boxes[:, None])  # [R, P, 4]
        found = []
        for row, seen in enumerate(places):
            priors = model.priors
            if how == "np" and roots.embeddings is not None:
                priors = nearest_priors(model, roots.embeddings[row])
            found.append(np.stack([geometry.log_density(prior, seen) for prior in priors], axis=-1))
        log_priors = np.stack(found)  # [R, P, 2]
    choice = geometry.choose(
        boxes, scores, roots.boxes, roots.scores, slack=slack, log_priors=log_priors,
        alpha=model.options.alpha,
    )  # fmt: skip
    parts = [np.full(4, np.nan) if row < 0 else boxes[row] for row in choice.parts]
    return np.stack([roots.boxes[choice.root], *parts])


def nearest_priors(model: PartRCNN, embedding: np.ndarray) -> tuple[Prior, ...]:
    """Returns the priors of the parts over the training images nearest to a root's embedding, float [D]."""
    order = np.argsort(((model.neighbours - embedding) ** 2).sum(axis=1), kind="stable")
    found = []
    for part in range(len(model.priors)):
        places = model.places[order, part]
        places = places[np.isfinite(places[:, 0])][: model.options.neighbours]
        found.append(geometry.fit_prior(places, 2))
    return tuple(found)


def proposed(image: Image.Image, propose: proposals.Propose) -> np.ndarray:
    """Returns the proposals of an image in its own pixels, float64 [P, 4]."""
    frame = proposals.scaled(image)
    ratio = np.divide(image.size, frame.size)  # of either axis: sides are whole pixels
    return propose(np.asarray(frame)) * np.tile(ratio, 2)


def maps_of(image: Image.Image, trunks: Sequence[Trunk]) -> list[tuple[np.ndarray, float]]:
    """Returns each region's feature map with its scale; a network that several share runs once."""
    kept, positions = distinct(trunks)
    maps = [trunk.feature_map(image) for trunk in kept]
    return [maps[position] for position in positions]


def crop_of(image: Image.Image, box: np.ndarray, trunk: Trunk, padding: int) -> np.ndarray:
    """Returns the crop of a box for a network, uint8 [size, size, 3]."""
    share = round(padding * trunk.size / 227)
    return grow_and_crop(image, box, size=trunk.size, padding=share, fill=trunk.fill)


def embedded(
    trunks: Sequence[Trunk], padding: int, images: Iterator[Image.Image], boxes: np.ndarray
) -> list[np.ndarray]:
    """Returns the embedding of every region, [float32 [M, N, D] of root, of head, of body].

    Args:
      trunks: of the three regions.
      padding: of the crops.
      images: N, RGB.
      boxes: float [M, N, 3, 4], M choices of the regions in pixels; a box with NaN gives a row of zeros. The
        same box of several choices is embedded once.
    """
    crops: list[list[np.ndarray]] = [[] for _ in trunks]
    rows = np.full(boxes.shape[:3], -1)
    found: list[list[np.ndarray]] = [[] for _ in trunks]

    def embed(region: int, count: int) -> None:
        found[region] += trunks[region].embeddings(crops[region][:count])
        del crops[region][:count]

    for number, image in enumerate(images):
        for region, trunk in enumerate(trunks):
            known: dict[bytes, int] = {}
            for choice, box in enumerate(boxes[:, number, region]):
                if not np.isfinite(box).all():
                    continue
                key = box.tobytes()
                if key not in known:
                    known[key] = len(found[region]) + len(crops[region])
                    crops[region].append(crop_of(image, box, trunk, padding))
                rows[choice, number, region] = known[key]
            embed(region, len(crops[region]) // BATCH * BATCH)
    columns = []
    for region, trunk in enumerate(trunks):
        embed(region, len(crops[region]))
        nothing = np.zeros(trunk.embedding_size, np.float32)  # the last row, which -1 names
        columns.append(np.stack([*found[region], nothing])[rows[:, :, region]])
    return columns
