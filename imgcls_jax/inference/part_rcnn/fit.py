"""Fits a Part R-CNN to a data set with boxes and points of parts, and measures it.

The networks stay as they are. From the training split come the detectors, the priors and the classifier,
which reads the true regions; C is chosen by cross-validation inside it. The test split is only measured on:
its true head and body are read for the row "oracle" and for the shares found, never to choose a region.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from imgcls_jax.data import proposals
from imgcls_jax.data.regions import iou
from imgcls_jax.data.sources.cub200 import Cub200
from imgcls_jax.inference.part_rcnn import detectors, geometry
from imgcls_jax.inference.part_rcnn.detectors import Detector
from imgcls_jax.inference.part_rcnn.examples import Examples, images_of
from imgcls_jax.inference.part_rcnn.find import (
    choose,
    embedded,
    known_root,
    likely_roots,
    look,
    with_embeddings,
)
from imgcls_jax.inference.part_rcnn.model import (
    CHOICES,
    REGIONS,
    Classifier,
    Options,
    PartRCNN,
    described,
    fit_classifier,
)
from imgcls_jax.inference.part_rcnn.trunk import Trunk
from imgcls_jax.runtime.progress import tracked

COSTS = (0.001, 0.01, 0.1, 1.0)  # C of the classifier
FOLDS = 3
CHUNK = 32  # test images at a time
FOUND = 0.5  # overlap from which on a part counts as found

Metrics = dict[str, dict[str, Any]]


def regions_of(source: Cub200) -> np.ndarray:
    """Returns the true root, head and body of every image, float64 [N, 3, 4], in pixels; NaN where hidden."""
    return np.stack([source.region_boxes(name) for name in ("box", *REGIONS[1:])], axis=1)


# The products are small: threads that wait for each other at every one cost many times what they gain.
one_thread = threadpool_limits.wrap(limits=1)


@one_thread
def fit(
    train: Cub200, trunks: Sequence[Trunk], options: Options, *, seed: int, tell: Callable[[str], None]
) -> tuple[PartRCNN, Classifier]:
    """Fits everything to a training split.

    Args:
      train: with boxes and parts.
      trunks: of root, head and body.
      options: of the regions.
      seed: of the boxes that are drawn for the detectors.
      tell: takes a line on what was done.

    Returns:
      The Part R-CNN, and the classifier of the root alone, the baseline.

    Raises:
      ValueError: a part shows in no image, or a class has none.
    """
    true = regions_of(train)
    shown = np.isfinite(true[:, :, 0]).sum(axis=0)
    if shown.min() < 2 or len(np.unique(train.labels)) < len(train.class_names) or len(train.class_names) < 2:
        raise ValueError(
            f"{train.rule}: Part R-CNN needs at least two classes, an image of each, and two images that "
            f"show each of {', '.join(REGIONS)}; these show in {', '.join(map(str, shown))}"
        )
    started = time.monotonic()
    rows = [
        column[0]
        for column in embedded(
            trunks, options.padding, tracked(images_of(train), "embedding", len(train)), true[None]
        )
    ]
    tell(f"regions of {len(train)} images embedded in {time.monotonic() - started:.0f} s")
    classifiers = []
    for name, columns in (("root", rows[:1]), ("root, head and body", rows)):
        features = described(columns)
        cost, share = chosen_cost(features, train.labels)
        classifiers.append(fit_classifier(features, train.labels, cost))
        tell(f"classifier of {name}: C {cost:g}, accuracy inside the training split {share:.3f}")
    started = time.monotonic()
    found = fit_detectors(train, trunks, true, options, np.random.default_rng(seed))
    tell(f"detectors of {', '.join(REGIONS)} fitted in {time.monotonic() - started:.0f} s")
    places = geometry.places(true[:, 1:], true[:, :1])
    priors = [
        geometry.fit_prior(column[np.isfinite(column[:, 0])], geometry.COMPONENTS)
        for column in places.swapaxes(0, 1)
    ]
    return (
        PartRCNN(
            options, train.class_names, tuple(trunks), found, tuple(priors), rows[0], places, classifiers[1]
        ),
        classifiers[0],
    )


def chosen_cost(features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns the C that classifies best by cross-validation, and its accuracy; (1, NaN) where a class has a
    single example."""
    folds = min(FOLDS, int(np.bincount(labels).min()))
    if folds < 2:
        return 1.0, float("nan")
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(features, labels))
    accuracies = [
        np.mean(
            [
                accuracy(fit_classifier(features[fitted], labels[fitted], cost), features[held], labels[held])
                for fitted, held in splits
            ]
        )
        for cost in COSTS
    ]
    best = int(np.argmax(accuracies))
    return COSTS[best], float(accuracies[best])


