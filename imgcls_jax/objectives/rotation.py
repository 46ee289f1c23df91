"""Labels for free: by how much was an image turned, is it mirrored, or both.

Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", arXiv:1803.07728 (2018).
Every image of a batch is seen under each of the transformations, 4 quarter turns, 2 mirrorings, or the 8 of
both (the symmetries of the square), and a linear head tells them apart. Turns are exact: nothing is
interpolated, whose borders would betray the angle. BatchNorm sees all the transformed images together, as
the authors' does. Images that look the same when turned (a 0, a 1, an 8; a 6 that becomes a 9) bound the
accuracy.

params, objective_state: those of contracts/classifier.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.contracts.classifier import Classifier, make_classifier
from imgcls_jax.contracts.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    require_one_of,
)
from imgcls_jax.losses import softmax_cross_entropy, zero_one

NUM_TRANSFORMATIONS = {"rotate": 4, "flip": 2, "both": 8}


def make(backbone: Any, task: Task, *, transformations: str = "rotate") -> Objective:
    """Returns the objective; predict gives the backbone's embedding.

    Args:
      backbone: module of models/.
      task: image_shape is read.
      transformations: "rotate", "flip" or "both".

    Raises:
      ValueError: unknown transformations, or turns of images that are not square.
    """
    require_one_of(tuple(NUM_TRANSFORMATIONS), transformations=transformations)
    height, width, _ = task.image_shape
    if transformations != "flip" and height != width:
        raise ValueError(
            f"objective.transformations = {transformations!r} turns images, which must be square; they come "
            f"as {height} x {width}: end data.train_transforms in a square crop"
        )
    classifier = make_classifier(backbone, NUM_TRANSFORMATIONS[transformations], head="linear")
    learner = _Rotation(classifier, transformations)
    return Objective(
        batch_keys=("image",),
        init=lambda rng, batch: classifier.init(rng, batch["image"]),
        loss=learner.loss,
        predict=learner.predict,
    )


def transformed(images: jax.Array, transformations: str) -> tuple[jax.Array, jax.Array]:
    """Returns every image under every transformation.

    Args:
      images: float [B, H, W, C], square for turns.
      transformations: as `make` has it.

    Returns:
      images [B T, H, W, C], those of one image in a row, and labels int32 [B T]: label k is k quarter turns
      counter-clockwise, k + 4 the same of the mirrored image; of "flip" alone, 1 is the mirrored image.
    """
    seeds = [images] if transformations == "rotate" else [images, images[:, :, ::-1]]
    turns = range(1 if transformations == "flip" else 4)
    seen = [jnp.rot90(seed, turn, axes=(1, 2)) for seed in seeds for turn in turns]
    labels = jnp.tile(jnp.arange(len(seen), dtype=jnp.int32), len(images))
    # Side by side, so that a batch split over devices stays where it is.
    return jnp.stack(seen, axis=1).reshape(-1, *images.shape[1:]), labels


@dataclasses.dataclass(frozen=True, eq=False)
class _Rotation:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    classifier: Classifier
    transformations: str

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        images, labels = transformed(batch["image"], self.transformations)
        logits, batch_stats = self.classifier.train_logits(params, objective_state, images, rng)
        metrics = {"accuracy": 1 - jnp.mean(zero_one(logits, labels))}
        value = jnp.mean(softmax_cross_entropy(logits, labels))
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        features, _ = self.classifier.features(params, objective_state, batch["image"], train=False)
        return {"embedding": features.embedding}