def accuracy(classifier: Classifier, features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of examples that a classifier gets right."""
    return float(np.mean(classifier.decide(features).argmax(axis=1) == labels))


def fit_detectors(
    train: Cub200, trunks: Sequence[Trunk], true: np.ndarray, options: Options, rng: np.random.Generator
) -> tuple[Detector, ...]:
    """Returns the detectors of root, head and body; arguments as of `fit`, `true` of `regions_of`."""
    examples = Examples(train, trunks, true, proposals.proposer(options.proposals))
    found = []
    for region in tracked(range(len(REGIONS)), "fitting detectors", unit="regions"):
        weight, bias = detectors.fit(functools.partial(examples.of, region), len(train), rng=rng)
        found.append(Detector(weight @ examples.bases[region].T, bias))
    return tuple(found)


@one_thread
def measure(model: PartRCNN, root_alone: Classifier, test: Cub200) -> Metrics:
    """Measures a Part R-CNN on a test split.

    Args:
      model, root_alone: of `fit`.
      test: the split.

    Returns:
      {row: {"num_examples", "accuracy", and "root_found", "head_found", "body_found", the shares of those
      that show whose box overlaps the true one by at least 0.5}}. The rows: "root", the true box of the root
      alone; "oracle", all true boxes; "given_box", "given_mg", "given_np", the root's box given and the parts
      found by the box constraint and by either prior; "found_box", ... the same where the root is looked for,
      too, and "found_root" that root alone.
    """
    true = regions_of(test)
    names = ["oracle", *(f"{root}_{how}" for root in ("given", "found") for how in CHOICES)]
    regions = np.full((len(names), *true.shape), np.nan)
    regions[0] = true
    predicted = np.zeros((len(names), len(test)), int)
    alone = np.zeros((2, len(test)), int)  # of the given root, and of the one found by the box constraint
    found_box = names.index("found_box")
    propose = proposals.proposer(model.options.proposals)
    for start in tracked(range(0, len(test), CHUNK), "testing", len(test), count=lambda start: CHUNK):
        rows = range(start, min(start + CHUNK, len(test)))
        images = list(images_of(test, rows))
        looked = [look(model, image, propose) for image in images]
        given = with_embeddings(model, images, [known_root(true[row, 0]) for row in rows])
        likely = with_embeddings(model, images, [likely_roots(one) for one in looked])
        for number, name in enumerate(names[1:], start=1):
            roots, how = (given if name.startswith("given") else likely), name.split("_")[1]
            regions[number, start : start + len(rows)] = [
                choose(model, one, root, how) for one, root in zip(looked, roots, strict=True)
            ]
        columns = embedded(model.trunks, model.options.padding, iter(images), regions[:, rows])
        for number in range(len(names)):
            margins = model.classifier.decide(described([column[number] for column in columns]))
            predicted[number, rows] = margins.argmax(axis=1)
        for place, number in enumerate((0, found_box)):
            alone[place, rows] = root_alone.decide(described([columns[0][number]])).argmax(axis=1)
    metrics = {"root": _row(test.labels, alone[0], true[:, :1], true[:, :1])}
    for number, name in enumerate(names):
        if number == found_box:
            metrics["found_root"] = _row(test.labels, alone[1], regions[number, :, :1], true[:, :1])
        metrics[name] = _row(test.labels, predicted[number], regions[number], true)
    return metrics


def _row(labels: np.ndarray, predicted: np.ndarray, boxes: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Returns the figures of a row; boxes and true: float [N, regions, 4]."""
    row: dict[str, Any] = {"num_examples": len(labels), "accuracy": float(np.mean(labels == predicted))}
    for region in range(boxes.shape[1]):
        shown = np.flatnonzero(np.isfinite(true[:, region, 0]))
        overlaps = [
            iou(boxes[i, region][None], true[i, region][None])[0, 0]
            if np.isfinite(boxes[i, region, 0])
            else 0.0
            for i in shown
        ]
        share = float(np.mean(np.array(overlaps) >= FOUND)) if len(shown) else None
        row[f"{REGIONS[region]}_found"] = share
    return row
